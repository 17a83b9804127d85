"""Changed copies of records."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
from planning_cases import T0, a_job

from eco_ray.core.jobs import JobState, Plan, Segment
from eco_ray.core.records import changed


def test_it_does_what_replace_does():
    job = a_job()
    assert changed(job, state=JobState.RUNNING, finished_s=T0) == replace(job, state=JobState.RUNNING, finished_s=T0)
    assert changed(job) == job
    plan = Plan((Segment("n", "DE", 0.0, 1.0),), None, None, T0)
    assert changed(plan, added_g=2.0) == replace(plan, added_g=2.0)


def test_the_original_stays_as_it_was():
    job = a_job()
    copy = changed(job, state=JobState.RUNNING)
    assert (job.state, copy.state) == (JobState.QUEUED, JobState.RUNNING)
    with pytest.raises(FrozenInstanceError):
        copy.state = JobState.QUEUED


def test_an_unknown_field_is_an_error():
    with pytest.raises(KeyError, match="color"):
        changed(a_job(), color="green")
