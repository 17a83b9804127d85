"""`job plan`: what would happen, and nothing does."""

from __future__ import annotations

import pytest
from orchestrator_world import DE, FR, World
from planning_cases import T0, a_spec

from eco_ray.core.dry_run import dry_run
from eco_ray.errors import InfeasibleError


def test_a_dry_run_says_what_submitting_would_do_and_changes_nothing():
    world = World(DE, FR)
    book = world.core.book
    before = (dict(book.jobs), book.take_changes())
    said = dry_run(a_spec(hours=2), book, T0)
    assert (dict(book.jobs), book.take_changes()) == before
    world.submit(hours=2)
    plan = world.job().plan
    assert [segment["node"] for segment in said["segments"]] == [segment.node for segment in plan.segments]
    assert said["carbon_g"] == pytest.approx(plan.carbon_g)
    assert {other["what"] for other in said["alternatives"]} <= {"now", "elsewhere", "later", "in one piece"}
    assert all(other["carbon_g"] >= said["carbon_g"] - 1e-9 for other in said["alternatives"])


def test_what_cannot_be_done_is_refused_as_on_submission():
    with pytest.raises(InfeasibleError, match="cannot finish by its deadline"):
        dry_run(a_spec(hours=5, deadline_h=2), World(DE, FR).core.book, T0)
