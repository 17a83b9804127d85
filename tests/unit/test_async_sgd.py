import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sgd_cases import LeastSquares, gap, same

from eco_ray.errors import DamagedError, UsageError
from eco_ray.train.async_sgd import Lease, Nothing, ParameterServer, SynchronousServer, Work, Worker, play
from eco_ray.train.gradients import Plain, codec
from eco_ray.train.sgd import SGD, DivergedError, LearningRate, descend

RATE = LearningRate(0.1, 0.0)
STEPS = 24


def server_of(task, bound=0, *, steps=STEPS, name="none", momentum=0.0, life=1):
    optimiser = SGD(RATE, momentum)
    return ParameterServer(task.start(), optimiser, codec(name), steps=steps, staleness_bound=bound, life=life)


def workers_of(task, count, name="none"):
    return {f"w{i}": Worker(task, codec(name)) for i in range(count)}


def reference(task, steps=STEPS, momentum=0.0):
    parameters = task.start()
    for _ in descend(task, parameters, SGD(RATE, momentum), steps):
        pass
    return parameters


schedules = st.lists(st.integers(0, 3), max_size=150)


def then_to_the_end(schedule, count):
    return itertools.chain((f"w{i % count}" for i in schedule), itertools.cycle(f"w{i}" for i in range(count)))


@given(schedule=schedules, count=st.integers(1, 4), bound=st.integers(0, 5))
def test_the_bound_holds_for_every_schedule_and_each_step_is_taken_once(schedule, count, bound):
    task, seen = LeastSquares(), []
    server = server_of(task, bound)
    take = server._take

    def counted(lease, gradient):
        seen.append((lease.step, server.version - lease.version))
        take(lease, gradient)

    server._take = counted
    play(server, workers_of(task, count), then_to_the_end(schedule, count))
    assert server.is_done
    assert sorted(step for step, _ in seen) == list(range(STEPS))
    assert max(staleness for _, staleness in seen) <= bound
    assert server.tally.staleness.total() == STEPS
    assert server.tally.refused == 0


@settings(max_examples=50)
@given(schedule=schedules, momentum=st.sampled_from([0.0, 0.9]))
def test_one_worker_or_a_bound_of_0_is_sgd_bit_for_bit(schedule, momentum):
    task = LeastSquares()
    for count, bound in ((1, 3), (3, 0)):
        server = server_of(task, bound, momentum=momentum)
        play(server, workers_of(task, count), then_to_the_end(schedule, count))
        assert same(server.parameters, reference(task, momentum=momentum))


def test_staleness_is_what_happened_since_the_pull_and_lowers_the_rate():
    task = LeastSquares()
    server = server_of(task, 2)
    before = task.start()
    play(server, workers_of(task, 3), ["w0", "w1", "w2", "w1", "w2"])
    middle = {n: v.copy() for n, v in server.parameters.items()}
    play_rest = Worker(task, Plain())
    lease = server.leases()["w0"]
    server.push(*play_rest.compute(Work(lease, before)))
    assert server.tally.staleness == {0: 1, 1: 1, 2: 1}
    _, gradient = task.gradient(before, lease.step)
    rate = RATE.at(2 / STEPS) / 3
    assert gap(server.parameters, {n: middle[n] - rate * gradient[n] for n in middle}) < 1e-12


def test_a_fast_worker_is_held_back_until_the_slow_one_has_pushed():
    task = LeastSquares()
    server = server_of(task, 2)
    workers = workers_of(task, 2)
    play(server, workers, ["w0", *["w1"] * 40])
    assert (server.version, server.tally.held_back > 0) == (2, True)
    assert server.pull("w1") is Nothing.WAIT
    play(server, workers, ["w0"])
    assert isinstance(server.pull("w1"), Work)


