"""What the orchestrator wants done after which events."""

from __future__ import annotations

import pytest
from orchestrator_world import (
    DE,
    FLAT,
    FR,
    NODES,
    World,
    is_running,
    launching,
    pausing,
    retrying,
    short,
    stopping,
    suspended,
    waiting,
    with_config,
)
from planning_cases import HOUR_S, T0, a_node, a_spec, hourly, no_suspension, shape

from eco_ray.core.cluster import Resources
from eco_ray.core.events import (
    ForecastArrived,
    ForeignUse,
    JobSubmitted,
    NodeJoined,
    NodeLost,
    SuspendRequested,
    Tick,
)
from eco_ray.core.orchestrator import Orchestrator
from eco_ray.errors import InfeasibleError, NotFoundError, UsageError

#: one job at a time, at once, without suspensions
PLAIN = no_suspension(policy="run-now")


def on_one_node(*series, **config):
    return World(*series, nodes={"de-1": NODES["de-1"]}, config=with_config(**config))


# -- starting --------------------------------------------------------------------------------------------------------


def test_submit_start_succeed():
    world = World(FLAT)
    assert world.submit() == ["start j-a1 on de-1"]
    assert world.said() == ("queued", "PendingEvaluation", "is being launched on de-1 in DE (attempt 1)")
    assert world.started() == []
    assert world.said() == ("running", "Running", "runs on de-1 in DE (attempt 1)")
    assert world.exited(0) == ["clean j-a1 for good"]
    assert world.said() == ("succeeded", "Succeeded", "succeeded")
    assert world.kinds() == ["submitted", "planned", "launching", "started", "succeeded"]
    assert world.tick() == []


def test_a_deferred_job_starts_at_its_slot():
    world = World(DE, FR)
    assert world.submit(hours=1) == []
    assert world.said() == (
        "queued",
        "WaitingForCleanerWindow",
        "starts 2026-07-05 13:00 UTC on de-1 in DE; saves 20 g (67%) against running now in the home zone",
    )
    assert world.tick(hours=0.99) == []
    assert world.tick(hours=0.01) == ["start j-a1 on de-1"]
    assert world.tick() == []


def test_a_better_forecast_moves_a_waiting_job_and_a_slightly_better_one_does_not():
    world = World(DE, FR)
    world.submit(hours=1)
    world.do(ForecastArrived({"FR": hourly("FR", 400, 400, 99, *[400] * 41)}))
    world.tick()
    assert world.job().plan.segments[0].node == "de-1"
    world.do(ForecastArrived({"FR": hourly("FR", 400, 400, 50, *[400] * 41)}))
    world.tick(hours=0.25)
    assert world.job().plan.segments[0].node == "fr-1"


def test_a_plan_is_judged_by_the_newest_forecast():
    """What was the cleanest hour this morning is not kept because it was cheap then."""
    world = World(DE, FR)
    world.submit(hours=1)
    world.do(ForecastArrived({"DE": hourly("DE", 300, 300, 300, 200, *[300] * 40)}))
    world.tick()
    assert world.job().plan.start_s == T0 + 3 * HOUR_S
    assert world.job().plan.carbon_g == pytest.approx(20)


def test_jobs_that_share_a_node_come_one_after_the_other():
    world = on_one_node(FLAT)
    assert world.submit("a", **PLAIN) == ["start a-a1 on de-1"]
    assert world.submit("b", **PLAIN) == []
    assert world.said("b")[1:] == (
        "WaitingForCapacity",
        "starts 2026-07-05 13:00 UTC on de-1 in DE, or as soon as a node is free",
    )
    world.started("a")
    assert world.exited(0, "a") == ["clean a-a1 for good"]
    assert world.tick(seconds=1) == ["start b-a1 on de-1"]


def test_without_room_before_its_deadline_a_job_waits_and_is_not_forgotten():
    world = on_one_node(FLAT)
    world.running("a", hours=8, **PLAIN)
    assert world.submit("b", hours=1, deadline_h=4) == []
    assert world.said("b")[1] == "DeadlineInfeasible"
    assert world.tick(hours=5) == []  # its deadline is over
    world.exited(0, "a")
    assert world.tick() == ["start b-a1 on de-1"]


def test_the_higher_priority_goes_first_then_the_earlier_deadline():
    world = on_one_node(FLAT)
    world.running("a", hours=8, **PLAIN)
    for name, priority, deadline_h in [("low", 100, 5), ("late", 500, 7), ("soon", 500, 6)]:
        world.submit(name, hours=4, priority=priority, deadline_h=deadline_h)
    world.exited(0, "a")
    assert world.tick() == ["start soon-a1 on de-1"]


