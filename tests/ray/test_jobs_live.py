"""The life of jobs on a real cluster: start, wait, suspend, move, fail, be cancelled, be accounted."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from live_cluster import SPEED, Cluster

from eco_ray.core.cluster import Resources
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobSpec, JobState, Reason
from eco_ray.errors import InfeasibleError, NotFoundError, UsageError
from eco_ray.on_ray.launcher import Launcher

pytestmark = pytest.mark.timeout(180)


def test_a_job_runs_at_once_and_ends_in_one_final_state(cluster: Cluster) -> None:
    job_id = cluster.client.submit(cluster.job("python -c 'print(6*7)'"))
    job = cluster.client.wait(job_id, 40)
    assert (job.state, len(job.attempts), job.attempts[0].exit_code) == (JobState.SUCCEEDED, 1, 0)
    assert job.attempts[0].zone == "AA"  # run-now goes to the home zone
    kinds = [entry.kind for entry in cluster.client.store.job_log(job_id)]
    assert kinds.count("succeeded") == 1
    cluster.wait_for(job_id, lambda _: "42" in cluster.cli("job", "logs", job_id).stdout)


def test_an_attempt_holds_and_knows_its_workers_and_tells_the_size_of_its_checkpoint(cluster: Cluster) -> None:
    steps = cluster.folder / "steps-wide"
    job = cluster.script("counts.py", str(steps), "3", name="wide", num_cpus="0.3", min_workers="3", max_workers="3")
    job_id = cluster.client.submit(job)
    ended = cluster.client.wait(job_id, 40)
    assert (ended.state, [a.workers for a in ended.attempts]) == (JobState.SUCCEEDED, [3]), ended.message
    assert ended.checkpoint_gb is not None
    assert 100 < ended.checkpoint_gb * 1e9 < 10_000
    cluster.wait_for(job_id, lambda _: "with 3 workers" in cluster.cli("job", "logs", job_id).stdout)


def needs_quick_launches(cluster: Cluster) -> None:
    """Where every start costs an hour of grid time, it is right not to pause."""
    launch_s = cluster.client.status()["launch_s"] / SPEED
    if launch_s > 2.0:
        pytest.skip(f"this machine takes {launch_s:.1f} s to launch an attempt now; above 2 s pauses do not pay here")


def test_a_job_is_suspended_in_the_dirty_hours_and_goes_on_from_its_checkpoint(cluster: Cluster) -> None:
    needs_quick_launches(cluster)
    steps = cluster.folder / "steps-carbon"
    job = cluster.script(
        "counts.py", str(steps), "120", policy="eco", zones="BB", expected_duration="14s", max_delay="12h",
        min_run="2s", resume_cost="1s",
    )  # fmt: skip
    job_id = cluster.client.submit(job)
    ended = cluster.wait_for(job_id, lambda j: j.state.is_final, 110)
    assert ended.state is JobState.SUCCEEDED, ended.message
    assert ended.resumes >= 1, [(a.state, a.message) for a in ended.attempts]
    assert [a.state for a in ended.attempts[:-1]] == [AttemptState.PAUSED] * (len(ended.attempts) - 1)
    done = Counter(line.split()[1] for line in steps.read_text().splitlines())
    assert set(done.values()) == {1}  # no step twice
    assert len(done) == 120
    for attempt in ended.attempts:  # it ran while BB was clean, up to a slot and the time to pause
        assert attempt.started_s is not None
        assert (attempt.started_s / 3600) % 4 < 2.3


def test_a_job_moves_to_the_zone_that_is_cleaner_now(cluster: Cluster) -> None:
    """Three hours of work within four and a half: BB while it is clean, CC while BB is not, in either order."""
    needs_quick_launches(cluster)
    steps = cluster.folder / "steps-moved"
    job = cluster.script(
        "counts.py", str(steps), "150", policy="eco", zones="BB,CC", expected_duration="17s", max_delay="270m",
        min_run="2s", resume_cost="1s",
    )  # fmt: skip
    job_id = cluster.client.submit(job)
    ended = cluster.wait_for(job_id, lambda j: j.state.is_final, 110)
    assert ended.state is JobState.SUCCEEDED, ended.message
    assert {a.zone for a in ended.attempts} == {"BB", "CC"}
    assert ended.resumes == len(ended.attempts) - 1 >= 1
    done = Counter(line.split()[1] for line in steps.read_text().splitlines())
    assert set(done.values()) == {1}
    assert len(done) == 150


def test_a_job_suspended_by_a_person_goes_on_from_its_checkpoint(cluster: Cluster) -> None:
    steps = cluster.folder / "steps-held"
    job_id = cluster.client.submit(cluster.script("counts.py", str(steps), "80", zones="CC", name="held"))
    cluster.wait_for(job_id, lambda j: (j.progress or 0) > 0.1)
    cluster.cli("job", "suspend", job_id)
    held = cluster.wait_for(job_id, lambda j: j.state is JobState.SUSPENDED)
    assert held.attempts[0].exit_code == 75
    time.sleep(1.0)
    assert cluster.client.job(job_id).live_attempt is None
    cluster.cli("job", "resume", job_id)
    ended = cluster.client.wait(job_id, 60)
    assert (ended.state, ended.resumes) == (JobState.SUCCEEDED, 1)
    done = Counter(line.split()[1] for line in steps.read_text().splitlines())
    assert set(done.values()) == {1}
    assert len(done) == 80
    status = cluster.cli("job", "resume", job_id, check=None)
    assert status.returncode == 4  # it has ended: no open job


def test_a_script_that_ignores_the_pause_request_runs_on(cluster: Cluster) -> None:
    """The plan says pause; the script does not listen: it keeps its node, is not asked again, and is not lost."""
    job = cluster.script(
        "ignores_pause.py", "22", policy="eco", zones="BB", expected_duration="16s", max_delay="14h", min_run="2s",
        resume_cost="0",
    )  # fmt: skip
    job_id = cluster.client.submit(job)
    ended = cluster.wait_for(job_id, lambda j: j.state.is_final, 120)
    assert (ended.state, len(ended.attempts)) == (JobState.SUCCEEDED, 1)
    messages = [e.message for e in cluster.client.store.job_log(job_id) if e.kind == "pause-ignored"]
    assert len(messages) == 1
    for part in ("ignored a pause request for", "limit", "eco_ray.train.session"):
        assert part in messages[0]


def test_a_person_can_suspend_what_does_not_listen(cluster: Cluster) -> None:
    job_id = cluster.client.submit(cluster.script("ignores_pause.py", "60", zones="CC", name="deaf"))
    cluster.wait_for(job_id, lambda j: j.state is JobState.RUNNING)
    cluster.client.suspend(job_id)
    held = cluster.wait_for(job_id, lambda j: j.state is JobState.SUSPENDED)
    assert held.attempts[0].state is AttemptState.STOPPED
    cluster.client.cancel(job_id)
    assert cluster.wait_for(job_id, lambda j: j.state.is_final).state is JobState.CANCELLED


def test_a_running_job_is_cancelled(cluster: Cluster) -> None:
    job_id = cluster.client.submit(cluster.script("counts.py", str(cluster.folder / "x"), "600", name="cancelled"))
    cluster.wait_for(job_id, lambda j: j.state is JobState.RUNNING)
    cluster.cli("job", "cancel", job_id)
    ended = cluster.wait_for(job_id, lambda j: j.state.is_final)
    assert (ended.state, ended.attempts[0].state) == (JobState.CANCELLED, AttemptState.STOPPED)


def test_a_failing_script_is_retried_as_asked_and_then_failed(cluster: Cluster) -> None:
    job_id = cluster.client.submit(cluster.script("exits.py", "3", retries="1", name="fails"))
    ended = cluster.client.wait(job_id, 60)
    assert ended.state is JobState.FAILED
    assert [a.exit_code for a in ended.attempts] == [3, 3]
    for part in ("exited with code 3", "1 of 1 retries used", "job logs", "raise retries.max"):
        assert part in ended.message


def test_bad_submissions_change_nothing_and_say_why(cluster: Cluster) -> None:
    before = len(cluster.client.store.list_jobs())
    with pytest.raises(InfeasibleError, match=r"needs 3 h 20 min .* leaves 1 h; move the deadline by at least 2 h 2"):
        cluster.client.submit(cluster.job("true", policy="eco", expected_duration="20s", max_delay="1h"))
    with pytest.raises(NotFoundError, match=r"zone 'XX' .* its zones are AA, BB, CC"):
        cluster.client.submit(cluster.job("true", zones="XX"))
    with pytest.raises(InfeasibleError, match=r"asks for 64 CPUs.*largest allowed node has 1 CPUs"):
        cluster.client.submit(cluster.job("true", num_cpus="64"))
    for job_id in ("../../outside", "..", "a/b", "", "x" * 101, "two words"):
        with pytest.raises(UsageError, match="is not allowed: use 1 to 100 letters"):
            cluster.client.submit(cluster.job("true"), job_id or " ")
    assert len(cluster.client.store.list_jobs()) == before


def test_a_duplicate_id_is_refused_and_the_first_job_stays(cluster: Cluster) -> None:
    cluster.client.submit(cluster.job("true"), "twice")
    with pytest.raises(UsageError, match=r"id 'twice' is already here .* choose another --id"):
        cluster.client.submit(cluster.job("true"), "twice")
    assert cluster.client.wait("twice", 40).state is JobState.SUCCEEDED
    with pytest.raises(UsageError, match="already here"):  # also when it has ended
        cluster.client.submit(cluster.job("true"), "twice")


@pytest.mark.parametrize(
    ("text", "code", "parts"),
    [
        ("run: echo hi\nnam: x\n", 2, ["unknown key 'nam'", "did you mean 'name'"]),
        ("run: [\n", 2, ["line"]),
        ("run: echo hi\ncarbon: {deadline: 2020-01-01T00:00Z}\n", 3, ["deadline", "2020-01-01", "later"]),
        ("run: echo hi\ncarbon: {zones: [XX]}\n", 4, ["'XX'", "AA, BB, CC"]),
        ("run: echo hi\nresources: {num_cpus: -1}\n", 2, ["num_cpus", "-1"]),
        (
            "run: echo hi\ncarbon: {max_delay: 2h, expected_duration: 20m}\n",
            3,
            ["needs 200 h", "leaves 2 h", "move the deadline by"],
        ),
    ],
)
def test_a_bad_job_file_ends_the_command_with_its_exit_code(
    cluster: Cluster, tmp_path: Path, text: str, code: int, parts: list[str]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    done = cluster.cli("job", "submit", str(path), check=code)
    for part in parts:
        assert part in done.stderr
    assert done.stdout == ""


def test_a_snapshot_runs_what_was_submitted(cluster: Cluster, tmp_path: Path) -> None:
    """The work directory is taken at submission; later edits do not reach a deferred job."""
    (tmp_path / "said.txt").write_text("first")
    (tmp_path / "job.yaml").write_text(
        f"name: snapshot\nrun: python -c \"print('read', open('said.txt').read())\"\nworkdir: {tmp_path}\n"
        "carbon: {policy: run-now, not_before: 30m}\n"
    )
    job_id = cluster.client.submit(tmp_path / "job.yaml")
    (tmp_path / "said.txt").write_text("second")
    assert cluster.client.wait(job_id, 60).state is JobState.SUCCEEDED
    cluster.wait_for(job_id, lambda _: "read first" in cluster.cli("job", "logs", job_id).stdout)


def test_plan_says_when_and_where_and_submits_nothing(cluster: Cluster, tmp_path: Path) -> None:
    before = len(cluster.client.store.list_jobs())
    path = tmp_path / "job.yaml"
    path.write_text("name: sketch\nrun: echo hi\ncarbon: {expected_duration: 6s, max_delay: 8h}\n")
    plan = json.loads(cluster.cli("job", "plan", str(path), "-o", "json").stdout)
    assert plan["segments"]
    assert {s["zone"] for s in plan["segments"]} <= {"BB", "CC"}  # both are cleaner than AA
    assert plan["carbon_g"] < plan["run_now_g"]
    assert len(cluster.client.store.list_jobs()) == before


def test_a_launch_that_no_node_takes_in_is_taken_back(cluster: Cluster, tmp_path: Path) -> None:
    import ray
    from ray._private.state import available_resources_per_node

    launcher = Launcher(cluster.client.record.dashboard_url, tmp_path / "state", tmp_path / "run")
    began = tmp_path / "began"
    attempt = Attempt(1, "taken-back-a1", "aa-1", "AA", AttemptState.LAUNCHING, 0.0)
    spec = JobSpec("taken-back", f"touch {began}", deadline_s=1e9, demand=Resources(1.0))
    job = Job("taken-back", spec, JobState.QUEUED, Reason.RUNNING, "", 0.0, attempts=(attempt,))
    node = next(info["NodeID"] for info in ray.nodes() if info["Labels"].get("eco_node") == "aa-1")
    holds = ray.remote(num_cpus=1, label_selector={"ray.io/node-id": node})(lambda: time.sleep(60))
    held = holds.remote()
    cluster_is_full = time.monotonic() + 30
    while available_resources_per_node()[node].get("CPU", 0.0) and time.monotonic() < cluster_is_full:
        time.sleep(0.1)
    launcher.take_back(attempt.submission_id)  # of which Ray knows nothing
    launcher.start(job, attempt, node)
    status = launcher.wait_final(attempt.submission_id, 1.0)
    assert status is not None
    assert status.status == "PENDING"
    deadline = time.monotonic() + 30
    while not status.is_final and time.monotonic() < deadline:
        launcher.take_back(attempt.submission_id)
        status = launcher.wait_final(attempt.submission_id, 1.0)
        assert status is not None
    ray.cancel(held, force=True)
    assert (status.status, status.exit_code, began.exists()) == ("FAILED", None, False)
