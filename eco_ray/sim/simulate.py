"""One simulation: a workload, the intensity of its zones, what is believed of it, and a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.decide import NAMES, Question, window
from eco_ray.core.events import ServingNeeds
from eco_ray.core.jobs import JobSpec, SuspendRule, Workers
from eco_ray.core.orchestrator import Orchestrator, OrchestratorConfig
from eco_ray.core.outlook import S_PER_H
from eco_ray.core.power import PowerCurve
from eco_ray.core.situation import PlannerConfig
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.sim.batch import CALENDAR, Rules, own_wait_s, run_batch
from eco_ray.sim.bound import IntensitySteps, lower_bound_g
from eco_ray.sim.foresight import Foresight, Known
from eco_ray.sim.news import HORIZON_S, News
from eco_ray.sim.replay import Replay, Replayed, Submission
from eco_ray.sim.schedule import Outcome, Schedule, outcome, run_now_schedule
from eco_ray.sim.trace import Floats, Trace
from eco_ray.sim.workload import Workload

#: what --policy may name
POLICIES = (*NAMES, "bound", "eco")
#: more CPUs than any workload asks for: a cluster without limits
_UNLIMITED_CPUS = 1e9
#: jobs that are planned together at most: nobody waits for a simulation
_MARKET_LIMIT = 1000
#: policies that pause whether a job may be paused or not, and those that choose the number of workers
_PAUSES, _SCALES = ("wait-awhile", "carbon-scaler"), ("carbon-scaler", "eco")
#: numbers of workers that a job is planned with at most
_MOST_LEVELS = 1000
#: shortest time between two ticks of a replay that nothing asked for [s]
_TICK_S = 300


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that a simulation depends on."""

    workload: Workload
    #: what the intensity is, one per zone; the first zone is home
    traces: Sequence[Trace]
    #: what is believed to come, one per zone
    beliefs: Sequence[Foresight]
    #: start of the simulation [s since epoch]
    begin_s: float
    #: its length [s]
    span_s: int
    #: length of a tick [s]
    resolution_s: int
    watts_per_cpu: float = 1.0
    #: CPUs of each zone; None: no limit
    capacity_cpus: tuple[float, ...] | None = None
    #: the machines, where they are described; they have capacities and power curves of their own
    nodes: tuple[Node, ...] = ()
    interruptible: bool = False
    published_quirks: bool = False
    resume_cost_s: int = 0
    min_run_s: int = 0
    min_saving_pct: float = 0.0
    #: how the trace's clock differs from UTC [s]
    utc_offset_s: int = 0
    #: where intensity and power come from, for people to follow up
    source: str = ""
    keep_log: bool = False
    #: what served models need of the nodes, and when they say so [s since epoch]
    needs: tuple[tuple[float, ServingNeeds], ...] = ()

    @property
    def nature(self) -> Nature:
        """Of every energy and carbon figure: watts per CPU are assumed, power curves say for themselves."""
        return Nature.weakest([Nature.MODELLED, *(node.power.nature for node in self.nodes or _nodes(self))])


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulation came to."""

    outcome: Outcome
    #: jobs that ended inside; None: a bound has no schedule
    schedule: Schedule | None
    #: shape (J,): completion minus that of run-now [h], nan for jobs that did not count
    delay_h: Floats
    #: running CPUs as steps: times since the start [s], CPUs from each on
    load: tuple[Floats, Floats]
    decisions: int
    #: the events and actions of a replay, where they were asked for
    replayed: Replayed | None = None


def simulate(setup: Setup, policy: str) -> Simulated:
    """Run one policy. Raises UsageError for a combination that means nothing."""
    if policy not in POLICIES:
        raise UsageError(f"policy {policy!r} is not known; choose one of {', '.join(POLICIES)}")
    if setup.needs and (policy == "bound" or (setup.capacity_cpus is None and not setup.nodes)):
        raise UsageError(
            f"needs of served models with {'a bound' if policy == 'bound' else 'no limit of capacity'}: nobody would "
            "give way to them; give a capacity or nodes, and a policy that runs jobs, or leave the needs out"
        )
    if policy == "bound":
        return _bound(setup)
    if setup.capacity_cpus is None and not setup.nodes and policy in NAMES:
        return _batch(setup, policy)
    if setup.published_quirks and policy == "eco":
        raise UsageError("--published-quirks with eco: they are those of Let's Wait Awhile; leave them out")
    if setup.published_quirks:
        raise UsageError("published quirks with a fixed capacity: the published code has no capacity; leave one out")
    return _replay(setup, policy)


def _batch(setup: Setup, policy: str) -> Simulated:
    rules = Rules(
        policy,
        setup.span_s,
        interruptible=setup.interruptible,
        published_quirks=setup.published_quirks,
        resume_cost_s=setup.resume_cost_s,
        watts_per_cpu=setup.watts_per_cpu,
        clock_s=setup.begin_s + setup.utc_offset_s,
    )
    decided = run_batch(setup.workload, setup.traces, setup.beliefs, rules)
    return _simulated(setup, policy, decided.schedule, decided.latest_s, decided.resumes, len(setup.workload))


def _replay(setup: Setup, policy: str) -> Simulated:
    latest_s, submissions = _submissions(setup, policy)
    nodes = setup.nodes or _nodes(setup)
    slot_s = setup.resolution_s if policy in NAMES else max(setup.resolution_s, 60)
    config = OrchestratorConfig(
        planner=PlannerConfig(
            slot_s=float(slot_s), horizon_s=float(setup.span_s), utc_offset_s=float(setup.utc_offset_s)
        ),
        replan_limit=max(1, len(submissions)),
        market_limit=_MARKET_LIMIT,
    )
    end_s = setup.begin_s + setup.span_s
    reads_what_is = policy == "threshold"  # step by step, whatever is believed
    beliefs = [Known(trace) for trace in setup.traces] if reads_what_is else setup.beliefs
    longest_s = max((one.spec.deadline_s - one.arrival_s for one in submissions), default=0.0)
    news = News(setup.traces, beliefs, setup.begin_s, end_s, horizon_s=longest_s + HORIZON_S, tells_past=reads_what_is)
    replayed = Replay(
        Orchestrator(setup.traces[0].zone, setup.begin_s, config),
        nodes,
        submissions,
        news,
        begin_s=setup.begin_s,
        end_s=end_s,
        tick_s=max(setup.resolution_s, _TICK_S),
        keep_log=setup.keep_log,
        needs=setup.needs,
    ).run()
    resumes = np.array([replayed.resumes.get(job_id, 0) for job_id in setup.workload.ids], dtype=np.int64)
    changes = replayed.plan_changes
    made = _simulated(
        setup, policy, _schedule(setup, replayed, submissions, nodes), latest_s, resumes, replayed.decisions
    )
    counted = made.outcome.jobs - made.outcome.truncated
    return replace(
        made,
        outcome=replace(made.outcome, plan_changes_per_job=changes / max(1, counted)),
        replayed=replayed if setup.keep_log else None,
    )


def _schedule(setup: Setup, replayed: Replayed, submissions: Sequence[Submission], nodes: Sequence[Node]) -> Schedule:
    """What ran, by the workload's numbers: jobs that cannot end inside were not submitted."""
    number = {job_id: index for index, job_id in enumerate(setup.workload.ids)}
    zone = {trace.zone: index for index, trace in enumerate(setup.traces)}
    rows, watts = [], []
    for submission, node, start_s, end_s, workers in replayed.rows:
        job = number[submissions[submission].job_id]
        rows.append((job, zone[nodes[node].zone], start_s, end_s, workers))
        watts.append(_watts(setup, nodes[node], job, workers) / workers)
    return Schedule.of(rows, np.array(watts))


