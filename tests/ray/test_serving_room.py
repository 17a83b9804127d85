"""A job that holds a whole node leaves it to a replica that promised a latency, and goes on when that has gone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from live_cluster import Cluster

from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import Deployment
from eco_ray.core.jobs import JobState
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.weights import save_model
from eco_ray.on_ray import at_once
from eco_ray.on_ray.local_cluster import free_port
from eco_ray.on_ray.serve_config import ServingConfig, app_name, serve_config
from eco_ray.on_ray.serving.needs import NeedsWatch, Replicas, serve_replicas, tell_controller
from eco_ray.sim.recorded import decide_again

if TYPE_CHECKING:
    from eco_ray.on_ray.ray_serve import RayServing

pytestmark = pytest.mark.timeout(120)
STEPS = 60


@pytest.fixture
def serving(cluster: Cluster) -> Iterator[tuple[RayServing, ServingConfig]]:
    from eco_ray.on_ray.ray_serve import RayServing  # with Ray, which must know of the token that is set by now

    settings = cluster.client.settings
    config = ServingConfig("127.0.0.1", free_port(), settings.state_dir, settings.store_url)
    yield RayServing(config), config
    at_once.shutdown()


def test_a_job_gives_way_to_a_replica_and_takes_its_node_back(
    cluster: Cluster, serving: tuple[RayServing, ServingConfig], tmp_path: Path
) -> None:
    steps = cluster.folder / "steps-gave-way"
    job = cluster.script(
        "counts.py", str(steps), str(STEPS), zones="CC", name="gives-way", expected_duration="8s", max_delay="24h",
        min_run="0s", resume_cost="1s",
    )  # fmt: skip
    job_id = cluster.client.submit(job)
    cluster.wait_for(job_id, lambda j: (j.progress or 0) > 0.05)
    save_model(SmallCNN(), tmp_path / "model.safetensors", {"version": 1, "accuracy": 0.1})
    one = Deployment(
        "urgent", 1, path=str(tmp_path / "model.safetensors"), demand=Resources(1.0), slo_p95_s=0.2, nodes=("cc-1",)
    )
    ray_serve, config = serving
    ray_serve.account(app_name(one), one, 1)
    ray_serve.apply(serve_config([one], {}, config, router=False))
    deployed, seen = [one], list[Replicas | None]()

    def replicas(app: str) -> Replicas | None:
        seen.append(serve_replicas(app))
        return seen[-1]

    watch = NeedsWatch(lambda: deployed, replicas, tell_controller)
    url = f"http://127.0.0.1:{config.port}/v2/models/urgent/ready"

    def answers() -> bool:
        watch.look_once()
        try:
            return httpx.get(url, timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    until = time.monotonic() + 50
    while not answers():
        assert time.monotonic() < until, (seen[-3:], tell_controller("urgent"), cluster.client.job(job_id).message)
        time.sleep(0.5)
    assert Replicas(1, 1) in seen, "it would have started without help"
    job = cluster.client.job(job_id)
    assert (job.state, job.reason) == (JobState.SUSPENDED, "Suspended")
    assert job.message.startswith("gives way to model urgent, which promised p95 200 ms; ")
    told = cluster.cli("job", "explain", job_id).stdout
    assert "gives way to model urgent" in told
    assert [one["node"] for one in tell_controller("urgent")["granted"]] == ["cc-1"]
    # the model is undeployed
    ray_serve.apply(serve_config([], {}, config, router=False))
    deployed.clear()
    watch.look_once()
    ended = cluster.client.wait(job_id, 60)
    assert (ended.state, ended.resumes) == (JobState.SUCCEEDED, 1), ended.message
    assert tell_controller("urgent")["granted"] == []
    done = Counter(line.split()[1] for line in steps.read_text().splitlines())
    assert set(done.values()) == {1}
    assert len(done) == STEPS
    # a fresh orchestrator decides the same from the same events, of this job and all before it
    logs = [one for one in decide_again(cluster.settings.state_dir) if one.kind == "jobs"]
    assert [one.different for one in logs] == [()] * len(logs)
    assert "gives way to model urgent" in logs[-1].file.read_text()
