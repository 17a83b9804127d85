"""Jobs as JSON and back."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.core.cluster import Resources
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobSpec, JobState, Plan, Reason, Segment
from eco_ray.errors import EcoRayError
from eco_ray.store.codec import job_from_json, job_to_json

JOB = Job(
    id="a",
    spec=JobSpec(name="train", run="true", deadline_s=0.1 + 0.2, zones=("DE",), runtime_env={"pip": ["x"]}),
    state=JobState.SUSPENDED,
    reason=Reason.SUSPENDED,
    message="",
    submitted_s=1.0,
    attempts=(Attempt(1, "a-1", "n", "DE", AttemptState.PAUSED, 2.0),),
    plan=Plan((Segment("n", "DE", 1.0, 2.0),), 1.0, 2.0, 0.0),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field, made from its type: a field that is added to a job is tested without a change here."""
    args = get_args(hint)
    if NoneType in args:
        return st.none() | values_of(args[0])
    if get_origin(hint) is tuple:
        return st.lists(values_of(args[0]), max_size=3).map(tuple)
    if get_origin(hint) is dict:
        return st.dictionaries(st.text(), json_values, max_size=3)
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{field.name: values_of(hints[field.name]) for field in fields(hint)})
    if issubclass(hint, Enum):
        return st.sampled_from(hint)
    if hint is float:
        return st.floats(allow_nan=False)
    # lone surrogates too: they come out of file names and process output
    return st.text(st.characters(exclude_categories=[])) if hint is str else st.from_type(hint)


@settings(max_examples=150, deadline=None)
@given(job=values_of(Job))
def test_any_job_comes_back_exactly(job: Job) -> None:
    text = job_to_json(job)
    assert text.isascii()
    back = job_from_json(text)
    assert back == job
    # == takes 1 for 1.0 and "queued" for JobState.QUEUED; repr does not
    assert repr(back) == repr(job)


def test_types_come_back() -> None:
    back = job_from_json(job_to_json(JOB))
    assert isinstance(back.state, JobState)
    assert isinstance(back.attempts[0].state, AttemptState)
    assert isinstance(back.spec.demand, Resources)
    assert isinstance(back.spec.zones, tuple)
    assert isinstance(back.plan, Plan)
    assert hash(back.plan) == hash(JOB.plan)


def test_a_metric_that_is_nan_does_not_lose_the_job() -> None:
    back = job_from_json(job_to_json(replace(JOB, metrics={"loss": math.nan, "best": math.inf})))
    assert math.isnan(back.metrics["loss"])
    assert back.metrics["best"] == math.inf


def test_unknown_fields_are_ignored_and_missing_ones_take_their_default() -> None:
    data = json.loads(job_to_json(JOB))
    data["from_the_future"] = {"x": 1}
    data["spec"]["also"] = 2
    data["attempts"][0]["and_here"] = 3
    for name in ("nonce", "metrics", "retries"):
        del data[name]
    del data["spec"]["suspend"], data["spec"]["runtime_env"], data["attempts"][0]["exit_code"]
    assert job_from_json(json.dumps(data)) == replace(JOB, spec=replace(JOB.spec, runtime_env={}))


def _changed(path: str, value: Any) -> str:
    data = json.loads(job_to_json(JOB))
    *outer, last = path.split(".")
    place = data
    for name in outer:
        place = place[int(name) if name.isdigit() else name]
    place[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("state", "asleep", "job record: state is 'asleep', not one of queued, running,"),
        ("state", ["queued"], r"state is \['queued'\], not one of"),
        ("submitted_s", "1", "submitted_s is '1', not float"),
        ("submitted_s", None, "submitted_s is None, not float"),
        ("retries", 1.5, "retries is 1.5, not int"),
        ("retries", True, "retries is True, not int"),
        ("held", 1, "held is 1, not bool"),
        ("spec", [], r"spec is \[\], not an object"),
        ("spec.zones", "DE", "job record: spec: zones is 'DE', not a list"),
        ("attempts.0.state", "?", "attempts: state is '?'"),
        ("metrics", [], r"metrics is \[\], not dict"),
        ("plan.segments", [1], "job record: plan: segments is 1, not an object"),
    ],
)
def test_a_damaged_field_is_named_with_its_value(path: str, value: Any, message: str) -> None:
    with pytest.raises(EcoRayError, match=message.replace("?", r"\?")) as info:
        job_from_json(_changed(path, value))
    assert "upgrade eco-ray or restore the database from a backup" in str(info.value)


def test_damaged_text_and_a_missing_required_field_are_errors() -> None:
    with pytest.raises(EcoRayError, match="job record is not JSON"):
        job_from_json(job_to_json(JOB)[:-5])
    with pytest.raises(EcoRayError, match="job record: no id, which every Job has"):
        job_from_json("{}")


def _deep() -> Any:
    value: Any = 0
    for _ in range(100_000):
        value = {"in": value}
    return value


@pytest.mark.parametrize("value", [object(), {1, 2}, {(1, 2): 3}, b"x", _deep()], ids=range(5))
def test_what_json_cannot_hold_is_refused_when_it_is_written(value: Any) -> None:
    with pytest.raises(EcoRayError, match=r"job a cannot be stored: .*; keep numbers, text, booleans, lists"):
        job_to_json(replace(JOB, metrics={"x": value}))