def _watts(setup: Setup, node: Node, job: int, workers: int) -> float:
    """What the ledger would give to so many workers of the job on that node, at the plug of its site [W]."""
    demand = _demand(setup.workload, job) * workers
    if not setup.nodes:
        return demand.cpus * setup.watts_per_cpu
    return node.attributed_power_w(demand) * node.pue


def _demand(work: Workload, job: int) -> Resources:
    """What a worker of the job holds."""
    return Resources(cpus=float(work.cpus[job]), gpus=float(work.gpus[job]))


def _least_watts_per_cpu(setup: Setup) -> float:
    """Of any job on any node, with any number of its workers that fits there [W]."""
    work = setup.workload
    asked = {(_demand(work, job), work.workers_of(job)) for job in range(len(work))}
    least_w = np.inf
    for node in setup.nodes:
        for worker, workers in asked:
            for count in range(workers.min, workers.max + 1):
                demand = worker * count
                if count > workers.min and not demand.fits_node(node.capacity):
                    break
                least_w = min(least_w, node.attributed_power_w(demand) * node.pue / demand.cpus)
    return least_w


def _home_watts(setup: Setup) -> Floats:
    """The power of each job at once at home, on its least workers [W]: shape (J,)."""
    work = setup.workload
    if not setup.nodes:
        return work.cpus * work.least_workers * setup.watts_per_cpu
    by_zone = {node.zone: node for node in reversed(setup.nodes)}
    home = [by_zone[setup.traces[zones[0] if zones else 0].zone] for zones in work.zones]
    return np.array([_watts(setup, node, job, work.workers_of(job).min) for job, node in enumerate(home)])