def test_a_job_that_overruns_keeps_its_node_and_the_next_one_waits():
    world = on_one_node(FLAT)
    world.running("a", hours=1, **PLAIN)
    world.submit("b", hours=1, **PLAIN)
    assert world.tick(hours=1) == []
    assert world.tick(hours=1) == []
    assert world.said("b")[1] == "WaitingForCapacity"
    assert world.job("a").plan.end_s >= world.now_s + 900  # slot by slot, not second by second
    world.exited(0, "a")
    assert world.tick() == ["start b-a1 on de-1"]


def test_a_slow_launch_holds_its_node():
    world = on_one_node(FLAT)
    world.submit("a", hours=1, **PLAIN)
    world.submit("b", hours=1, **PLAIN)
    for _ in range(8):
        assert world.tick(hours=0.25) == []
    assert world.kinds("b").count("planned") < 10


def test_a_slow_launch_is_not_asked_to_pause():
    world = World(hourly("DE", *[100, 900] * 12))
    assert world.submit(hours=3) == ["start j-a1 on de-1"]
    assert world.tick(hours=1) == []
    world.started()
    assert world.tick(hours=0.25) == ["ask j-a1"]


def test_what_became_free_is_given_away_within_the_slot_however_few_are_planned_at_a_time():
    world = on_one_node(FLAT, replan_limit=1)
    world.running("a", hours=8, **PLAIN)
    names = [f"w{i}" for i in range(5)]
    for name in names:
        world.submit(name, hours=1, deadline_h=4)
    for _ in range(8):
        world.tick(seconds=1)
    world.do(NodeJoined(a_node("big", "DE", cpus=5.0)))
    started = [action for _ in range(6) for action in world.tick(seconds=1)]
    assert sorted(a.split()[1] for a in started) == [f"{name}-a1" for name in names]


def test_what_others_use_is_not_ours_to_give():
    world = on_one_node(FLAT)
    world.do(ForeignUse("de-1", Resources(0.5)))
    assert world.submit(**PLAIN) == []
    assert world.submit("half", demand=Resources(0.5), **PLAIN) == ["start half-a1 on de-1"]
    world.do(ForeignUse("de-1", Resources()))
    assert world.tick() == []
    world.started("half")
    world.exited(0, "half")
    assert world.tick() == ["start j-a1 on de-1"]


def test_a_job_waits_for_the_place_that_is_being_left():
    world = on_one_node(FLAT)
    world.running("a", hours=1, **PLAIN)
    world.submit("b", hours=1, **PLAIN)
    world.do(SuspendRequested("a"))
    assert world.tick(hours=1) == ["stop a-a1"]
    assert world.said("b")[2].startswith("starts 2026-07-05 13:00")
    assert world.exited("a", "a", outcome="stopped") == ["clean a-a1", "start b-a1 on de-1"]


def beside_one_that_leaves(*, slack_s, promised=False, **changes):
    """Job b is due on fr-1, whose job is asked to leave and does not; de-1 is free, or promised to c in a while."""
    nodes = {"de-1": a_node(), "fr-1": a_node("fr-1", "FR")}
    world = World(hourly("DE", *[400] * 30), hourly("FR", *[50] * 30), nodes=nodes)
    world.running("a", hours=1, deadline_h=1.01, zones=("FR",))
    if promised:
        soon = {"not_before_s": T0 + 1.25 * HOUR_S, "deadline_h": 2.25, "zones": ("DE",)}
        world.submit("c", hours=1, **soon, **no_suspension())
    due = {"not_before_s": T0 + HOUR_S, "deadline_h": 2 + slack_s / 3600}
    world.submit("b", hours=1, **due, **changes, **no_suspension())
    assert shape(world.core.book.jobs["b"].plan) == [("fr-1", 1, 2)]
    world.tick(seconds=HOUR_S - 1)
    world.do(SuspendRequested("a"))
    assert world.tick(seconds=2) == []
    return world


def test_it_waits_out_half_of_its_slack_at_most_for_a_place_that_is_being_left():
    world = beside_one_that_leaves(slack_s=20)
    assert world.tick(seconds=8) == []
    assert world.tick(seconds=2) == ["start b-a1 on de-1"]
    assert world.job("b").plan.end_s <= world.job("b").spec.deadline_s


