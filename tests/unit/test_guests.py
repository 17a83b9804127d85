"""What is on nodes: Serve's replicas and jobs' attempts, which of them can leave, and what a move costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from orchestrator_world import World
from planning_cases import HOUR_S, T0, a_node, hourly

from eco_ray.core.cluster import Resources
from eco_ray.core.consolidation import Consolidation, Hosts, next_drain
from eco_ray.core.deployments import Deployment
from eco_ray.core.jobs import SuspendRule
from eco_ray.core.replica_places import Room
from eco_ray.on_ray.serving.job_guests import rooms_and_jobs
from eco_ray.on_ray.serving.replica_guests import not_all_up, replica_guests, running_on
from eco_ray.on_ray.serving.rooms import rooms_of

DIRTY, GREEN = (Room(replace(a_node(name, name), ray_node_id=f"id-{name}"), Resources(), 100.0) for name in ("d", "g"))
MNIST = Deployment("mnist", 1, demand=Resources(0.5), zones=("g", "d"), nodes=("d", "g"), canary=2)


def replica(number, node="id-d", state="RUNNING"):
    return {"replica_id": f"r{number}", "node_id": node, "state": state}


def serve(**apps):
    """`apps`: name: (target, replicas), with _ for . in names."""
    told = {
        name.replace("_", "."): {
            "deployments": {
                "replica": {
                    "target_num_replicas": target,
                    "replicas": replicas,
                    "required_resources": {"CPU": 2.0, "memory": 3e9},
                    "deployment_config": {},
                }
            }
        }
        for name, (target, replicas) in apps.items()
    }
    return {"applications": told}


def test_replicas_are_guests_with_what_their_deployment_asks_for():
    details = serve(model_mnist=(1, [replica(1)]), canary_mnist=(1, [replica(2, "id-g")]), theirs=(1, [replica(3)]))
    ours, canary, theirs = replica_guests(details, [MNIST], [DIRTY, GREEN])
    assert (ours.name, ours.node, ours.demand) == ("model.mnist r1", "d", Resources(0.5))
    assert (ours.zones, ours.nodes, ours.stays) == (("g", "d"), ("d", "g"), False)
    assert ours.move_g == pytest.approx(20 / 3600 * 100 / 1000 * DIRTY.node.added_power_w(Resources(0.5), Resources()))
    assert (canary.name, canary.node) == ("canary.mnist r2", "g")
    assert (theirs.name, theirs.demand, theirs.nodes) == ("theirs/replica r3", Resources(2.0, 0.0, 3.0), ())


def test_replicas_go_where_serve_starts_them_by_grams_while_a_policy_asks():
    details = serve(model_mnist=(1, [replica(1)]), canary_mnist=(1, [replica(2)]), shared=(1, [replica(3)]))
    rooms, tiny = [DIRTY, replace(GREEN, intensity_g_per_kwh=10.0)], replace(MNIST, model="t", shared=True, canary=None)
    nodes = [one.nodes for one in replica_guests(details, [MNIST, tiny], rooms, by_grams=True)]
    assert nodes == [("g", "d"), ("g", "d"), ("d", "g")]
    assert replica_guests(details, [MNIST], [DIRTY, GREEN], by_grams=True)[0].nodes == ("d", "g")  # they are alike
    away = replace(MNIST, nodes=("d", "g", "away"))
    assert replica_guests(details, [away], rooms, by_grams=True)[0].nodes == ("g", "d", "away")


def test_a_replica_wakes_a_node_for_which_serve_asks_first_once_its_own_is_drained():
    """Who is started in the order of the deployment may have the drained node brought back instead."""
    asleep = replace(GREEN, node=replace(GREEN.node, ray_node_id=None), asleep=True)
    details = serve(model_mnist=(1, [replica(1)]), canary_mnist=(1, [replica(2)]), theirs=(1, [replica(3)]))
    found = replica_guests(details, [MNIST], [DIRTY, asleep], by_grams=True)
    assert [(one.nodes, one.wakes) for one in found] == [(("d", "g"), True), (("d", "g"), True), ((), False)]
    assert not any(one.wakes for one in replica_guests(details, [MNIST], [DIRTY, asleep]))
    nowhere = serve(model_mnist=(1, [replica(1, None)]))  # it waits for a node
    assert replica_guests(nowhere, [MNIST], [DIRTY, asleep], by_grams=True) == []


def test_shared_replicas_hold_what_they_share():
    shared = replace(MNIST, shared=True, canary=None, demand=Resources(9.0))
    (guest,) = replica_guests(serve(shared=(1, [replica(1)])), [shared], [DIRTY])
    assert guest.demand == Resources(1.0)


def test_what_ends_or_stays_together_is_not_moved_and_what_is_nowhere_is_no_guest():
    details = serve(model_mnist=(1, [replica(1, state="STOPPING"), replica(2), replica(3, None), replica(4, "gone")]))
    assert [(one.name, one.stays) for one in replica_guests(details, [MNIST], [DIRTY])] == [
        ("model.mnist r1", True),
        ("model.mnist r2", False),
    ]
    group = details["applications"]["model.mnist"]["deployments"]["replica"]["deployment_config"]
    group["placement_group_bundles"] = [{"CPU": 1}]
    assert all(one.stays for one in replica_guests(details, [MNIST], [DIRTY]))
    unknown = replace(DIRTY, intensity_g_per_kwh=None)
    assert replica_guests(details, [MNIST], [unknown])[0].move_g == 0.0


def test_what_is_not_up_elsewhere_is_told():
    assert not_all_up({}, ()) == ()
    running = serve(model_mnist=(2, [replica(1), replica(2, "id-g")]), none=(0, []))
    assert not_all_up(running, ()) == ()
    assert not_all_up(running, {"id-d"}) == ("model.mnist",)
    begins = serve(model_mnist=(2, [replica(1), replica(2, "id-g", "STARTING")]))
    assert not_all_up(begins, ()) == ("model.mnist",)
    built = {"applications": {"model.new": {"status": "DEPLOYING", "deployments": {}}}}
    assert not_all_up(built, ()) == ("model.new",)
    begins["applications"]["model.mnist"]["status"] = "DEPLOYING"
    assert not_all_up(begins, ()) == ("model.mnist",)


def test_where_replicas_run_is_told_by_name():
    details = serve(model_mnist=(2, [replica(1), replica(2), replica(3, "id-g", "STARTING")]), none=(0, []))
    details["applications"]["model.mnist"]["deployments"]["replica"]["replicas"].append(replica(4, "gone"))
    assert running_on(details, {"id-d": "d", "id-g": "g"}) == {"model.mnist": {"d": 2}, "none": {}}


# -- jobs ------------------------------------------------------------------------------------------------------------


def guests(world, rooms=(), speed=1.0):
    rooms = rooms or [Room(node, Resources(), 300.0) for node in world.core.book.nodes.values()]
    return rooms_and_jobs(world.core.book, rooms, HOUR_S, world.now_s, speed)


def test_rooms_have_the_mean_of_what_is_forecast_and_else_what_is_now():
    world = World(hourly("DE", 100, 300, 500))
    rooms, _, _ = guests(world)
    assert {room.node.zone: room.intensity_g_per_kwh for room in rooms} == {"DE": 100.0, "FR": 300.0}
    world.tick(hours=0.5)
    assert guests(world)[0][0].intensity_g_per_kwh == pytest.approx(200.0)
    assert guests(world, speed=2.0)[0][0].intensity_g_per_kwh == pytest.approx((50 + 300 + 250) / 2)
    assert guests(world, speed=1000.0)[0][0].intensity_g_per_kwh == 300.0  # nothing is known so far ahead


@pytest.mark.parametrize(
    ("spec", "opened", "after_s", "stays"),
    [
        ({}, True, 0.0, False),
        ({}, False, 0.0, True),
        ({"suspend": SuspendRule(allow=False)}, True, 0.0, True),
        ({"suspend": SuspendRule(min_run_s=600.0)}, True, 599.0, True),
        ({"suspend": SuspendRule(min_run_s=600.0)}, True, 600.0, False),
    ],
)
def test_a_job_leaves_only_if_it_loses_nothing(spec, opened, after_s, stays):
    world = World(hourly("DE", *[300] * 40))
    world.submit(hours=5, policy="run-now", zones=("DE", "FR"), **spec)
    assert guests(world)[1][0].stays  # it is being launched
    world.started()
    if opened:
        world.progressed(0.1, productive_s=T0)
    world.now_s += after_s
    (guest,) = guests(world)[1]
    assert (guest.name, guest.node, guest.zones, guest.stays) == ("job j", "de-1", ("DE", "FR"), stays)


def test_a_job_that_pauses_or_has_ignored_that_stays():
    world = World(hourly("DE", *[300] * 40))
    world.running(hours=5, policy="run-now")
    world.progressed(0.1, productive_s=T0)
    assert not guests(world)[1][0].stays
    from eco_ray.core.events import NodeDraining

    world.do(NodeDraining("de-1"))
    assert guests(world)[1][0].stays
    world.tick(seconds=61)
    assert guests(world)[1][0].stays


def test_where_waiting_jobs_have_their_places_is_told():
    world = World(hourly("DE", *[300, 100] * 20))
    world.running("a", hours=1, policy="run-now")
    assert guests(world)[2] == frozenset()
    world.submit("b", hours=1, policy="eco", zones=("DE",), deadline_h=20)
    assert guests(world)[2] == {"de-1"}


def test_what_it_takes_to_begin_again_is_what_a_move_costs():
    world = World(hourly("DE", *[300] * 40))
    world.running(hours=5, policy="run-now", suspend=SuspendRule(resume_cost_s=360.0))
    (guest,) = guests(world)[1]
    node = world.core.book.nodes["de-1"]
    assert guest.move_g == pytest.approx(0.1 * 0.3 * node.added_power_w(guest.demand, Resources()) * node.pue)


@pytest.mark.parametrize(("deadline_h", "stays"), [(6.0, False), (5.5, True)])
def test_a_job_that_would_be_late_stays(deadline_h, stays):
    world = World(hourly("DE", *[300] * 40))
    rule = SuspendRule(resume_cost_s=HOUR_S)
    world.submit(hours=5, deadline_h=deadline_h, policy="run-now", suspend=rule)
    world.started()
    world.progressed(0.0, productive_s=T0)
    (guest,) = guests(world)[1]
    assert guest.stays is stays


def test_a_job_is_not_kept_by_the_part_of_a_gpu_that_its_memory_takes():
    gpu = {"gpu_idle_w": 10.0, "gpu_busy_w": 100.0, "sleeps": True}
    capacity = Resources(4.0, 1.0, 8.0, 16.0)
    nodes = {n: replace(a_node(n, z), capacity=capacity, **gpu) for n, z in (("de-1", "DE"), ("fr-1", "FR"))}
    world = World(hourly("DE", *[600] * 40), hourly("FR", *[50] * 40), nodes=nodes)
    demand = Resources(1.0, 0.5, 0.0, 12.0)  # 12 of 16 GB: nobody else fits on that GPU
    world.submit(hours=5, policy="run-now", zones=("DE",), demand=demand)
    world.started()
    world.progressed(0.0, productive_s=T0)
    held = {"de-1": Resources(1.0, 0.5), "fr-1": Resources(1.0)}  # as Ray tells
    rooms = rooms_of(world.core.book, held, {"DE": 600.0, "FR": 50.0}.get)
    (guest,) = guests(world, rooms)[1]
    found, _ = next_drain(Hosts(0.0, tuple(rooms), (replace(guest, zones=()),)), None, Consolidation(hold_s=0.0))
    assert found.node == "de-1", found.why
