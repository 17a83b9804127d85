"""The suspend controller with kopf in it, in a thread or as a process, against a small API server over real HTTP."""

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
from rayjob_cases import a_rayjob, hourly, stamp

pytest.importorskip("kopf", reason="kopf is not installed: pip install 'eco-ray[k8s]'")

from eco_ray.core.situation import PlannerConfig
from eco_ray.k8s.decision import Rules
from eco_ray.k8s.operator import Options, run
from eco_ray.k8s.rayjob import read

HOUR_S = 3600.0
CLUSTER = """
name: test
home_zone: DE
nodes: [{name: de-1, zone: DE, num_cpus: 1, memory_gb: 1, power: {idle_w: 50, max_w: 100, source: a test}}]
grid: {source: trace, file: grid.csv}
"""


#: by zone: dirty for hours, then clean; and so slowly falling that no written plan is worth another one
AHEAD = {"DE": [400.0] * 6 + [50.0] * 60, "FR": [400 - i / 1000 for i in range(66)]}


class Grid:
    """What is ahead, from this hour on."""

    name = "a test"

    def zones(self):
        return tuple(AHEAD)

    def forecast(self, zone, now_s, end_s):
        return hourly(AHEAD[zone], zone, now_s // HOUR_S * HOUR_S)

    actual = forecast


class Controller:
    """The controller in a thread of this process."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, bool]] = []
        self._options: Options | None = None
        self._thread: threading.Thread | None = None

    def start(self, **options) -> None:
        self._options = Options(interval_s=1.0, **options)
        rules = Rules("DE", PlannerConfig(), launch_s=0.0)
        arguments = (Grid(), rules, self._options, self._show)
        self._thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._thread.start()

    def _show(self, body, decision, done) -> None:
        self.told.append((body["metadata"]["name"], str(decision.act), done))

    @property
    def runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        if self._options is not None and not self._options.stop.done():
            self._options.stop.set_result("the test is over")
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()


class Process:
    """The controller as a command that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, None
        hour_s = time.time() // HOUR_S * HOUR_S
        values = zip(AHEAD["DE"], AHEAD["FR"], strict=True)
        rows = [f"{stamp(hour_s + i * HOUR_S)},{de},{fr}" for i, (de, fr) in enumerate(values)]
        (folder / "grid.csv").write_text("time,DE,FR\n" + "\n".join(rows) + "\n")
        (folder / "cluster.yaml").write_text(CLUSTER)

    def start(self, *options: str) -> None:
        command = [sys.executable, "-m", "eco_ray.cli.main", "-o", "json", "k8s", "suspend-controller"]
        arguments = ["--cluster", "cluster.yaml", "--interval", "1s", "--launch-time", "0s", *options]
        environment = {**os.environ, "ECO_RAY_STATE_DIR": str(self._folder / "state")}
        with (self._folder / "log").open("a") as log, (self._folder / "out").open("a") as out:
            self._process = subprocess.Popen(
                [*command, *arguments], cwd=self._folder, env=environment, stdout=out, stderr=log
            )

    @property
    def told(self) -> list[dict]:
        return [json.loads(line) for line in (self._folder / "out").read_text().splitlines()]

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        self._process.send_signal(how)
        return self._process.wait(60)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        if self.runs:
            self.end()
        log = self._folder / "log"
        sys.stdout.write(log.read_text()[-4000:] if log.exists() else "")  # shown where a test fails


def log_in(folder: Path, server: KubeServer, token: str) -> None:
    config = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": server.url}}],
        "users": [{"name": "test", "user": {"token": token}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(config))  # JSON is YAML


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeServer]:
    with KubeServer() as running:
        log_in(tmp_path, running, TOKEN)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield running


@pytest.fixture
def controller(server: KubeServer) -> Iterator[Controller]:
    one = Controller()
    server.alive = lambda: one.runs
    yield one
    one.close()


@pytest.fixture
def process(server: KubeServer, tmp_path: Path) -> Iterator[Process]:
    one = Process(tmp_path)
    server.alive = lambda: one.runs
    yield one
    one.close()


def asks(deadline_h: float = 24) -> dict[str, str]:
    return {"deadline": f"{deadline_h * 60:.0f}m", "expected-duration": "1h"}


def fresh(name: str = "train", **options) -> dict:
    return a_rayjob(name, created_s=time.time(), **{"asks": asks(), **options})


def due(name: str, in_s: float) -> dict:
    """A job that was held before, and whose planned start comes soon."""
    wishes = {"asks": asks() | {"zones": "FR"}, "suspend": True}
    planned_for = read(fresh(name, **wishes)).planned_for
    start = {"eco-ray.io/planned-start": stamp(time.time() + in_s), "eco-ray.io/planned-for": planned_for}
    return fresh(name, annotations=start, **wishes)


def suspended(server: KubeServer, name: str = "train") -> bool | None:
    return server.get(name)["spec"].get("suspend")


def note(server: KubeServer, key: str, name: str = "train") -> str | None:
    return server.get(name)["metadata"]["annotations"].get(f"eco-ray.io/{key}")


def releases(server: KubeServer, name: str) -> int:
    return sum(
        "eco-ray.io/released" in patch["metadata"]["annotations"] for key, patch in server.patched if key[1] == name
    )


def test_jobs_are_held_and_released_with_events_and_the_rights_that_are_documented(server, controller):
    server.put(fresh("there"))  # before the controller
    server.put(fresh("others", asks={}))
    server.put(fresh("queued", suspend=True, labels={"kueue.x-k8s.io/queue-name": "q"}))
    server.put(fresh("runs", status={"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}))
    server.put(due("soon", 4))
    controller.start(apply=True)
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


def test_a_dry_run_reads_and_tells_and_writes_nothing(server, process):
    server.put(fresh())
    server.put(fresh("free", suspend=True, asks={"deadline": "1m"}))
    server.put(fresh("wrong", asks={"zones": ""}))
    before = json.dumps(list(server.objects.values()))
    server.rights = RIGHTS - {("patch", "rayjobs"), ("create", "events")}
    process.start()
    server.wait(lambda: len(process.told) >= 3, "what it would do")
    time.sleep(2.5)  # more rounds
    told = {one["rayjob"]: (one["act"], one["done"]) for one in process.told}
    expected = {"train": "hold", "free": "release", "wrong": "refuse"}
    assert told == {f"default/{name}": (act, False) for name, act in expected.items()}
    assert len(process.told) == 3  # once each
    assert {method for method, _, _ in server.requests} == {"GET"}
    assert json.dumps(list(server.objects.values())) == before
    assert process.end(signal.SIGTERM) == 0


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
    controller.start(apply=True)
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
    controller.start(apply=True)
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


@pytest.mark.parametrize(
    ("act", "moment"),
    [
        ("hold", "after"),
        ("release", "before"),
        pytest.param("hold", "before", marks=pytest.mark.slow),
        pytest.param("release", "after", marks=pytest.mark.slow),
    ],
)
def test_killed_while_it_acts_it_does_the_rest_and_nothing_twice(server, process, act, moment):
    """SIGKILL when the patch has been sent and has not taken effect, or has and was not answered."""
    reached, go_on = threading.Event(), threading.Event()

    def hold_up(method, _path):
        if method == "PATCH" and not reached.is_set():
            reached.set()
            go_on.wait(60)
            raise ConnectionAbortedError("the client was killed")

    setattr(server, moment, hold_up)
    server.put(fresh("train") if act == "hold" else due("train", 0))
    process.start("--apply")
    server.wait(reached.is_set, "the patch")
    process.end()
    go_on.set()
    assert len(server.patched) == (moment == "after")
    written = note(server, "planned-start")
    process.start("--apply")
    server.wait(lambda: suspended(server) is (act == "hold"), act)
    time.sleep(1.5)  # more rounds
    assert len(server.patched) == 1
    assert releases(server, "train") == (act == "release")
    if moment == "after" or act == "release":
        assert note(server, "planned-start") == written


@pytest.mark.slow
def test_killed_between_hold_and_release_it_releases_at_the_same_time(server, process):
    body = due("train", 5)
    start = body["metadata"]["annotations"]["eco-ray.io/planned-start"]
    server.put(body)
    for _ in range(2):
        process.start("--apply")
        seen = len(server.asked("GET", "watch=true"))
        server.wait(lambda seen=seen: len(server.asked("GET", "watch=true")) > seen, "the watch")
        process.end()
    assert server.patched == []
    process.start("--apply")
    server.wait(lambda: suspended(server) is False, "the release")
    assert note(server, "released") >= start
    assert (note(server, "planned-start"), len(server.patched)) == (start, 1)


def test_two_controllers_release_once(server, controller):
    server.put(due("train", 3))
    other = Controller()
    try:
        controller.start(apply=True)
        other.start(apply=True)
        server.wait(lambda: suspended(server) is False, "the release")
        time.sleep(1.5)
        assert releases(server, "train") == 1
    finally:
        other.close()


def test_a_new_token_is_taken(server, controller, tmp_path):
    server.put(fresh("first"))
    controller.start(apply=True)
    server.wait(lambda: suspended(server, "first"), "the first hold")
    log_in(tmp_path, server, "another-token")
    server.token = "another-token"
    server.drop_watches()
    server.put(fresh("second"))
    server.wait(lambda: suspended(server, "second"), "the hold with the new token")
    assert controller.runs


def test_without_the_right_to_patch_it_says_so_and_goes_on(server, controller, caplog):
    server.rights = RIGHTS - {("patch", "rayjobs")}
    server.put(fresh())
    controller.start(apply=True)
    server.wait(lambda: server.asked("PATCH"), "the patch")
    server.rights = RIGHTS
    server.wait(lambda: suspended(server), "the hold")
    assert "give its service account get, list, watch and patch on rayjobs.ray.io" in caplog.text


def test_only_its_namespaces(server, controller):
    server.put(fresh("mine"))
    server.put(fresh("theirs", namespace="other"))
    controller.start(apply=True, namespaces=["default"])
    server.wait(lambda: suspended(server, "mine"), "the hold")
    time.sleep(1.0)
    assert "suspend" not in server.get("theirs", "other")["spec"]
    assert not server.asked("GET", "/apis/ray.io/v1/rayjobs")