@pytest.mark.parametrize("changes", [{"promised": True}, {"budget_g": 12.0}, {"zones": ("FR",)}])
def test_it_keeps_its_place_that_is_being_left_where_no_other_start_at_once_will_do(changes):
    world = beside_one_that_leaves(slack_s=4, **changes)
    plan = world.core.book.jobs["b"].plan
    for _ in range(3):
        assert world.tick(seconds=10) == []
        assert world.core.book.jobs["b"].plan is plan
    world.submit("d", hours=0.5, deadline_h=31, priority=1, zones=("FR",), **no_suspension())  # does not get it
    assert world.exited(75, "a") == ["clean a-a1", "start b-a1 on fr-1"]


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (a_spec(9, 8), InfeasibleError),
        (a_spec(zones=("PL",)), NotFoundError),
        (a_spec(demand=Resources(9)), InfeasibleError),
    ],
)
def test_a_job_that_cannot_be_is_refused_and_leaves_no_trace(spec, error):
    world = World(FLAT)
    with pytest.raises(error):
        world.do(JobSubmitted("j", spec))
    assert world.core.take_changes() == ([], [])
    assert world.core.book.jobs == {}


def test_an_open_job_is_never_replaced_by_another_of_the_same_id():
    world = World(FLAT)
    world.do(JobSubmitted("j", a_spec(), nonce="one"))
    assert world.do(JobSubmitted("j", a_spec(), nonce="one")) == []
    with pytest.raises(UsageError, match=r"'j' is already here \(it is queued\); choose another"):
        world.do(JobSubmitted("j", a_spec(), nonce="two"))
    with pytest.raises(UsageError):
        world.submit()
    assert len(world.job().attempts) == 1


# -- suspending for the grid -----------------------------------------------------------------------------------------


def test_at_the_end_of_a_stretch_it_pauses_and_goes_on_in_the_next():
    world = World(DE, FR)
    world.submit(hours=2)
    assert world.tick(hours=1) == ["start j-a1 on de-1"]
    world.started()
    assert world.tick(hours=0.99) == []
    assert world.tick(hours=0.01) == ["ask j-a1"]
    assert world.said()[2].startswith("pauses: starts 2026-07-05 15:00 UTC on de-1 in DE")
    assert world.tick() == []  # asked once
    assert world.exited(75) == ["clean j-a1"]
    assert world.said()[:2] == ("suspended", "WaitingForCleanerWindow")
    assert world.tick(hours=0.99) == []
    assert world.tick(hours=0.01) == ["start j-a2 on de-1"]
    assert world.said()[0] == "suspended"
    world.started(number=2)
    assert world.tick(hours=0.99) == []
    assert world.exited(0, number=2) == ["clean j-a2 for good"]
    job = world.job()
    assert [str(a.state) for a in job.attempts] == ["paused", "succeeded"]
    assert job.productive_s == pytest.approx(1.99 * HOUR_S)


def test_after_a_pause_that_went_as_planned_the_plan_stays():
    """Planned anew, it would take an hour that others left meanwhile, and move for nothing."""
    world = World(hourly("DE", 100, 300, 300, 110, *[300] * 40))
    world.running(hours=2, deadline_h=8)
    world.tick(hours=1)
    before = world.job().plan
    assert before.start_s == T0 + 3 * HOUR_S
    world.exited(75)
    after = world.job()
    assert after.plan.segments == before.segments
    assert after.replans == 0
    # what is left of it, not what the whole plan came to
    assert after.plan.carbon_g == pytest.approx(110 * after.plan.run_now_g / 300)
    assert world.said()[1] == "WaitingForCleanerWindow"
    assert after.message.startswith("starts 2026-07-05 15:00 UTC on de-1")


def test_a_forecast_that_comes_while_a_job_leaves_is_looked_at():
    world = World(hourly("DE", 100, 300, 110, *[300] * 40))
    world.running(hours=2, deadline_h=8)
    assert world.tick(hours=1) == ["ask j-a1"]
    world.do(ForecastArrived({"DE": hourly("DE", 100, 300, 900, 90, *[300] * 40)}))
    world.exited(75)
    assert world.job().plan.start_s == T0 + 3 * HOUR_S


def test_it_goes_on_in_another_zone_where_that_is_cleaner():
    world = World(hourly("DE", 100, *[300] * 40), hourly("FR", 400, 100, *[400] * 40))
    assert world.submit(hours=2) == ["start j-a1 on de-1"]
    world.started()
    world.progressed(0.4, productive_s=T0)
    assert world.tick(hours=1) == ["ask j-a1"]
    world.progressed(0.5, checkpoint_s=world.now_s)
    assert world.exited(75) == ["clean j-a1", "start j-a2 on fr-1"]
    job = world.job()
    assert (job.has_checkpoint, job.progress, job.productive_s) == (True, 0.5, HOUR_S)


