"""Starting, pausing and stopping attempts: what the plans in the book ask for at a moment."""

from __future__ import annotations

from eco_ray.core.actions import Action, AskToCheckpoint, StartAttempt, StopAttempt
from eco_ray.core.attempts import with_attempt
from eco_ray.core.book import Book
from eco_ray.core.cluster import Node
from eco_ray.core.explain import without_signal
from eco_ray.core.jobs import Attempt, AttemptState, Job, Plan, Reason, Segment
from eco_ray.core.line import Line, urgency
from eco_ray.core.records import changed
from eco_ray.core.task import INSTANT_S


class Moves:
    """Each method writes down what it decides, and returns the actions for it."""

    def __init__(self, book: Book, line: Line, pause_timeout_s: float) -> None:
        self._book = book
        self._line = line
        #: how long an attempt may take to write its checkpoint and leave [s]
        self._pause_timeout_s = pause_timeout_s

    def check_plan(self, job: Job, attempt: Attempt, now_s: float) -> list[Action]:
        """At the end of a planned stretch: go on, or pause for the next one."""
        if job.plan is not None and now_s < job.plan.segments[0].end_s:
            return []
        if attempt.state is AttemptState.LAUNCHING or not self._book.is_open(attempt.node):
            # it cannot pause; its start or its loss will be reported. Or it was asked to, as its node is emptied
            self._book.hold_node(job, attempt, now_s)
            return []
        if self._book.goes_as_planned(job, now_s):
            job = self._book.next_segment(job, now_s)
        else:
            job = self._book.plan(job, now_s)
        ahead = job.plan.segments[0] if job.plan else None
        if ahead is None or (_same_place(ahead, attempt) and ahead.start_s <= now_s):
            if ahead is None or ahead.end_s <= now_s + 1.0:  # nobody knows how long it still takes
                self._book.hold_node(job, attempt, now_s)
            return []
        return self._pause_for_plan(job, now_s)

    def leave_early(self, now_s: float) -> list[Action]:
        """Ask those to pause whose place was given to another job before their stretch was over."""
        actions: list[Action] = []
        for job, attempt in self._book.live():
            ahead = job.plan.segments[0] if job.plan else None
            if attempt.state is not AttemptState.RUNNING or ahead is None or not self._book.is_open(attempt.node):
                continue  # what is lost will be reported
            if ahead.start_s > now_s + 1e-6 or not _same_place(ahead, attempt):
                actions += self._pause_for_plan(job, now_s)
        return actions

    def leave_node(self, name: str, now_s: float) -> list[Action]:
        """Ask those on a node that is being emptied to pause, once each; who cannot runs on there.

        What is being launched there is taken back: Ray starts nothing on such a node any more, and it would wait there.
        What has begun in the moment before that is seen has no work to lose.
        """
        actions: list[Action] = []
        for job, attempt in self._book.live():
            if attempt.node != name:
                continue
            if attempt.state is AttemptState.LAUNCHING:
                message = f"is not launched on {name}, which is being emptied; it gets another place"
                actions += self.stop(job, message, now_s)
            elif attempt.state is AttemptState.RUNNING and job.pausable and job.spec.suspend.allow:
                actions += self.ask_to_pause(job, f"pauses: {name} is being emptied, it goes on elsewhere", now_s)
        return actions

    def start_waiting(self, now_s: float) -> list[Action]:
        """Start the jobs whose time has come, the most urgent first."""
        due = [job for job in self._book.due(now_s) if job.live_attempt is None]
        due.sort(key=urgency)
        return [action for job in due for action in self.start_if_due(job.id, now_s)]

    def start_if_due(self, job_id: str, now_s: float) -> list[Action]:
        """Start a job if its time has come and its place is free; else it waits, or gets another place."""
        job = self._book.jobs[job_id]
        if job.held or job.plan is None or job.live_attempt is not None or job.plan.start_s > now_s + 1e-6:
            return []
        segment = job.plan.segments[0]
        node = self._book.nodes.get(segment.node) if self._book.is_open(segment.node) else None
        demand = job.spec.demand * segment.workers
        free = node is not None and demand.reserved_on(node.capacity).fits_in(self._book.free(node))
        if node is not None and not free and self._book.is_leaving(node, now_s, 2 * self._pause_timeout_s):
            other = self._elsewhere(job, job.plan, node, now_s)
            if other is None:
                return []  # whoever holds the place is on its way out
            self._book.accept(job, other, now_s)
            return self.start_if_due(job_id, now_s)
        if node is None or not free:
            # what was promised is not there (an overrun, or others' work): look for the next best place
            self.to_line(job, f"waits for {demand} on {segment.node}, which others still hold", now_s)
            return []
        number = len(job.attempts) + 1
        attempt = Attempt(number, f"{job.id}-a{number}", node.name, node.zone, AttemptState.LAUNCHING, now_s)
        attempt = changed(attempt, workers=segment.workers)
        message = f"is being launched on {node.name} in {node.zone} (attempt {number}){without_signal(job.plan)}"
        # it no longer waits for whatever it waited for
        job = changed(job, attempts=(*job.attempts, attempt), reason=Reason.PENDING_EVALUATION, message=message)
        self._book.set(job, now_s, "launching", f"attempt {number} on {node.name} in {node.zone}")
        return [StartAttempt(job, attempt)]

    def _elsewhere(self, job: Job, plan: Plan, node: Node, now_s: float) -> Plan | None:
        """Another start at once for a job that has waited out half of its slack for a place that is being left.

        None: it waits on. So it does where it would be late anywhere, until who leaves has had its time for that.
        """
        waited_s, latest_s = now_s - plan.start_s, job.spec.deadline_s + INSTANT_S
        if plan.end_s + 2 * waited_s < latest_s:
            return None
        found = self._book.elsewhere(job, node, now_s)
        begins = found is not None and found.start_s <= now_s + INSTANT_S and found.segments[0].node != node.name
        overdue = waited_s > self._pause_timeout_s
        return found if found is not None and begins and (overdue or found.end_s <= latest_s) else None

    def to_line(self, job: Job, message: str, now_s: float) -> None:
        """Take a job's plan away, until its turn to be planned again."""
        self._book.set(changed(job, plan=None, reason=Reason.WAITING_FOR_CAPACITY, message=message), now_s)
        self._line.changed()

    def ask_to_pause(self, job: Job, message: str, now_s: float) -> list[Action]:
        """Ask a job to write a checkpoint and leave."""
        attempt = job.live_attempt
        if attempt is None:
            return []
        attempt = changed(attempt, state=AttemptState.PAUSING, pause_asked_s=now_s)
        self._book.set(changed(with_attempt(job, attempt), message=message), now_s, "pausing", message)
        return [AskToCheckpoint(job.id, attempt)]

    def hold_overspent(self, job: Job, over: str, now_s: float) -> list[Action]:
        """Ask a running job that has spent a budget to pause; `over` says what it has used."""
        if job.live_attempt is None or job.live_attempt.state is not AttemptState.RUNNING:
            return []
        why = f"{over}, by the ledger"
        message = f"{why}; its checkpoint is kept. `eco-ray job resume {job.id}` with a larger budget lets it go on"
        return self.ask_to_pause(changed(job, held=True, over_budget=message), f"pauses: it {why}", now_s)

    def check_pause(self, job: Job, attempt: Attempt, now_s: float) -> list[Action]:
        """A job that does not leave in time runs on, and is not asked again; one that a person holds is stopped."""
        waited_s = now_s - (attempt.pause_asked_s or now_s)
        limit_s = self._pause_timeout_s
        if waited_s < limit_s:
            return []
        if job.held:
            message = f"did not pause within {limit_s:.0f} s; it is stopped and will go on from its last checkpoint"
            return self.stop(job, message, now_s)
        message = (
            f"runs on: it ignored a pause request for {waited_s:.0f} s (limit {limit_s:.0f} s); it will not be asked "
            "again. Open eco_ray.train.session in it to make it suspendable, or set carbon.suspend.allow: false"
        )
        running = changed(attempt, state=AttemptState.RUNNING)
        job = changed(with_attempt(job, running), pausable=False, message=message)
        self._book.set(job, now_s, "pause-ignored", message)
        self._book.plan(job, now_s)
        return []

    def stop(self, job: Job, message: str, now_s: float) -> list[Action]:
        """End its attempt by force."""
        attempt = job.live_attempt
        if attempt is None:
            return []
        attempt = changed(attempt, state=AttemptState.STOPPING, pause_asked_s=now_s)
        self._book.set(changed(with_attempt(job, attempt), message=message), now_s, "stopping", message)
        return [StopAttempt(job.id, attempt)]

    def _pause_for_plan(self, job: Job, now_s: float) -> list[Action]:
        _, message = self._book.reason_of(job, job.plan, now_s) if job.plan else ("", "")
        return self.ask_to_pause(job, f"pauses: {message}", now_s)


def _same_place(segment: Segment, attempt: Attempt) -> bool:
    """Whether an attempt can just run on into a stretch: another number of workers is another start."""
    return (segment.node, segment.workers) == (attempt.node, attempt.workers)
