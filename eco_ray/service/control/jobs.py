"""Jobs behind HTTP: submitted, planned, listed, explained and steered."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from eco_ray.api_model import (
    BASE,
    IDEMPOTENCY_KEY,
    IDEMPOTENCY_PATTERN,
    JOB_ID,
    JobExplanation,
    JobLine,
    JobPlan,
    JobStatus,
    Steered,
    Submitted,
)
from eco_ray.core.jobs import Job, JobState
from eco_ray.core.units import J_PER_KWH
from eco_ray.errors import UsageError
from eco_ray.schema import Amount, Strict, check
from eco_ray.service.control import cursor, documents, examples
from eco_ray.service.control.port import Control, Place
from eco_ray.service.control.query import whole, word
from eco_ray.service.control.route import CHANGE, READ, Ask, Body, Good, Route, filters, link, told
from eco_ray.service.control.submission import Submission, job_file, submission
from eco_ray.service.control.work import Work
from eco_ray.service.http import Answer
from eco_ray.service.problems import Problem, shown

_ID = re.compile(JOB_ID)
_ONE = f"{BASE}/jobs/{{job_id}}"
_KEY_HEADER = (
    IDEMPOTENCY_KEY,
    "Makes a repeated submission the same one: the job of this key is made once, whatever is lost on the way",
    f"^{IDEMPOTENCY_PATTERN}$",
)
_STATES = [state.value for state in JobState]
_PAGE = (
    word("state", _STATES, "Only jobs in this state; repeatable", many=True),
    whole("limit", 1, 500, 100, "At most so many lines"),
    cursor.CURSOR,
)
_NEXT = {"Link": "The next page, rel=next; missing on the last one"}


#: a number: a job file may have one in quotes, JSON says which it is
_Budget = Annotated[Amount, Field(strict=True, gt=0)]


class Budgets(Strict):
    """What a job may use from now on, in all."""

    budget_g: _Budget | None = None
    budget_kwh: _Budget | None = None


_BUDGETS = Body(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {"type": ["number", "null"], "exclusiveMinimum": 0} for name in Budgets.model_fields},
    },
    {"budget_g": 500.0},
    required=False,
)
_NO_BODY = Body({"type": "object", "additionalProperties": False, "maxProperties": 0}, {}, required=False)


class Jobs:
    """What is asked of jobs."""

    def __init__(self, control: Control, work: Work) -> None:
        self._control, self._work = control, work

    def routes(self) -> list[Route]:
        """Their paths."""
        job = Body(examples.JOB_SCHEMA, examples.JOB)
        steered = {202: Good("It has been asked for", Steered, examples.STEERED)}
        return [
            Route("GET", f"{BASE}/jobs", "All jobs, the newest first", self._list, READ,
                  {200: Good("Some of them", list[JobLine], [examples.LINE], _NEXT)}, _PAGE),
            Route("POST", f"{BASE}/jobs", "Submit a job: the keys of a job file, as JSON", self._submit, CHANGE,
                  {201: Good("The job", Submitted, examples.SUBMITTED, {"Location": "Where it is"}),
                   200: Good("The job that this Idempotency-Key has made before", Submitted, examples.SUBMITTED,
                             {"Location": "Where it is"})},
                  body=job, problems=(404, 409, 422), reads=(_KEY_HEADER,)),
            Route("POST", f"{BASE}/plan", "When and where a job would run; nothing is changed", self._plan, READ,
                  {200: Good("The plan", JobPlan, examples.PLAN)}, body=job, problems=(404, 422)),
            Route("GET", _ONE, "State, plan and attempts of a job", self._status, READ,
                  {200: Good("The job", JobStatus, examples.STATUS)}, problems=(404,)),
            Route("GET", f"{_ONE}/explain", "Why a job is where it is, and until when", self._explain, READ,
                  {200: Good("Why", JobExplanation, examples.EXPLANATION)}, problems=(404,)),
            Route("POST", f"{_ONE}/cancel", "End a job", partial(self._steer, "cancel"), CHANGE, steered,
                  body=_NO_BODY, problems=(404, 409)),
            Route("POST", f"{_ONE}/suspend", "Suspend a job until it is resumed", partial(self._steer, "suspend"),
                  CHANGE, steered, body=_NO_BODY, problems=(404, 409)),
            Route("POST", f"{_ONE}/resume", "Let a suspended job go on, perhaps with other budgets", self._resume,
                  CHANGE, steered, body=_BUDGETS, problems=(404, 409)),
        ]  # fmt: skip

    def find(self, job_id: str, tenant: str | None) -> Job:
        """A job that is there for a tenant; called in a thread. Raises Problem."""
        found = self._control.job(job_id) if _ID.fullmatch(job_id) else None
        if found is None or tenant not in (None, found.spec.tenant):
            raise Problem(404, "no such job", f"no job {shown(job_id, 100)}; GET {BASE}/jobs lists those there are")
        return found

    async def _list(self, ask: Ask) -> Answer:
        states, limit, text = (ask.query[name] for name in ("state", "limit", "cursor"))
        after = None if text is None else Place(*cursor.read(text, filters(ask), (float, str)))
        # one more than is told: whether there is a next page
        given = ask.tenant, [JobState(state) for state in states], after, limit + 1
        found = await self._work(ask.of, self._control.jobs, *given)
        lines = [documents.job_line(line) for line in found[:limit]]
        if len(found) <= limit:
            return told(lines, ask.headers)
        last = found[limit - 1]
        return told(lines, ask.headers, 200, link(ask, cursor.write((float(last.submitted_s), last.id), filters(ask))))

    async def _submit(self, ask: Ask) -> Answer:
        wanted = submission(ask.body, ask.tenant, ask.headers.get(IDEMPOTENCY_KEY.lower().encode()))
        if wanted.repeatable and (known := await self._known(ask, wanted)):
            return self._submitted(ask, known, 200)
        control = self._control
        try:
            await self._work(ask.of, control.submit, wanted.job_id, wanted.job, wanted.nonce)
        except Problem as problem:
            # somebody may have been faster with the key
            if problem.status != 400 or not wanted.repeatable or not (known := await self._known(ask, wanted)):
                raise
            return self._submitted(ask, known, 200)
        made = await self._work(ask.of, control.job, wanted.job_id)
        if made is None:
            raise Problem(503, "not known now", f"job {wanted.job_id} was taken in, and cannot be read yet; ask again")
        return self._submitted(ask, made, 201)

    async def _known(self, ask: Ask, wanted: Submission) -> Job | None:
        known = await self._work(ask.of, self._control.job, wanted.job_id)
        if known is not None and known.nonce != wanted.nonce:
            detail = (
                f"this {IDEMPOTENCY_KEY} has made job {known.id} of another body; send a new key for a new job, or the "
                "same body again"
            )
            raise Problem(409, "key was used", detail)
        return known

    @staticmethod
    def _submitted(ask: Ask, job: Job, status: int) -> Answer:
        where = (b"location", f"{BASE}/jobs/{job.id}".encode())
        return told(documents.submitted(job), ask.headers, status, where)

    async def _plan(self, ask: Ask) -> Answer:
        job = job_file(ask.body, ask.tenant)

        def plan() -> Mapping[str, Any]:
            made = self._control.plan(job)
            if ask.tenant is None:
                return made
            ways = {one["id"]: self._control.job(one["id"]) for one in made.get("gives_way", [])}
            own = {job_id: found is not None and found.spec.tenant == ask.tenant for job_id, found in ways.items()}
            return documents.of_own_jobs(made, own)

        return told(await self._work(ask.of, plan), ask.headers)

    async def _status(self, ask: Ask) -> Answer:
        return await self._told_of(ask, documents.job_status)

    async def _explain(self, ask: Ask) -> Answer:
        control = self._control
        return await self._told_of(
            ask, lambda job: documents.job_explanation(job, control.job_log(job.id), control.now_s())
        )

    async def _told_of(self, ask: Ask, document: Callable[[Job], dict[str, Any]]) -> Answer:
        content = await self._work(ask.of, lambda: document(self.find(ask.parts["job_id"], ask.tenant)))
        return told(content, ask.headers)

    async def _steer(self, verb: str, ask: Ask) -> Answer:
        if ask.body:
            raise Problem(400, "wrong request", f"{verb} takes no field, and {shown(next(iter(ask.body)))} is sent")
        does = {"cancel": (self._control.cancel, "is being cancelled"),
                "suspend": (self._control.suspend, "is being suspended")}  # fmt: skip
        act, done = does[verb]
        return await self._asked(ask, verb, act, done)

    async def _resume(self, ask: Ask) -> Answer:
        try:
            budgets = check(Budgets, ask.body, "body")
        except UsageError as error:
            raise Problem(400, "wrong request", str(error)[:1000]) from None
        budget_j = None if budgets.budget_kwh is None else budgets.budget_kwh * J_PER_KWH

        def resume(job_id: str) -> None:
            self._control.resume(job_id, budgets.budget_g, budget_j)

        return await self._asked(ask, "resume", resume, "goes on as planned")

    async def _asked(self, ask: Ask, verb: str, act: Callable[[str], None], done: str) -> Answer:
        def steer() -> str:
            job = self.find(ask.parts["job_id"], ask.tenant)
            if job.state.is_final:
                detail = f"job {job.id} has {job.state} already; there is nothing left to {verb}"
                raise Problem(409, "too late", detail)
            try:
                act(job.id)
            except UsageError as error:  # nothing was wrong with what was sent
                raise Problem(409, "not now", str(error)) from None
            return job.id

        return told({"id": await self._work(ask.of, steer), "message": done}, ask.headers, 202)
