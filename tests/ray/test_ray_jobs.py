"""Ray's own job API beside ours: `eco-ray run`, eco.* metadata, plain jobs, leftovers, what is exposed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from live_cluster import SCRIPTS, Cluster

from eco_ray.core.jobs import JobState
from eco_ray.on_ray.local_cluster import _with_descendants, start_ticks

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def ray_jobs(cluster: Cluster):
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(cluster.client.record.dashboard_url)


def wait_ray(ray_jobs, submission_id: str, timeout_s: float = 90.0) -> str:
    deadline = time.monotonic() + timeout_s
    while not ray_jobs.get_job_status(submission_id).is_terminal():
        assert time.monotonic() < deadline, ray_jobs.get_job_logs(submission_id)
        time.sleep(0.1)
    return str(ray_jobs.get_job_status(submission_id).value)


def test_eco_ray_run_as_entrypoint_waits_and_runs_on_a_worker_node(cluster: Cluster, ray_jobs, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("import os; print('hello from', os.environ['ECO_RAY_JOB_ID'])")
    submission = ray_jobs.submit_job(
        entrypoint="eco-ray run --deadline 10h --expected-duration 3s --zones BB,CC -- python hello.py",
        runtime_env={"working_dir": str(tmp_path)},
        metadata={"eco.tenant": "vision"},
    )
    assert wait_ray(ray_jobs, submission) == "SUCCEEDED", ray_jobs.get_job_logs(submission)
    assert f"hello from {submission}" in ray_jobs.get_job_logs(submission)
    job = cluster.client.job(submission)
    assert (job.state, job.spec.tenant, job.spec.run) == (JobState.SUCCEEDED, "vision", "python hello.py")
    assert job.attempts[0].zone in ("BB", "CC")


def test_eco_ray_run_passes_the_exit_code_on_and_cancels_with_its_driver(cluster: Cluster, ray_jobs) -> None:
    failing = ray_jobs.submit_job(
        entrypoint=f"eco-ray run --policy run-now -- {sys.executable} -c 'raise SystemExit(7)'"
    )
    assert wait_ray(ray_jobs, failing) == "FAILED"
    assert ray_jobs.get_job_info(failing).driver_exit_code == 7
    steps = cluster.folder / "steps-stopped"
    script = f"{sys.executable} {SCRIPTS / 'counts.py'} {steps} 900"
    stopped = ray_jobs.submit_job(entrypoint=f"exec eco-ray run --policy run-now -- {script}")
    cluster_job = lambda: cluster.client.store.get_job(stopped)  # noqa: E731
    deadline = time.monotonic() + 60
    while (job := cluster_job()) is None or job.state is not JobState.RUNNING:
        assert time.monotonic() < deadline, ray_jobs.get_job_logs(stopped)
        time.sleep(0.1)
    ray_jobs.stop_job(stopped)
    assert cluster.wait_for(stopped, lambda j: j.state.is_final).state is JobState.CANCELLED


def test_metadata_of_a_stock_ray_job_is_honoured_by_a_session(cluster: Cluster, ray_jobs) -> None:
    steps = cluster.folder / "steps-metadata"
    submission = ray_jobs.submit_job(
        entrypoint=f"{sys.executable} {SCRIPTS / 'counts.py'} {steps} 10",
        metadata={"eco.deadline": "8h", "eco.zones": "CC", "eco.expected_duration": "3s"},
    )
    assert wait_ray(ray_jobs, submission) == "SUCCEEDED", ray_jobs.get_job_logs(submission)
    job = cluster.client.job(submission)
    assert (job.state, job.attempts[0].zone) == (JobState.SUCCEEDED, "CC")
    assert len(steps.read_text().splitlines()) == 10


@pytest.mark.parametrize("workers", [1, 2])
def test_fit_runs_in_a_stock_ray_job_that_has_no_metadata_of_ours(cluster: Cluster, ray_jobs, workers: int) -> None:
    if workers > 1:
        pytest.importorskip("pyarrow", reason="Ray Train needs pyarrow: pip install 'eco-ray[train]'")
    lines = cluster.folder / f"steps-fit-{workers}"
    submission = ray_jobs.submit_job(
        entrypoint=f"{sys.executable} {SCRIPTS / 'elastic.py'} {lines} 2 0.01",
        runtime_env={"env_vars": {"ECO_RAY_WORKERS": str(workers)}},
    )
    assert wait_ray(ray_jobs, submission, 150) == "SUCCEEDED", ray_jobs.get_job_logs(submission)
    rows = [line.split() for line in lines.read_text().splitlines()]
    assert [row[:3] for row in rows] == [["1", str(workers), str(24 * step)] for step in range(1, 21)]
    assert cluster.client.store.get_job(submission) is None  # it is not a job of ours, and just runs


def test_fit_in_a_stock_ray_job_with_metadata_is_an_attempt_with_a_session(cluster: Cluster, ray_jobs) -> None:
    lines = cluster.folder / "steps-fit-metadata"
    submission = ray_jobs.submit_job(
        entrypoint=f"{sys.executable} {SCRIPTS / 'elastic.py'} {lines} 4 0.1",
        metadata={"eco.deadline": "8h", "eco.zones": "CC", "eco.expected_duration": "4s"},
    )
    assert wait_ray(ray_jobs, submission) == "SUCCEEDED", ray_jobs.get_job_logs(submission)
    job = cluster.client.job(submission)
    assert (job.state, job.attempts[0].zone, job.progress) == (JobState.SUCCEEDED, "CC", 1.0)
    assert job.has_checkpoint
    assert len(str(job.metrics["weights"]).split()) == 5
    assert [int(line.split()[2]) for line in lines.read_text().splitlines()] == list(range(24, 961, 24))


def test_bad_metadata_is_an_error_of_the_job(cluster: Cluster, ray_jobs) -> None:
    submission = ray_jobs.submit_job(entrypoint="eco-ray run -- true", metadata={"eco.deadlin": "8h"})
    assert wait_ray(ray_jobs, submission) == "FAILED"
    assert ray_jobs.get_job_info(submission).driver_exit_code == 2
    assert "did you mean 'eco.deadline'" in ray_jobs.get_job_logs(submission)


def test_a_plain_ray_job_is_metered_and_accounted(cluster: Cluster, ray_jobs, tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        "import ray, time\nray.init()\n@ray.remote(num_cpus=1)\ndef burn():\n"
        "    while time.process_time() < 4: pass\nray.get(burn.remote())\n"
    )
    submission = ray_jobs.submit_job(entrypoint=f"{sys.executable} {script}")
    assert wait_ray(ray_jobs, submission) == "SUCCEEDED", ray_jobs.get_job_logs(submission)
    time.sleep(2.0)
    rows = cluster.client.store.owner_intervals("job", submission)
    worker = [row for row in rows if row.node != "head"]
    assert sum(row.energy_mj for row in worker) > 50_000 * 2.5 * 600  # 50 W of dynamic power for most of 4 s
    facts = cluster.client.store.get_meta("ray_jobs")
    assert facts[submission]["state"] == "SUCCEEDED"


def test_what_an_attempt_leaves_behind_is_removed(cluster: Cluster, ray_jobs, tmp_path: Path) -> None:
    """A detached actor with a child, a placement group and a daemon process of a finished attempt do not stay."""
    script = tmp_path / "leaves.py"
    script.write_text(
        "import ray, subprocess, sys\nfrom ray.util.placement_group import placement_group\n"
        "ray.init(namespace='left')\n"
        "@ray.remote(num_cpus=0)\nclass Child:\n    def ping(self): return 1\n"
        "@ray.remote(num_cpus=0)\nclass Left:\n"
        "    def __init__(self): self.child = Child.remote(); ray.get(self.child.ping.remote())\n"
        "    def ping(self): return 1\n"
        "a = Left.options(name='left-actor', lifetime='detached').remote(); ray.get(a.ping.remote())\n"
        "g = placement_group([{'CPU': 0.1}], lifetime='detached', name='left-group')\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)  # {tmp_path.name}'],"
        " start_new_session=True)\n"
    )
    job_id = cluster.client.submit(cluster.job(f"{sys.executable} {script}", zones="CC", num_cpus="0.5"))
    assert cluster.client.wait(job_id, 60).state is JobState.SUCCEEDED

    import ray
    from ray.util import state

    def left() -> list[str]:
        url = cluster.client.record.dashboard_url
        actors = [
            a.name for a in state.list_actors(url, filters=[("state", "=", "ALIVE")]) if a.ray_namespace == "left"
        ]
        groups = [g.name for g in state.list_placement_groups(url) if g.state != "REMOVED" and g.name == "left-group"]
        found = subprocess.run(
            ["pgrep", "-f", f"time.sleep\\(300\\)  # {tmp_path.name}"], capture_output=True, text=True
        )
        return actors + groups + found.stdout.split()

    assert ray.is_initialized()
    deadline = time.monotonic() + 20
    while left() and time.monotonic() < deadline:
        time.sleep(0.3)
    assert left() == []


def test_every_socket_is_bound_to_loopback(cluster: Cluster) -> None:
    pids = {
        pid for pid, _ in _with_descendants([pid for pid, ticks in cluster.client.record.processes if start_ticks(pid)])
    }
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                match = re.fullmatch(r"socket:\[(\d+)\]", str(fd.readlink()))
            except OSError:
                continue
            if match:
                inodes.add(match[1])
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].rpartition(":")[0])
    assert len(listening) > 10
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert set(listening) <= loopback, set(listening) - loopback


def test_the_job_api_wants_the_token(cluster: Cluster) -> None:
    import httpx

    answer = httpx.get(f"{cluster.client.record.dashboard_url}/api/jobs/", timeout=10)
    assert answer.status_code in (401, 403)
    token = Path(str(cluster.client.record.token_file))
    assert token.stat().st_mode & 0o077 == 0


def test_doctor_knows_every_node_and_finds_nothing_open(cluster: Cluster) -> None:
    document = json.loads(cluster.cli("doctor", "-o", "json").stdout)
    assert document["ok"] is True
    assert document["open_ports"] == []
    nodes = {node["node"]: node for node in document["nodes"] if not node["error"]}
    assert {"aa-1", "bb-1", "cc-1", "head"} <= nodes.keys()
    host, gpus = nodes["aa-1"]["findings"]
    assert (host["how"], gpus["how"]) == ("modelled", "none")
    assert "shares its machine" in host["better"]
    assert {signal["zone"] for signal in document["signals"]} >= {"AA", "BB", "CC"}
    text = cluster.cli("doctor").stdout
    assert "How to know it better" in text
    assert "No port of Ray or Serve" in text  # and of others, such as sshd's, that nobody can say whose they are
