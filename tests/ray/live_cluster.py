"""The shared cluster of these tests: three nodes in three made-up zones, a fast clock, a made-up grid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eco_ray.config import Settings
from eco_ray.core.jobs import Job
from eco_ray.job_file import JobFile, job_from_flags
from eco_ray.on_ray.client import Client

SPEED = 600.0
START = datetime(2026, 1, 5, tzinfo=UTC)
SCRIPTS = Path(__file__).parents[1] / "scripts"
CLUSTER = """
name: test
home_zone: AA
head: {{num_cpus: 0, power: {{idle_w: 5, max_w: 10, source: test}}}}
nodes:
  - {{name: aa-1, zone: AA, num_cpus: 1, memory_gb: 2, power: {{idle_w: 50, max_w: 100, source: test}}}}
  - {{name: bb-1, zone: BB, num_cpus: 1, memory_gb: 2, power: {{idle_w: 50, max_w: 100, source: test}}}}
  - {{name: cc-1, zone: CC, num_cpus: 1, memory_gb: 2, power: {{idle_w: 50, max_w: 100, source: test}}}}
grid: {{source: trace, file: {trace}}}
clock: {{speed: {speed}, start: "2026-01-05T00:00Z"}}
planner: {{slot: 15m, horizon: 48h, default_max_delay: 24h}}
pause_timeout: 4s
sample_period: 0.5s
serve: {{port: 8000}}
"""


def intensities(hour: int) -> dict[str, float]:
    """AA constant and dirty; BB clean for two hours, then dirty for two; CC in between; EE (a spare zone) cleanest."""
    return {"AA": 300.0, "BB": 100.0 if hour % 4 < 2 else 500.0, "CC": 200.0, "EE": 50.0}


@dataclass
class Cluster:
    """What tests need of the shared cluster."""

    settings: Settings
    client: Client
    folder: Path

    def job(self, command: str, /, **flags: str) -> JobFile:
        """A job that runs at once unless the flags say otherwise, with no work directory."""
        return job_from_flags(command, {"policy": "run-now", **flags})

    def script(self, script: str, /, *args: str, **flags: str) -> JobFile:
        """A job that runs one of tests/scripts."""
        return self.job(" ".join([sys.executable, str(SCRIPTS / script), *args]), **flags)

    def wait_for(self, job_id: str, what: Callable[[Job], bool], timeout_s: float = 40.0) -> Job:
        """Wait until a job's record has a property."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            job = self.client.job(job_id)
            if what(job):
                return job
            time.sleep(0.05)
        log = "\n".join(f"{e.time_s:.0f} {e.kind}: {e.message}" for e in self.client.store.job_log(job_id))
        raise AssertionError(f"{job_id} is {job.state}: {job.message}\n{log}")

    def cli(self, *args: str, check: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user would."""
        done = subprocess.run(
            [sys.executable, "-m", "eco_ray.cli.main", *args],
            env={**os.environ, "ECO_RAY_STATE_DIR": str(self.settings.state_dir), **env},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done


def driven(script: str, folder: Path, timeout_s: float = 380.0) -> dict[str, Any]:
    """What a driver of this folder saw (`autoscaled_driver`), which has a folder to itself."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(SCRIPTS.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / script), str(folder)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
