import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eco_ray.errors import DamagedError, UsageError
from eco_ray.train.gradients import ErrorFeedback, Int8, Plain, TopK, codec

NAMES = ["none", "int8", "topk:0.01", "topk:1"]
finite = st.floats(-1e6, 1e6, width=32)


@st.composite
def gradients(draw):
    shapes = draw(st.lists(hnp.array_shapes(max_dims=3, max_side=5), min_size=1, max_size=3))
    return {f"t{i}": draw(hnp.arrays(np.float32, shape, elements=finite)) for i, shape in enumerate(shapes)}


def like_a_network(seed=0):
    """Values of a gradient are heavy-tailed, and many are zero behind a ReLU."""
    rng = np.random.default_rng(seed)
    w = rng.standard_t(2, size=(300, 200)).astype(np.float32) * (rng.random((300, 1)) < 0.7)
    return {"w": w.astype(np.float32), "b": rng.normal(size=200).astype(np.float32)}


@given(g=gradients(), name=st.sampled_from(NAMES))
def test_names_shapes_and_dtypes_come_back(g, name):
    back = codec(name).decode(codec(name).encode(g), g)
    assert {n: (v.shape, v.dtype) for n, v in back.items()} == {n: (v.shape, v.dtype) for n, v in g.items()}
    if name in ("none", "topk:1"):
        assert all(np.array_equal(back[n], g[n]) for n in g)


def test_plain_keeps_float64():
    g = {"w": np.random.default_rng(0).normal(size=(3, 4))}
    assert np.array_equal(Plain().decode(Plain().encode(g), g)["w"], g["w"])


@given(g=gradients())
def test_int8_is_off_by_half_a_level_at_most(g):
    back = Int8().decode(Int8().encode(g), g)
    for name, values in g.items():
        level = float(np.abs(values).max()) / 127
        assert np.abs(back[name] - values).max() <= 0.5 * level * (1 + 1e-4) + 1e-40  # subnormal levels are coarse


def test_int8_at_random_is_unbiased_and_off_by_a_level_at_most():
    g = {"w": np.array([127.0, 0.1, -0.3, 3.5, 0.0], np.float32)}  # the level is 1
    rounding = Int8(np.random.default_rng(0))
    backs = np.array([rounding.decode(rounding.encode(g), g)["w"] for _ in range(4000)])
    assert np.abs(backs - g["w"]).max() < 1
    assert np.abs(backs.mean(axis=0) - g["w"]).max() < 4 * 0.5 / np.sqrt(4000)  # 4 standard errors
    nearest = Int8().decode(Int8().encode(g), g)["w"]
    assert nearest[1] == nearest[2] == 0  # which is why it needs error feedback


@pytest.mark.parametrize("values", [np.zeros(3), np.full(3, 1e-44), np.zeros(0)])
def test_a_tensor_without_a_level_is_zeros(values):
    g = {"w": values.astype(np.float32), "v": np.ones(2, np.float32)}
    assert not Int8().decode(Int8().encode(g), g)["w"].any()


def test_top_k_keeps_the_largest_of_the_whole_gradient():
    g = {"a": np.array([[1.0, -9.0], [0.5, 2.0]], np.float32), "b": np.array([7.0, -3.0], np.float32)}
    back = TopK(0.5).decode(TopK(0.5).encode(g), g)
    assert back["a"].tolist() == [[0, -9], [0, 0]]
    assert back["b"].tolist() == [7, -3]


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=12), st.sampled_from([Int8(), TopK(0.05)]))
def test_error_feedback_holds_back_what_it_does_not_say_and_no_more(seeds, inner):
    feedback, total, said = ErrorFeedback(inner), 0.0, 0.0
    for seed in seeds:
        g = {"w": np.random.default_rng(seed).normal(size=(5, 8))}
        total = total + g["w"]
        said = said + feedback.decode(feedback.encode(g), g)["w"]
    assert np.allclose(said + feedback.residual["w"], total, atol=1e-6)


def test_error_feedback_says_a_small_value_in_the_end():
    g = {"w": np.array([2.0, 0.1], np.float32)}
    bare = TopK(0.5).decode(TopK(0.5).encode(g), g)["w"][1]
    feedback = ErrorFeedback(TopK(0.5))
    said = sum(feedback.decode(feedback.encode(g), g)["w"][1] for _ in range(300))
    assert bare == 0
    assert 20 < said < 30.01


@pytest.mark.parametrize(("name", "share"), [("none", 1.0), ("int8", 0.15), ("topk:0.01", 0.02)])
def test_bytes(name, share):
    g = like_a_network()
    plain = sum(v.nbytes for v in g.values())
    assert len(codec(name).encode(g)) <= share * plain


@settings(max_examples=50)
@given(g=gradients(), name=st.sampled_from(["int8", "topk:0.5", "none"]), data=st.data())
def test_a_cut_or_longer_message_is_refused(g, name, data):
    message = codec(name).encode(g)
    cut = message[: data.draw(st.integers(0, len(message) - 1))]
    for wrong in (cut, message + b"\0"):
        with pytest.raises(DamagedError):
            codec(name).decode(wrong, g)


@settings(max_examples=100)
@given(message=st.binary(max_size=200), name=st.sampled_from(["none", "int8", "topk:0.5"]))
def test_any_bytes_are_a_gradient_or_refused(message, name):
    like = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(1, np.float32)}
    try:
        back = codec(name).decode(message, like)
    except DamagedError:
        return
    assert all(np.isfinite(v).all() for v in back.values())


def test_values_that_are_not_finite_are_refused():
    like = {"w": np.zeros(2, np.float32)}
    for bad in (np.inf, np.nan):
        plain = np.array([1, bad], "<f4").tobytes()
        scaled = struct.pack("<f", bad) + zlib.compress(bytes([1, 0]), 1)
        largest = zlib.compress(np.array([0, 1], "<u4").tobytes() + plain, 1)
        for one, message in ((Plain(), plain), (Int8(), scaled), (TopK(1), largest)):
            with pytest.raises(DamagedError, match="not finite"):
                one.decode(message, like)


@pytest.mark.parametrize("gaps", [[0, 0], [1, 2**32 - 1], [0, 3]])
def test_places_outside_or_twice_are_refused(gaps):
    like = {"w": np.zeros(3, np.float32)}
    message = zlib.compress(np.array(gaps, "<u4").tobytes() + np.ones(2, "<f4").tobytes(), 1)
    with pytest.raises(DamagedError, match="of 3 values"):
        TopK(0.67).decode(message, like)


def test_a_bomb_takes_no_memory():
    like = {"w": np.zeros(100_000, np.float32)}
    bomb = struct.pack("<f", 1.0) + zlib.compress(bytes(20_000_000))
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        for one, message in ((Int8(), bomb), (TopK(0.5), bomb[4:])):
            with pytest.raises(DamagedError, match="does not inflate"):
                one.decode(message, like)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["zip", "topk:0", "topk:2", "topk:x", "int8:3"])
def test_unknown_codecs_are_refused(name):
    with pytest.raises(UsageError, match="give"):
        codec(name)
