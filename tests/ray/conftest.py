"""One real Ray cluster for all tests here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from live_cluster import CLUSTER, SPEED, START, Cluster, intensities

from eco_ray.cluster_file import load_cluster_file
from eco_ray.config import load_settings
from eco_ray.on_ray import bootstrap
from eco_ray.on_ray.client import Client


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("c")
    trace = folder / "trace.csv"
    zones = list(intensities(0))
    rows = [f"{(START + timedelta(hours=h)).isoformat()},{','.join(str(v) for v in intensities(h).values())}"
            for h in range(-24, 24 * 60)]  # fmt: skip
    trace.write_text("\n".join([f"time,{','.join(zones)}", *rows]))
    path = folder / "cluster.yaml"
    path.write_text(CLUSTER.format(trace=trace, speed=SPEED))
    settings = load_settings({"state_dir": str(folder / "state"), "record_events": True})
    described = load_cluster_file(path, settings)
    with contextlib.ExitStack() as stack:
        stack.callback(bootstrap.down, settings)
        bootstrap.up(described, settings, lambda: described.clock.to_clock(time.time()))
        stack.callback(_leave)
        yield Cluster(settings, Client(settings), folder)


def _leave() -> None:
    import ray

    ray.shutdown()