def _submissions(setup: Setup, policy: str) -> tuple[Floats, list[Submission]]:
    """Deadlines since the start [s], and the jobs that can end inside as they are submitted."""
    work, zones = setup.workload, [trace.zone for trace in setup.traces]
    latest_s = (work.arrival_s + work.length_s + work.max_wait_s).astype(np.float64)
    own_s = own_wait_s(work, policy).tolist()
    submissions = []
    for index, job_id in enumerate(work.ids):
        arrival_s, length_s = int(work.arrival_s[index]), int(work.length_s[index])
        if arrival_s + length_s > setup.span_s:
            continue
        believed_s = float(work.expected_s[index]) or PlannerConfig().assumed_duration_s
        wait_s = float(work.max_wait_s[index])
        if policy in CALENDAR:
            asked = Question(believed_s, wait_s, own_s[index], setup.begin_s + setup.utc_offset_s + arrival_s)
            wait_s = window(policy, asked).wait_s
            latest_s[index] = arrival_s + length_s + wait_s
        deadline_s = max(min(arrival_s + believed_s + wait_s, setup.span_s), arrival_s + believed_s)
        allowed = work.zones[index]
        if policy == "threshold":  # it stays at home
            allowed = (allowed or (0,))[:1]
        spec = JobSpec(
            name=job_id,
            run="simulated",
            deadline_s=setup.begin_s + deadline_s,
            demand=_demand(work, index),
            policy=policy,
            expected_duration_s=float(work.expected_s[index]) or None,
            zones=tuple(zones[z] for z in allowed),
            min_saving_pct=setup.min_saving_pct,
            suspend=SuspendRule(
                setup.interruptible or policy in _PAUSES, float(setup.min_run_s), float(setup.resume_cost_s)
            ),
            workers=_workers(work, index, policy),
        )
        submissions.append(Submission(job_id, setup.begin_s + arrival_s, spec, float(length_s)))
    return latest_s, submissions


def _workers(work: Workload, job: int, policy: str) -> Workers:
    """With how many workers a job is planned. Raises UsageError for more than a planner should look at."""
    workers = work.workers_of(job)
    if policy in _SCALES and workers.max - workers.min >= _MOST_LEVELS:
        raise UsageError(
            f"{policy}: job {work.ids[job]} runs on {workers.min} to {workers.max} workers; at most {_MOST_LEVELS} "
            "numbers of workers can be weighed; lower max_workers"
        )
    return workers


def _nodes(setup: Setup) -> list[Node]:
    """One node per zone, as large as its capacity, that draws power for the CPUs in use and none when idle."""
    nodes = []
    for index, trace in enumerate(setup.traces):
        cpus = setup.capacity_cpus[index] if setup.capacity_cpus else _UNLIMITED_CPUS
        full_w = cpus * setup.watts_per_cpu
        power = PowerCurve((0.0, 1.0), (0.0, full_w), "watts per CPU of the simulation", Nature.ASSUMED)
        nodes.append(Node(trace.zone, trace.zone, Resources(cpus=cpus, gpus=_UNLIMITED_CPUS), power))
    return nodes


def _simulated(
    setup: Setup, policy: str, schedule: Schedule, latest_s: Floats, resumes: np.ndarray, decisions: int
) -> Simulated:
    work = setup.workload
    found, schedule, counted = outcome(
        policy,
        work,
        schedule,
        setup.traces,
        span_s=setup.span_s,
        home_watts=_home_watts(setup),
        latest_s=latest_s,
        resumes=resumes,
    )
    delay_h = (schedule.finish_s(len(work)) - work.arrival_s - work.length_s) / 3600
    delay_h[~counted] = np.nan
    return Simulated(found, schedule, delay_h, schedule.load(work), decisions)


def _bound(setup: Setup) -> Simulated:
    """The least carbon that any schedule could have on a cluster of that size, at its lowest power per CPU."""
    work = setup.workload
    steps = []
    for trace in setup.traces:
        ahead = trace.outlook(0.0, setup.span_s)
        steps.append(IntensitySteps(ahead.edges_s.astype(np.int64), ahead.g_per_kwh))
    capacity, watts_per_cpu = setup.capacity_cpus, setup.watts_per_cpu
    if setup.nodes:
        in_zone = [[node for node in setup.nodes if node.zone == trace.zone] for trace in setup.traces]
        capacity = tuple(sum(node.capacity.cpus for node in nodes) for nodes in in_zone)
        watts_per_cpu = _least_watts_per_cpu(setup)
    bound = lower_bound_g(work, steps, capacity, setup.span_s, watts_per_cpu)
    now = run_now_schedule(work, _home_watts(setup)).of_jobs(~bound.truncated)
    found = Outcome(
        policy="bound",
        jobs=len(work),
        truncated=int(bound.truncated.sum()),
        carbon_g=bound.carbon_g,
        baseline_carbon_g=float(now.carbon_g(len(work), setup.traces).sum()),
        mean_delay_h=None,
        p95_delay_h=None,
        peak_cpus=bound.peak_cpus,
        missed_deadlines=None,
        resumes=None,
        plan_changes_per_job=None,
    )
    times_s = np.append(0.0, np.cumsum(bound.step_h) * S_PER_H)
    load = np.append(bound.cpu_h / np.maximum(bound.step_h, 1e-9), 0.0)
    nothing = np.full(len(work), np.nan)
    return Simulated(found, None, nothing, (times_s, load), int((~bound.truncated).sum()))
