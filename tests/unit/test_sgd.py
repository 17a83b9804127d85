import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sgd_cases import LeastSquares, gap, same

from eco_ray.errors import UsageError
from eco_ray.train.sgd import SGD, DivergedError, LearningRate, descend


def trained(task, optimiser, steps):
    parameters = task.start()
    for _ in descend(task, parameters, optimiser, steps):
        pass
    return parameters


@pytest.mark.parametrize(
    ("batch", "rate", "epochs", "within"),
    [(60, LearningRate(0.2), 200, 1e-9),
     (10, LearningRate(0.1, 0.0), 200, 0.01), (1, LearningRate(0.05, 0.0), 100, 0.03)],
    ids=["batch", "mini-batch", "stochastic"],
)  # fmt: skip
def test_meets_the_closed_form(batch, rate, epochs, within):
    task = LeastSquares(batch=batch)
    assert gap(trained(task, SGD(rate), epochs * len(task.batches)), task.closed_form()) < within


def test_a_constant_rate_does_not_let_stochastic_steps_converge():
    task = LeastSquares(batch=1, noise=1.0)
    constant, falling = (trained(task, SGD(LearningRate(0.1, last)), 3000) for last in (None, 0.0))
    assert gap(falling, task.closed_form()) < gap(constant, task.closed_form()) / 3


def test_momentum_is_none_unless_asked_for_and_faster_where_curvatures_differ():
    task = LeastSquares(batch=60)
    task.x[:, 0] *= 0.1
    assert SGD(LearningRate(0.1)).momentum == 0
    plain, heavy = (trained(task, SGD(LearningRate(0.1), momentum), 300) for momentum in (0.0, 0.9))
    assert gap(heavy, task.closed_form()) < gap(plain, task.closed_form()) / 10


@given(done=st.integers(0, 23), momentum=st.sampled_from([0.0, 0.9]))
def test_goes_on_bit_for_bit(done, momentum):
    task, rate = LeastSquares(batch=7), LearningRate(0.1, 0.0)
    whole = trained(task, SGD(rate, momentum), 24)
    first, parameters = SGD(rate, momentum), task.start()
    for step, _ in descend(task, parameters, first, 24):
        if step >= done:
            break
    done = max(1, done)
    second = SGD(rate, momentum)
    second.load(first.state())
    for _ in descend(LeastSquares(batch=7), parameters, second, 24, done):
        pass
    assert same(parameters, whole)


def test_a_training_that_diverges_fails_and_says_so():
    task = LeastSquares(batch=60)
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match=r"step \d+ .* lower the learning rate"):
        trained(task, SGD(LearningRate(1e30)), 100)


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: LearningRate(-1.0), "rate -1.0"), (lambda: LearningRate(0.1, float("nan")), "rate nan"),
     (lambda: SGD(LearningRate(0.1), 1.0), "momentum 1.0 is outside")],
)  # fmt: skip
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