@settings(max_examples=50)
@given(schedule=schedules, group=st.sampled_from([1, 2, 4]), counts=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_synchronous_is_the_same_bit_for_bit_with_any_workers(schedule, group, counts):
    task, ends = LeastSquares(), []
    for count in counts:
        server = SynchronousServer(task.start(), SGD(RATE), Plain(), steps=STEPS, group=group)
        play(server, workers_of(task, count), then_to_the_end(schedule, count))
        assert (server.is_done, server.version, max(server.tally.staleness)) == (True, STEPS // group, 0)
        ends.append(server.parameters)
    assert same(*ends)
    if group == 1:
        assert same(ends[0], reference(task))


def test_synchronous_is_sgd_on_the_larger_batch():
    small, large = LeastSquares(batch=10), LeastSquares(batch=30)
    server = SynchronousServer(small.start(), SGD(RATE), Plain(), steps=24, group=3)
    play(server, workers_of(small, 3), then_to_the_end([], 3))
    assert gap(server.parameters, reference(large, 8)) < 1e-12


@pytest.mark.parametrize("name", ["none", "int8", "topk:0.2"])
@pytest.mark.parametrize("method", ["async", "sync"])
def test_meets_the_closed_form(method, name):
    task = LeastSquares(noise=0.05)
    optimiser, steps = SGD(LearningRate(0.1, 0.0)), 1500
    if method == "async":
        server = ParameterServer(task.start(), optimiser, codec(name), steps=steps, staleness_bound=6)
    else:
        server = SynchronousServer(task.start(), optimiser, codec(name), steps=steps, group=4)
    schedule = np.random.default_rng(1).choice(4, size=40_000, p=[0.4, 0.3, 0.2, 0.1])
    play(server, workers_of(task, 4, name), (f"w{i}" for i in schedule))
    assert server.is_done
    assert gap(server.parameters, task.closed_form()) < 0.01
    assert (server.tally.bytes_pushed == server.tally.bytes_pushed_plain) == (name == "none")


# --- what is lost -----------------------------------------------------------------------------------------------------

FAULTS = ["w0", "w1", "w2", "kill w0", "kill w1", "kill w2", "restore", "keep"]


@settings(max_examples=100)
@given(events=st.lists(st.sampled_from(FAULTS), max_size=120), bound=st.integers(0, 4), synchronous=st.booleans())
def test_whatever_is_killed_each_step_of_the_kept_history_is_taken_once(events, bound, synchronous):
    """Workers die with a step and come back under another name; the server dies and goes on from what was kept."""
    task, life, lives = LeastSquares(), 1, [0, 0, 0]

    def make():
        if synchronous:
            return SynchronousServer(task.start(), SGD(RATE), Plain(), steps=STEPS, group=2, life=life)
        return server_of(task, bound, life=life)

    server, kept, history, under_way = make(), None, [], {}
    kept = (server.state(), [])
    events = itertools.chain(events, itertools.cycle(["w0", "w1", "w2"]))
    for event in itertools.islice(events, 2000):
        if server.is_done:
            break
        if event == "keep":
            kept = (server.state(), list(history[: server.version * server.group]))
        elif event == "restore":
            life += 1
            server = make()
            server.load(kept[0])
            history = list(kept[1])
        elif event.startswith("kill"):
            i = int(event[-1])
            server.forget(f"w{i}-{lives[i]}")
            lives[i] += 1  # its gradient may still be on its way
        else:
            name = f"{event}-{lives[int(event[1])]}"
            if name in under_way:
                lease, *rest = under_way.pop(name)
                before = server.version
                if server.push(lease, *rest):
                    history.append(lease.step)
                    assert synchronous or before - lease.version <= bound
            elif isinstance(work := server.pull(name), Work):
                under_way[name] = Worker(task, Plain()).compute(work)
    assert server.is_done
    assert sorted(history) == list(range(STEPS))


def test_what_a_lost_worker_still_sends_is_refused_and_its_step_is_given_to_another():
    task = LeastSquares()
    server = server_of(task, 1)
    late = Worker(task, Plain()).compute(server.pull("w0"))
    server.forget("w0")
    server.forget("w0")
    again = server.pull("w1")
    assert again.lease.step == late[0].step == 0
    assert not server.push(*late)
    assert server.push(*Worker(task, Plain()).compute(again))
    assert server.pull("w0") is Nothing.OVER
    assert (server.tally.refused, server.tally.workers_lost, server.version) == (1, 1, 1)


def test_a_gradient_is_taken_once_however_often_it_is_sent():
    task = LeastSquares()
    server = server_of(task)
    push = Worker(task, Plain()).compute(server.pull("w0"))
    assert [server.push(*push), server.push(*push)] == [True, False]
    assert server.version == 1


def test_a_restored_server_takes_nothing_from_before():
    task = LeastSquares()
    server = server_of(task)
    state = server.state()
    push = Worker(task, Plain()).compute(server.pull("w0"))
    restored = server_of(task, life=2)
    restored.load(state)
    again = restored.pull("w0")
    assert (again.lease.step, again.lease.version) == (push[0].step, push[0].version)
    assert not restored.push(*push)
    assert restored.push(*Worker(task, Plain()).compute(again))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_worker_restored_from_any_checkpoint_is_bit_for_bit_the_same(momentum):
    task = LeastSquares()
    for steps_done in (0, 1, 7, 23, 24):
        first = server_of(task, momentum=momentum)
        play(first, workers_of(task, 1), ["w0"] * (2 * steps_done))
        first.pull("w0")  # a step is under way
        second = server_of(task, momentum=momentum, life=2)
        second.load(first.state())
        assert second.version == steps_done
        play(second, workers_of(task, 1), ["w0"] * 60)
        assert same(second.parameters, reference(task, momentum=momentum))
        assert second.tally.staleness.total() == STEPS


def test_a_checkpoint_of_another_training_is_refused():
    task = LeastSquares()
    state = server_of(task).state()
    others = [
        server_of(task, steps=10),
        server_of(LeastSquares(dtype=np.float32)),
        SynchronousServer(task.start(), SGD(RATE), Plain(), steps=STEPS, group=2),
    ]
    for other in others:
        with pytest.raises(UsageError, match=r"async.* of 24 steps .*another checkpoint directory"):
            other.load(state)


def test_what_a_state_holds_does_not_change_with_the_server():
    task = LeastSquares()
    server = server_of(task)
    state = server.state()
    play(server, workers_of(task, 1), ["w0"] * 10)
    assert not state["parameters"]["w"].any()
    assert state["tally"]["staleness"] == {}
    work = server.pull("w0")
    server.push(*Worker(task, Plain()).compute(work))
    assert not same(work.parameters, server.parameters)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_a_damaged_or_diverged_gradient_changes_nothing():
    task = LeastSquares()
    server = server_of(task)
    lease, message, loss = Worker(task, Plain()).compute(server.pull("w0"))
    with pytest.raises(DamagedError, match="bytes"):
        server.push(lease, message[1:], loss)
    with pytest.raises(DivergedError, match="lower the learning rate"):
        server.push(lease, message, float("nan"))
    assert server.version == 0
    assert same(server.parameters, task.start())
    assert server.push(lease, message, loss)  # it still has its lease


def test_a_lease_that_nobody_gave_is_refused():
    server = server_of(LeastSquares())
    assert not server.push(Lease("w0", 0, 0, 1), b"", 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda t: server_of(t, -1), "bound of -1"), (lambda t: server_of(t, steps=0), "0 steps"),
     (lambda t: SynchronousServer(t.start(), SGD(RATE), Plain(), steps=10, group=3), "groups of 3"),
     (lambda t: SynchronousServer(t.start(), SGD(RATE), Plain(), steps=10, group=0), "groups of 0")],
)  # fmt: skip
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make(LeastSquares())


def test_metrics_are_what_progress_takes():
    task = LeastSquares()
    server = server_of(task, 2, name="int8")
    empty = server.tally.metrics()
    assert (empty["staleness"], empty["staleness_max"], empty["bytes_pushed_share"]) == ("", 0, 0)
    play(server, workers_of(task, 3, "int8"), ["w0", "w1", "w2", "w1", "w2", "w0"])
    metrics = server.tally.metrics()
    assert metrics["staleness"] == "0:1 1:1 2:1"
    assert (metrics["staleness_mean"], metrics["staleness_max"], metrics["gradients"]) == (1, 2, 3)
    assert metrics["bytes_pulled"] == 3 * 40
    assert all(isinstance(value, int | float | str) for value in metrics.values())
