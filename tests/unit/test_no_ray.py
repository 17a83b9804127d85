"""The guard of this folder holds: a unit test cannot start Ray."""

import pytest


def test_ray_init_raises_here():
    import ray

    with pytest.raises(AssertionError, match="a unit test called"):
        ray.init(address="127.0.0.1:1")


def test_ray_is_otherwise_itself():
    import ray

    assert ray.__spec__.loader is ray.__loader__
    assert ray.remote(lambda: 1) is not None
