"""What is followed while it happens: events of jobs, and the output of one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eco_ray.api_model import BASE, END, JobEvent, LogText
from eco_ray.core.jobs import Attempt, Job
from eco_ray.service.control import documents, examples
from eco_ray.service.control.jobs import Jobs
from eco_ray.service.control.limits import Limits
from eco_ray.service.control.port import Control
from eco_ray.service.control.query import Parameter, flag
from eco_ray.service.control.route import READ, Ask, Good, Route
from eco_ray.service.control.streams import Event, Streams
from eco_ray.service.control.work import Work
from eco_ray.service.http import Answer
from eco_ray.service.problems import Problem, shown

_LAST = b"last-event-id"
#: numbers that a database gives
_NUMBER = re.compile(r"[0-9]{1,18}")
_PLACE = re.compile(r"([0-9]{1,9})\.([0-9]{1,15})")
_STREAM = "text/event-stream"
_AGAIN = "Where the stream goes on: the id of the last event that came; wins over `after`, and empty counts as none"
#: first bytes of a UTF-8 character of so many bytes
_LENGTHS = ((0xF0, 0xF8, 4), (0xE0, 0xF0, 3), (0xC0, 0xE0, 2))


@dataclass(slots=True)
class _Reader:
    """How far the output of a job was read."""

    attempt: int
    #: [bytes]
    offset: int


class Following:
    """Streams of jobs."""

    def __init__(self, control: Control, jobs: Jobs, work: Work, streams: Streams, limits: Limits) -> None:
        self._control, self._jobs, self._work, self._streams, self._limits = control, jobs, work, streams, limits
        # apart from other calls: those who only look must not keep others from acting
        self._polls = Work(limits.streams, limits.streams_of_one, limits.call_s)

    def routes(self) -> list[Route]:
        """Their paths."""
        after = "Only what came after this id; default: "
        return [
            Route("GET", f"{BASE}/events", "What happens to jobs, as it happens", self._events, READ,
                  {200: Good("A stream of JobEvent, each with its number as id", JobEvent, examples.EVENT,
                             media=_STREAM)},
                  (_after(_NUMBER, f"{after}what comes from now on; 0: all that is kept"),), problems=(503,),
                  reads=(("Last-Event-ID", _AGAIN, f"^({_NUMBER.pattern})?$"),)),
            Route("GET", f"{BASE}/jobs/{{job_id}}/logs", "Output of a job, attempt after attempt", self._logs, READ,
                  {200: Good("A stream of LogText; the last event is named `end`", LogText, examples.LOG,
                             media=_STREAM),
                   204: Good("Last-Event-ID is `end`: nothing comes any more")},
                  (_after(_PLACE, f"{after}all that is kept"),
                   flag("follow", True, "Whether to wait for more until the job has ended")),
                  problems=(404, 503), reads=(("Last-Event-ID", _AGAIN, f"^({_PLACE.pattern}|{END})?$"),)),
        ]  # fmt: skip

    async def _events(self, ask: Ask) -> Answer:
        newest = await self._work(ask.of, self._control.last_event)
        text = _last(ask)
        if text is not None and (not _NUMBER.fullmatch(text) or int(text) > newest):
            detail = f"no event {shown(text)} was there yet, the newest is {newest}; begin with after=0, or without it"
            raise Problem(400, "no such event", detail)
        after = newest if text is None else int(text)

        async def look() -> Sequence[Event]:
            nonlocal after
            given = ask.tenant, after, self._limits.chunk_events
            found = await self._polls(ask.of, self._control.events, *given)
            after = found[-1].number if found else after
            return [Event(str(one.number), "job", documents.job_event(one)) for one in found]

        return self._streams.answer(ask.of, ask.receive, look, str(after))

    async def _logs(self, ask: Ask) -> Answer:
        text, follow, job_id = _last(ask), ask.query["follow"], ask.parts["job_id"]
        await self._work(ask.of, self._jobs.find, job_id, ask.tenant)
        if text == END:
            return Answer(204)
        place = _PLACE.fullmatch(text or "0.0")
        if place is None:
            detail = f"{shown(text)} is no place in the output; send the id of an event, ATTEMPT.BYTES, or nothing"
            raise Problem(400, "no such place", detail)
        reader = _Reader(int(place[1]), int(place[2]))

        async def look() -> Sequence[Event]:
            return await self._polls(ask.of, self._read, reader, job_id, ask.tenant, follow)

        return self._streams.answer(ask.of, ask.receive, look, place[0])

    def _read(self, reader: _Reader, job_id: str, tenant: str | None, follow: bool) -> list[Event]:
        """The next piece of output; in a thread."""
        job = self._jobs.find(job_id, tenant)
        for attempt in job.attempts:
            if attempt.number < reader.attempt:
                continue
            if attempt.number > reader.attempt:
                reader.attempt, reader.offset = attempt.number, 0
            piece, complete = self._piece(reader, job, attempt)
            if piece is not None:
                return [piece]
            if follow and not complete:
                return []
        if follow and not job.state.is_final:
            return []
        return [Event(END, END, {"id": job.id, "state": str(job.state)})]

    def _piece(self, reader: _Reader, job: Job, attempt: Attempt) -> tuple[Event | None, bool]:
        """What follows of an attempt's output, if anything does, and whether it ends there."""
        part = self._control.read_log(job, attempt, reader.offset, self._limits.chunk_bytes)
        content = part.content if part.complete else part.content[: whole_characters(part.content)]
        lost_bytes = max(0, part.start - reader.offset)
        if not content and not lost_bytes:
            return None, part.complete
        begin = max(part.start, reader.offset)
        reader.offset = begin + len(content)
        data = {"attempt": attempt.number, "offset": begin, "text": content.decode("utf-8", "replace")}
        return Event(f"{attempt.number}.{reader.offset}", "log", {**data, "lost_bytes": lost_bytes}), part.complete


def whole_characters(content: bytes) -> int:
    """How many bytes of UTF-8 end with a whole character: a character whose rest is still to come is left for then."""
    for back in range(1, min(3, len(content)) + 1):
        first = content[-back]
        for low, high, length in _LENGTHS:
            if low <= first < high:
                return len(content) - back if length > back else len(content)
        if first < 0x80:
            break
    return len(content)


def _last(ask: Ask) -> str | None:
    told = ask.headers.get(_LAST)
    after: str | None = ask.query["after"]
    return told.decode("latin-1") if told else after


def _after(pattern: re.Pattern[str], description: str) -> Parameter:
    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{shown(text)} is no id of an event; send one that came, or leave it out")
        return text

    return Parameter("after", read, {"type": "string", "pattern": f"^{pattern.pattern}$"}, description)
