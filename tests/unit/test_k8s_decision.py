"""What the suspend controller decides: object, forecast and time in; act and patch out."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rayjob_cases import HOUR_S, T0, a_rayjob, hourly, merged, stamp

from eco_ray.core.jobs import Reason
from eco_ray.k8s.decision import Act, Decision, Rules, decide, need
from eco_ray.k8s.rayjob import Stance, read
from eco_ray.times import parse_instant

RULES = Rules("DE", launch_s=0.0)
#: dirty now, clean from 6:00 on for two hours
NIGHT = hourly([400] * 6 + [100, 100] + [300] * 40)
ASKS = {"deadline": "2026-11-22T12:00Z", "expected-duration": "2h"}
SIX = T0 + 6 * HOUR_S


def decided(body, forecast=NIGHT, now_s=T0, rules=RULES) -> Decision:
    return decide(read(body), forecast, now_s, rules)


def after(body, forecast=NIGHT, now_s=T0, rules=RULES):
    """The object after what was decided."""
    patch = decided(body, forecast, now_s, rules).patch
    return body if patch is None else merged(body, patch)


# -- whose job it is, and where it stands ------------------------------------------------------------------------------

RUNS = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
OURS = {"eco-ray.io/planned-start": stamp(SIX)}
DONE = {"eco-ray.io/released": stamp(T0)}
STANCES = {
    "no annotation": (a_rayjob(), Stance.NOT_OURS),
    "annotations of others": (a_rayjob(annotations={"example.org/deadline": "6h"}), Stance.NOT_OURS),
    "below our prefix, but of another meaning": (a_rayjob(annotations={"eco-ray.io/owner": "me"}), Stance.NOT_OURS),
    "Kueue's": (a_rayjob(asks=ASKS, labels={"kueue.x-k8s.io/queue-name": "q"}, suspend=True), Stance.NOT_OURS),
    "MultiKueue's": (a_rayjob(asks=ASKS, spec={"managedBy": "kueue.x-k8s.io/multikueue"}), Stance.NOT_OURS),
    "KubeRay's, as it says": (a_rayjob(asks=ASKS, spec={"managedBy": "ray.io/kuberay-operator"}), Stance.NEW),
    "being deleted": (a_rayjob(asks=ASKS, suspend=True, deletionTimestamp=stamp(T0)), Stance.NOT_OURS),
    "just created": (a_rayjob(asks=ASKS), Stance.NEW),
    "created with suspend: false": (a_rayjob(asks=ASKS, suspend=False), Stance.NEW),
    "its cluster is being made": (a_rayjob(asks=ASKS, status={"jobDeploymentStatus": "Initializing"}), Stance.NEW),
    "created suspended": (a_rayjob(asks=ASKS, suspend=True), Stance.HELD),
    "being suspended": (a_rayjob(asks=ASKS, suspend=True, status={"jobDeploymentStatus": "Suspending"}), Stance.HELD),
    "suspended": (a_rayjob(asks=ASKS, suspend=True, status={"jobDeploymentStatus": "Suspended"}), Stance.HELD),
    "runs": (a_rayjob(asks=ASKS, status=RUNS), Stance.STARTED),
    "runs, and a person suspends it": (a_rayjob(asks=ASKS, suspend=True, status=RUNS), Stance.STARTED),
    "waits for its id": (a_rayjob(asks=ASKS, status={"jobDeploymentStatus": "Waiting"}), Stance.STARTED),
    "a word that is not known": (a_rayjob(asks=ASKS, status={"jobDeploymentStatus": "Dreaming"}), Stance.STARTED),
    "retries": (a_rayjob(asks=ASKS, status={"jobDeploymentStatus": "Retrying", "failed": 1}), Stance.STARTED),
    "tries again": (a_rayjob(asks=ASKS, status={"jobDeploymentStatus": "", "failed": 1}), Stance.STARTED),
    "done": (a_rayjob(asks=ASKS, status={"jobDeploymentStatus": "Complete"}), Stance.STARTED),
    "failed": (a_rayjob(asks=ASKS, status={"jobDeploymentStatus": "Failed", "failed": 1}), Stance.STARTED),
    "let go by us": (a_rayjob(asks=ASKS, annotations=DONE, suspend=False), Stance.RELEASED),
    "let go by us, runs": (a_rayjob(asks=ASKS, annotations=DONE, status=RUNS), Stance.RELEASED),
    "let go by us, done": (
        a_rayjob(asks=ASKS, annotations=DONE, suspend=True, status={"jobDeploymentStatus": "Complete"}),
        Stance.RELEASED,
    ),
    "suspended after that": (a_rayjob(asks=ASKS, annotations=DONE, suspend=True), Stance.SUSPENDED_AGAIN),
    "let go by a person": (a_rayjob(asks=ASKS, annotations=OURS, suspend=False), Stance.FREED),
    "let go by a person, seen late": (
        a_rayjob(asks=ASKS, annotations=OURS, suspend=False, status={"jobDeploymentStatus": "Suspended"}),
        Stance.FREED,
    ),
}


@pytest.mark.parametrize(("body", "stance"), STANCES.values(), ids=STANCES)
def test_where_a_rayjob_stands(body, stance):
    assert read(body).stance is stance


@pytest.mark.parametrize("name", [n for n, (_, s) in STANCES.items() if s not in (Stance.NEW, Stance.HELD)])
def test_all_but_new_and_held_jobs_are_never_written_to(name):
    for forecast in (NIGHT, None):
        for now_s in (T0, SIX, T0 + 1000 * HOUR_S):
            assert decided(STANCES[name][0], forecast, now_s).patch is None
    assert need(read(STANCES[name][0]), RULES) is None


# -- holding and releasing ---------------------------------------------------------------------------------------------


def test_a_new_job_is_suspended_until_the_cleanest_hours():
    found = decided(a_rayjob(asks=ASKS))
    assert (found.act, found.reason, found.until_s) == (Act.HOLD, Reason.WAITING_FOR_CLEANER_WINDOW, SIX)
    assert found.patch["spec"] == {"suspend": True}
    assert found.patch["metadata"]["resourceVersion"] == "7"
    assert found.patch["metadata"]["annotations"]["eco-ray.io/planned-start"] == "2026-11-22T06:00:00Z"
    assert "2026-11-22 06:00 UTC; 75% less carbon per kWh than now in DE" in found.message


def test_one_that_was_created_suspended_gets_its_start_and_nothing_else():
    found = decided(a_rayjob(asks=ASKS, suspend=True))
    assert found.act is Act.HOLD
    assert "spec" not in found.patch
    assert found.until_s == SIX


def test_what_is_held_waits_and_nothing_is_written_again():
    held = after(a_rayjob(asks=ASKS))
    for minutes in range(0, 360, 7):
        found = decided(held, now_s=T0 + 60 * minutes)
        assert (found.act, found.until_s, found.patch) == (Act.WAIT, SIX, None)


def test_it_is_released_at_its_planned_start_once():
    held = after(a_rayjob(asks=ASKS))
    found = decided(held, now_s=SIX)
    assert found.act is Act.RELEASE
    assert found.patch["spec"] == {"suspend": False}
    freed = merged(held, found.patch)
    assert freed["metadata"]["annotations"]["eco-ray.io/released"] == stamp(SIX)
    assert decided(freed, now_s=SIX).act is Act.LEAVE
    assert decided(freed, now_s=SIX + 1).patch is None


def test_a_new_job_in_the_cleanest_hour_is_marked_and_never_suspended():
    body = a_rayjob(asks=ASKS)
    found = decided(body, now_s=SIX)
    assert found.act is Act.RELEASE
    assert "spec" not in found.patch
    # its pods take their time, and the forecast changes: it stays released
    later = merged(body, found.patch) | {"status": {"jobDeploymentStatus": "Initializing"}}
    assert decided(later, hourly([900] * 8 + [1] * 40), now_s=SIX + 600).act is Act.LEAVE


NOW_CASES = {
    "no signal": (ASKS, None, T0, Reason.SIGNAL_STALE, "no forecast for DE is current"),
    "a signal that has run out": (ASKS, hourly([400, 1]), T0 + 3 * HOUR_S, Reason.SIGNAL_STALE, "no forecast for DE"),
    "its latest start": (ASKS, NIGHT, T0 + 10 * HOUR_S, Reason.PENDING_EVALUATION, "is not ahead"),
    "too late for its deadline": (ASKS, NIGHT, T0 + 11 * HOUR_S, Reason.DEADLINE_INFEASIBLE, "is not ahead"),
    "after its deadline": (ASKS, NIGHT, T0 + 99 * HOUR_S, Reason.DEADLINE_INFEASIBLE, "is not ahead"),
    "a deadline before its creation": (
        ASKS | {"deadline": "2026-11-21T00:00Z"}, NIGHT, T0, Reason.DEADLINE_INFEASIBLE, "passed 24 h"
    ),
    "no slack": (ASKS | {"deadline": "1h"}, NIGHT, T0, Reason.DEADLINE_INFEASIBLE, "is not ahead"),
    "nothing later is cleaner": (ASKS, hourly([100] * 48), T0, Reason.PENDING_EVALUATION, "no later start"),
}  # fmt: skip


@pytest.mark.parametrize("suspend", [None, True])
@pytest.mark.parametrize(("asks", "forecast", "now_s", "reason", "words"), NOW_CASES.values(), ids=NOW_CASES)
def test_what_cannot_or_need_not_wait_starts_at_once_with_the_reason(suspend, asks, forecast, now_s, reason, words):
    body = a_rayjob(asks=asks, suspend=suspend)
    found = decided(body, forecast, now_s)
    assert (found.act, found.reason) == (Act.RELEASE, reason)
    assert re.search(words, found.message) or words == "passed 24 h"
    assert found.patch.get("spec") == ({"suspend": False} if suspend else None)
    assert merged(body, found.patch)["metadata"]["annotations"]["eco-ray.io/reason"].startswith(f"{reason}: ")


def test_the_time_to_start_counts():
    rules = replace(RULES, launch_s=1800.0)
    assert decided(a_rayjob(asks=ASKS), now_s=T0 + 9.4 * HOUR_S, rules=rules).act is not Act.LEAVE
    found = decided(a_rayjob(asks=ASKS, suspend=True), NIGHT, T0 + 9.5 * HOUR_S, rules)
    assert (found.act, found.reason) == (Act.RELEASE, Reason.PENDING_EVALUATION)
    assert "30 min to start" in found.message


def test_times_count_from_the_creation_whoever_looks_when():
    body = a_rayjob(asks={"deadline": "12h", "expected-duration": "2h"}, suspend=True)
    assert decided(body).until_s == SIX
    assert decided(body, now_s=T0 + 10 * HOUR_S).act is Act.RELEASE


def test_without_a_deadline_it_ends_within_the_default_delay_of_its_creation():
    body = a_rayjob(asks={"expected-duration": "2h"}, suspend=True)
    clean_late = hourly([400] * 30 + [1] * 40)
    assert decided(body, clean_late, rules=replace(RULES, default_max_delay_s=48 * HOUR_S)).until_s == T0 + 30 * HOUR_S
    assert decided(body, clean_late, T0 + 22 * HOUR_S).act is Act.RELEASE  # 24 h


def test_an_unknown_length_is_assumed_and_told():
    found = decided(a_rayjob(asks={"deadline": "12h"}))
    assert found.act is Act.HOLD
    assert "assumes 1 h of work (nothing is known of its length)" in found.message


def test_no_run_above_the_limit_while_the_deadline_allows_it():
    # the fewest grams of two hours begin at 2:00, with one hour above 200
    values = hourly([400, 400, 210, 10, 400, 400, 190, 190] + [400] * 40)
    assert decided(a_rayjob(asks=ASKS), values).until_s == T0 + 2 * HOUR_S
    assert decided(a_rayjob(asks=ASKS | {"max-intensity": "200"}), values).until_s == SIX
    found = decided(a_rayjob(asks=ASKS | {"max-intensity": "5"}), values)
    assert found.until_s == T0 + 2 * HOUR_S  # nowhere: then the limit yields to the deadline


@pytest.mark.parametrize(
    ("zones", "zone"), [(None, "DE"), ("DE", "DE"), ("FR,DE", "DE"), ("FR", "FR"), ("FR, PL", "FR")]
)
def test_the_home_zone_decides_where_it_is_allowed_else_the_first(zones, zone):
    body = a_rayjob(asks=ASKS | ({} if zones is None else {"zones": zones}))
    wanted = need(read(body), RULES)
    assert (wanted.zone, wanted.until_s) == (zone, T0 + 12 * HOUR_S)
    found = decided(body, hourly(NIGHT.values_g_per_kwh, zone))
    assert found.until_s == SIX
    assert f"in {zone}" in found.message


# -- a plan and news ---------------------------------------------------------------------------------------------------


def test_a_clearly_better_plan_replaces_the_written_one():
    held = after(a_rayjob(asks=ASKS))
    better = hourly([400, 400, 10, 10, 400, 400, 100, 100] + [300] * 40)
    found = decided(held, better, T0 + 600)
    assert (found.act, found.until_s) == (Act.HOLD, T0 + 2 * HOUR_S)
    assert merged(held, found.patch)["metadata"]["annotations"]["eco-ray.io/planned-start"] == "2026-11-22T02:00:00Z"
    assert decided(merged(held, found.patch), better, T0 + 700).patch is None


def test_a_plan_that_is_hardly_better_does_not():
    held = after(a_rayjob(asks=ASKS))
    hardly = hourly([400] * 6 + [100, 100, 99, 99] + [300] * 40)
    assert decided(held, hardly, T0 + 600).act is Act.WAIT


def test_where_the_signal_is_lost_what_is_held_is_released():
    found = decided(after(a_rayjob(asks=ASKS)), None, T0 + 600)
    assert (found.act, found.reason) == (Act.RELEASE, Reason.SIGNAL_STALE)


@pytest.mark.parametrize(
    "change",
    [{"deadline": "2026-11-22T05:00Z"}, {"max-intensity": "150"}, {"expected-duration": "1h"}, {"zones": "FR"}],
)
def test_other_wishes_are_planned_anew(change):
    held = after(a_rayjob(asks=ASKS))
    held["metadata"]["annotations"] |= {f"eco-ray.io/{key}": value for key, value in change.items()}
    found = decided(held)
    assert found.act in (Act.HOLD, Act.RELEASE)
    again = merged(held, found.patch)
    assert decided(again).patch is None


@pytest.mark.parametrize("start", ["2026-11-22T11:30:00Z", "tomorrow", "2026-11-22T11:30:00Z and more", ""])
def test_a_planned_start_that_is_too_late_or_no_time_is_planned_anew(start):
    held = after(a_rayjob(asks=ASKS))
    held["metadata"]["annotations"]["eco-ray.io/planned-start"] = start
    found = decided(held)
    assert (found.act, found.until_s) == (Act.HOLD, SIX)


# -- what is refused ---------------------------------------------------------------------------------------------------

BAD = {
    "no time": ({"deadline": "soon"}, "annotation eco-ray.io/deadline: 'soon' is not a duration"),
    "no unit": ({"expected-duration": "90"}, "annotation eco-ray.io/expected-duration: '90' has no unit; write 90s"),
    "nothing to do": ({"expected-duration": "0s"}, "annotation eco-ray.io/expected-duration: 0s is outside"),
    "no number": ({"max-intensity": "low"}, "annotation eco-ray.io/max-intensity: 'low' is not a number; give"),
    "below zero": ({"max-intensity": "-5"}, "annotation eco-ray.io/max-intensity: '-5' is not above 0; give"),
    "no end": ({"max-intensity": "inf"}, "annotation eco-ray.io/max-intensity: 'inf' is not a finite number"),
    "no zone": ({"zones": ""}, "annotation eco-ray.io/zones: [] allows no zone"),
    "twice": ({"zones": "DE,DE"}, "annotation eco-ray.io/zones: 'DE' is there twice; keep one"),
    "no label": ({"zones": "DE FR"}, "'DE FR': use letters"),
    "another word": ({"deadline": "6h", "max_intensity": "5"}, "did you mean 'eco-ray.io/max-intensity'?"),
    "only another word": ({"dead-line": "6h"}, "did you mean 'eco-ray.io/deadline'?"),
}


@pytest.mark.parametrize("suspend", [None, True])
@pytest.mark.parametrize(("asks", "words"), BAD.values(), ids=BAD)
def test_a_bad_annotation_is_told_and_the_job_left_alone(asks, words, suspend):
    found = decided(a_rayjob(asks=asks, suspend=suspend))
    assert (found.act, found.reason, found.patch) == (Act.REFUSE, Reason.MISCONFIGURED, None)
    assert words in found.message


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"clusterSelector": {"ray.io/cluster": "mine"}}, "KubeRay cannot suspend such jobs; give it"),
        ({"shutdownAfterJobFinishes": False}, "set it to true"),
        ({"shutdownAfterJobFinishes": None}, "set it to true"),
    ],
)
def test_a_job_that_kuberay_cannot_suspend_is_told_and_left_alone(spec, words):
    found = decided(a_rayjob(asks=ASKS, spec=spec))
    assert (found.act, found.reason, found.patch) == (Act.REFUSE, Reason.MISCONFIGURED, None)
    assert words in found.message


def test_one_that_is_suspended_after_its_release_is_told_what_to_do():
    found = decided(a_rayjob(asks=ASKS, annotations=DONE, suspend=True))
    assert (found.act, found.reason, found.patch) == (Act.REFUSE, Reason.SUSPENDED, None)
    assert "set spec.suspend to false" in found.message


# -- always ------------------------------------------------------------------------------------------------------------

values = st.lists(st.integers(0, 900), min_size=1, max_size=60)


@st.composite
def lives(draw):
    """A job, and what is known of the grid at some moments of its life."""
    asks = {"deadline": f"{draw(st.integers(1, 60))}h"}
    if draw(st.booleans()):
        asks["expected-duration"] = f"{draw(st.integers(1, 600))}m"
    if draw(st.booleans()):
        asks["max-intensity"] = str(draw(st.integers(1, 900)))
    moments = draw(st.lists(st.floats(0, 70 * HOUR_S), min_size=1, max_size=12).map(sorted))
    known = [draw(st.none() | values) for _ in moments]
    return a_rayjob(asks=asks, suspend=draw(st.sampled_from([None, True, False]))), list(
        zip(moments, known, strict=True)
    )


@settings(max_examples=60)
@given(lives())
@example((a_rayjob(asks={"deadline": "3h"}), [(0.0, [500, 1, 500]), (3600.0, [500, 1, 500])]))
def test_whatever_the_grid_does_it_starts_once_and_never_after_its_latest_start(life):
    body, moments = life
    rules = replace(RULES, launch_s=300.0)
    released = 0
    for at_s, known in [*moments, (71 * HOUR_S, None)]:
        now_s = T0 + at_s
        forecast = None if known is None else hourly(known)
        found = decided(body, forecast, now_s, rules)
        assert decided(body, forecast, now_s, rules) == found  # nothing but its arguments counts
        if found.act in (Act.HOLD, Act.WAIT):
            assert found.until_s > now_s
            latest_s = parse_latest(body, rules)
            assert found.until_s <= latest_s + 1
        if found.patch is not None:
            assert found.patch["metadata"]["resourceVersion"] == "7"
            assert set(found.patch) <= {"metadata", "spec"}
            assert set(found.patch.get("spec", {})) <= {"suspend"}
            body = merged(body, found.patch)
            assert decided(body, forecast, now_s, rules).patch is None  # done is done
        released += found.act is Act.RELEASE
        held = body["spec"].get("suspend") is True
        assert held == (found.act in (Act.HOLD, Act.WAIT))
    assert released == 1


def parse_latest(body, rules) -> float:
    notes = body["metadata"]["annotations"]
    length_h = int(notes["eco-ray.io/expected-duration"][:-1]) / 60 if "eco-ray.io/expected-duration" in notes else 1
    deadline_s = T0 + int(notes["eco-ray.io/deadline"][:-1]) * HOUR_S
    return deadline_s - length_h * HOUR_S - rules.launch_s


@settings(max_examples=40)
@given(values, st.integers(1, 20), st.integers(3, 48))
def test_the_start_is_the_best_of_all_quarters_of_an_hour(known, quarters, deadline_h):
    """Against all starts in time, tried one by one."""
    length_s = quarters * 900.0
    forecast = hourly(known + [0] * 0)
    body = a_rayjob(asks={"deadline": f"{deadline_h}h", "expected-duration": f"{quarters * 15}m"})
    found = decided(body, forecast)
    start_s = found.until_s or T0
    last_s = min(T0 + deadline_h * HOUR_S, forecast.end_s) - length_s
    if last_s < T0:
        assert found.act is Act.RELEASE
        return
    starts = [T0 + 900.0 * i for i in range(int((last_s - T0) // 900) + 1)]
    best = min(forecast.mean(start, start + length_s) for start in starts)
    assert forecast.mean(start_s, start_s + length_s) <= best + 1e-6
    assert parse_instant(stamp(start_s)) == start_s
