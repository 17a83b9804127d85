"""The suspend controller, as a process with kopf in it, against a small API server over real HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kube_server import RIGHTS, TOKEN, KubeServer
from rayjob_cases import a_rayjob, stamp

pytest.importorskip("kopf", reason="kopf is not installed: pip install 'eco-ray[k8s]'")

HOUR_S = 3600.0
CLUSTER = """
name: test
home_zone: DE
nodes: [{name: de-1, zone: DE, num_cpus: 1, memory_gb: 1, power: {idle_w: 50, max_w: 100, source: a test}}]
grid: {source: trace, file: grid.csv}
"""
#: from now on: dirty for hours, then clean
DIRTY_H = 6


class Controller:
    """A process that can be killed and started again."""

    def __init__(self, server: KubeServer, folder: Path) -> None:
        self._folder, self._process = folder, None
        self.log = folder / "log"
        hour_s = time.time() // HOUR_S * HOUR_S
        rows = [f"{stamp(hour_s + i * HOUR_S)},{400 if i < DIRTY_H else 50}" for i in range(-2, 60)]
        (folder / "grid.csv").write_text("time,DE\n" + "\n".join(rows) + "\n")
        (folder / "cluster.yaml").write_text(CLUSTER)
        config = {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": server.url}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
        }
        (folder / "kubeconfig").write_text(json.dumps(config))  # JSON is YAML

    def start(self, *options: str) -> None:
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._folder / "kubeconfig"),
            "ECO_RAY_STATE_DIR": str(self._folder / "state"),
        }
        command = [sys.executable, "-m", "eco_ray.cli.main", "-o", "json", "k8s", "suspend-controller"]
        arguments = ["--cluster", "cluster.yaml", "--interval", "1s", "--launch-time", "0s", *options]
        with self.log.open("a") as log, (self._folder / "out").open("a") as out:
            self._process = subprocess.Popen(
                [*command, *arguments], cwd=self._folder, env=environment, stdout=out, stderr=log
            )

    def told(self) -> list[dict]:
        """What it printed."""
        return [json.loads(line) for line in (self._folder / "out").read_text().splitlines()]

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        self._process.send_signal(how)
        return self._process.wait(60)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as running:
        yield running


@pytest.fixture
def controller(server: KubeServer, tmp_path: Path) -> Iterator[Controller]:
    one = Controller(server, tmp_path)
    server.alive = lambda: one.runs
    yield one
    one.close()
    print(one.log.read_text()[-4000:] if one.log.exists() else "")


def asks(deadline_h: float = 24) -> dict[str, str]:
    return {"deadline": f"{deadline_h * 60:.0f}m", "expected-duration": "1h"}


def fresh(name: str = "train", **options) -> dict:
    return a_rayjob(name, created_s=time.time(), **{"asks": asks(), **options})


def due(name: str, in_s: float) -> dict:
    """A job that was held before, and whose planned start comes soon."""
    from eco_ray.k8s.rayjob import read

    body = fresh(name, suspend=True)
    start = {"eco-ray.io/planned-start": stamp(time.time() + in_s), "eco-ray.io/planned-for": read(body).planned_for}
    return fresh(name, suspend=True, annotations=start)


def suspended(server: KubeServer, name: str = "train") -> bool | None:
    return server.get(name)["spec"].get("suspend")


def note(server: KubeServer, key: str, name: str = "train") -> str | None:
    return server.get(name)["metadata"]["annotations"].get(f"eco-ray.io/{key}")


def releases(server: KubeServer, name: str) -> int:
    return sum("eco-ray.io/released" in patch["metadata"]["annotations"] for key, patch in server.patched if key[1] == name)


def test_jobs_are_held_and_released_with_events_and_the_rights_that_are_documented(server, controller):
    server.put(fresh("there"))  # before the controller
    server.put(fresh("others", asks={}))
    server.put(fresh("queued", suspend=True, labels={"kueue.x-k8s.io/queue-name": "q"}))
    server.put(fresh("runs", status={"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}))
    server.put(due("soon", 4))
    controller.start("--apply")
    server.wait(lambda: suspended(server, "there"), "the hold of a job that was there")
    server.put(fresh("late"))  # and one that the watch tells of
    server.put(fresh("wrong", asks={"deadline": "soon"}))
    server.wait(lambda: suspended(server, "late"), "the hold of a new job")
    server.wait(lambda: suspended(server, "soon") is False, "the release")
    server.wait(lambda: {e["reason"] for e in server.events} >= {"Held", "Released", "Misconfigured"}, "events")
    assert {key[1] for key, _ in server.patched} == {"there", "late", "soon"}
    assert note(server, "planned-start", "there")
    assert note(server, "reason", "there").startswith("WaitingForCleanerWindow: ")
    wrong = next(e for e in server.events if e["reason"] == "Misconfigured")
    assert (wrong["type"], wrong["involvedObject"]["name"]) == ("Warning", "wrong")
    assert "'soon' is not a duration; write" in wrong["message"]
    assert not [one for one in server.requests if one[2] == 403]
    assert controller.end(signal.SIGTERM) == 0


def test_a_dry_run_reads_and_tells_and_writes_nothing(server, controller):
    server.put(fresh())
    server.put(fresh("free", suspend=True, asks={"deadline": "1m"}))
    server.put(fresh("wrong", asks={"zones": ""}))
    before = json.dumps(list(server.objects.values()))
    server.rights = RIGHTS - {("patch", "rayjobs"), ("create", "events")}
    controller.start()
    server.wait(lambda: len(controller.told()) >= 3, "what it would do")
    time.sleep(2.5)  # more rounds
    told = {one["rayjob"]: (one["act"], one["done"]) for one in controller.told()}
    expected = {"train": "hold", "free": "release", "wrong": "refuse"}
    assert told == {f"default/{name}": (act, False) for name, act in expected.items()}
    assert len(controller.told()) == 3  # once each
    assert {method for method, _, _ in server.requests} == {"GET"}
    assert json.dumps(list(server.objects.values())) == before


def test_a_job_that_changes_while_it_is_patched_is_read_and_decided_again(server, controller):
    """KubeRay writes the status at the same time: once, and then so that the job runs."""
    met = []

    def kuberay(method, path):
        name = path.rpartition("/")[2]
        if method == "PATCH" and met.count(name) < 1:
            met.append(name)
            runs = name == "quick"
            status = {"jobDeploymentStatus": "Running" if runs else "Initializing"}
            server.put({"metadata": {"namespace": "default", "name": name}, "status": status})

    server.before = kuberay
    server.put(fresh("slow"))
    server.put(fresh("quick"))
    controller.start("--apply")
    server.wait(lambda: suspended(server, "slow"), "the hold after a conflict")
    server.wait(lambda: "quick" in met, "the other conflict")
    time.sleep(1.5)
    assert [status for _, _, status in server.asked("PATCH", "/slow")] == [409, 200]
    assert [status for _, _, status in server.asked("PATCH", "/quick")] == [409]
    assert suspended(server, "quick") is None  # it runs: left alone


@pytest.mark.parametrize("apart", ["dropped", "gone", "restarted", "failing"])
def test_nothing_is_missed_where_the_watch_breaks(server, controller, apart):
    server.put(fresh("before"))
    server.put(due("due", 6))
    controller.start("--apply")
    server.wait(lambda: suspended(server, "before"), "the first hold")
    server.wait(lambda: server.asked("GET", "watch=true"), "the watch")
    if apart == "gone":
        server.forget_history()  # together with
        server.drop_watches()
    if apart == "dropped":
        server.drop_watches()
    if apart == "failing":
        server.failing = 503
        server.drop_watches()
    if apart == "restarted":
        server.stop()
        time.sleep(0.5)
    server.put(fresh("meanwhile"))
    if apart == "gone":
        server.delete("before")
        server.forget_history()
    if apart == "failing":
        time.sleep(1.0)
        server.failing = None
    if apart == "restarted":
        server.start()
    server.wait(lambda: suspended(server, "meanwhile"), "the hold of what came meanwhile")
    server.wait(lambda: suspended(server, "due") is False, "the release in time")
    assert (releases(server, "due"), releases(server, "meanwhile")) == (1, 0)
    assert controller.runs


@pytest.mark.parametrize("act", ["hold", "release"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_it_acts_it_does_the_rest_and_nothing_twice(server, controller, act, moment):
    """SIGKILL when the patch has been sent and has not taken effect, or has and was not answered."""
    reached, go_on = threading.Event(), threading.Event()

    def hold_up(method, _path):
        if method == "PATCH" and not reached.is_set():
            reached.set()
            go_on.wait(60)
            raise ConnectionAbortedError("the client was killed")

    setattr(server, moment, hold_up)
    server.put(fresh("train") if act == "hold" else due("train", 0))
    controller.start("--apply")
    server.wait(reached.is_set, "the patch")
    controller.end()
    go_on.set()
    assert len(server.patched) == (moment == "after")
    written = note(server, "planned-start")
    controller.start("--apply")
    server.wait(lambda: suspended(server) is (act == "hold"), act)
    time.sleep(1.5)  # more rounds
    assert len(server.patched) == 1
    assert releases(server, "train") == (act == "release")
    if moment == "after" or act == "release":
        assert note(server, "planned-start") == written


def test_killed_between_hold_and_release_it_releases_at_the_same_time(server, controller):
    body = due("train", 5)
    start = body["metadata"]["annotations"]["eco-ray.io/planned-start"]
    server.put(body)
    for _ in range(2):
        controller.start("--apply")
        seen = len(server.asked("GET", "watch=true"))
        server.wait(lambda seen=seen: len(server.asked("GET", "watch=true")) > seen, "the watch")
        controller.end()
    assert server.patched == []
    controller.start("--apply")
    server.wait(lambda: suspended(server) is False, "the release")
    assert note(server, "released") >= start
    assert (note(server, "planned-start"), len(server.patched)) == (start, 1)


def test_two_controllers_release_once(server, controller, tmp_path):
    server.put(due("train", 6))
    other = Controller(server, tmp_path / "other") if (tmp_path / "other").mkdir() is None else None
    try:
        controller.start("--apply")
        other.start("--apply")
        server.wait(lambda: suspended(server) is False, "the release")
        time.sleep(1.5)
        assert releases(server, "train") == 1
    finally:
        other.close()


def test_a_new_token_is_taken(server, controller, tmp_path):
    server.put(fresh("first"))
    controller.start("--apply")
    server.wait(lambda: suspended(server, "first"), "the first hold")
    config = tmp_path / "kubeconfig"
    config.write_text(config.read_text().replace(TOKEN, "another-token"))
    server.token = "another-token"
    server.drop_watches()
    server.put(fresh("second"))
    server.wait(lambda: suspended(server, "second"), "the hold with the new token")
    assert controller.runs


def test_without_the_right_to_patch_it_says_so_and_goes_on(server, controller):
    server.rights = RIGHTS - {("patch", "rayjobs")}
    server.put(fresh())
    controller.start("--apply")
    server.wait(lambda: server.asked("PATCH"), "the patch")
    server.rights = RIGHTS
    server.wait(lambda: suspended(server), "the hold")
    assert "give its service account get, list, watch and patch on rayjobs.ray.io" in controller.log.read_text()


def test_only_its_namespaces(server, controller):
    server.put(fresh("mine"))
    server.put(fresh("theirs", namespace="other"))
    controller.start("--apply", "--namespace", "default")
    server.wait(lambda: suspended(server, "mine"), "the hold")
    time.sleep(1.0)
    assert "suspend" not in server.get("theirs", "other")["spec"]
    assert not server.asked("GET", "/apis/ray.io/v1/rayjobs")