def test_it_runs_on_where_nothing_is_better():
    world = World(FLAT)
    world.running(hours=2)
    for _ in range(3):
        assert world.tick(hours=1) == []
    assert world.kinds() == ["submitted", "planned", "launching", "started"]


def test_a_script_that_ignores_the_pause_runs_on_and_is_not_asked_again():
    world = World(hourly("DE", *[100, 900] * 12))
    world.running(hours=3)
    assert world.tick(hours=1) == ["ask j-a1"]
    assert world.tick(seconds=59) == []
    assert world.tick(seconds=1) == []
    job = world.job()
    assert not job.pausable
    assert str(job.attempts[-1].state) == "running"
    assert job.message.startswith("runs on: it ignored a pause request for 60 s (limit 60 s)")
    for _ in range(8):
        assert world.tick(hours=0.5) == []
    assert world.kinds().count("pausing") == 1


def test_a_pause_that_comes_after_its_time_is_a_pause_all_the_same():
    world = World(hourly("DE", *[100, 900] * 12))
    world.running(hours=3)
    world.tick(hours=1)
    world.tick(seconds=61)
    assert world.exited(75)[0] == "clean j-a1"
    assert str(world.job().attempts[0].state) == "paused"
    assert world.job().retries == 0


def test_exit_75_without_being_asked_is_a_failure():
    world = World(FLAT)
    world.running()
    world.exited(75)
    assert world.said()[0] == "failed"


def test_a_running_job_on_a_node_that_is_gone_is_not_asked_but_its_loss_awaited():
    world = World(hourly("DE", *[100, 900] * 12))
    world.running(hours=3)
    world.do(NodeLost("de-1"))
    for _ in range(4):
        assert world.tick(hours=0.5) == []
    assert world.exited(outcome="lost", message="node died")[0] == "clean j-a1"
    assert world.job().pausable


# -- nodes -----------------------------------------------------------------------------------------------------------


def test_a_node_that_joins_takes_waiting_jobs():
    world = on_one_node(FLAT)
    world.running("a", **PLAIN)
    world.submit("b", **PLAIN)
    world.do(NodeJoined(NODES["fr-1"]))
    assert world.tick() == ["start b-a1 on fr-1"]


def test_what_others_used_of_a_node_is_gone_with_it():
    world = on_one_node(FLAT)
    world.do(ForeignUse("de-1", Resources(1.0)))
    world.do(NodeLost("de-1"))
    world.do(NodeJoined(NODES["de-1"]))
    assert world.submit(**PLAIN) == ["start j-a1 on de-1"]


def test_jobs_planned_on_a_node_that_is_lost_get_another_place():
    world = World(DE, FR)
    world.submit(hours=1)
    assert world.do(NodeLost("de-1")) == []
    assert world.said()[1:] == ("WaitingForCapacity", "had its place on de-1, which is gone; it gets another one")
    assert world.tick() == ["start j-a1 on fr-1"]


def test_a_job_waits_when_its_only_zone_is_gone_and_starts_when_it_is_back():
    world = World(DE, FR)
    world.submit(zones=("DE",), policy="run-now", not_before_s=T0 + 60)
    world.do(NodeLost("de-1"))
    assert world.tick(hours=3) == []
    assert world.said()[2].startswith("no node in DE is there with 1 CPUs")
    world.do(NodeJoined(NODES["de-1"]))
    assert world.tick() == ["start j-a1 on de-1"]


# -- after a crash ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "actions"),
    [
        (waiting, []),
        (launching, ["start j-a1 on de-1"]),
        (is_running, []),
        (pausing, ["ask j-a1"]),
        (stopping, ["stop j-a1"]),
        (suspended, ["clean j-a1"]),
        (retrying, ["clean j-a1"]),
    ],
)
def test_a_restart_repeats_what_may_not_have_been_done(state, actions):
    world = World(DE, FR)
    state(world)
    restarted, again = world.restored()
    assert again == actions
    held = restarted.core.book.jobs["j"].held
    assert restarted.do(Tick()) == world.do(Tick())
    assert restarted.core.book.jobs["j"].held is held
    assert restarted.drain() == {"j": "succeeded"}


def test_a_job_without_a_place_gets_one_after_a_restart():
    world = on_one_node(FLAT)
    world.submit(**PLAIN)
    world.do(NodeLost("de-1"))
    world.exited(outcome="lost")
    world.tick(hours=1)
    assert world.job().plan is None
    core = Orchestrator("DE", world.now_s, world.config)
    core.handle(NodeJoined(NODES["de-1"]), world.now_s)
    core.handle(Tick(), world.now_s)
    core.restore([world.job()])
    assert [short(a) for a in core.handle(Tick(), world.now_s)] == ["start j-a2 on de-1"]
