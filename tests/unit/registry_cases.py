"""What the tests of the registry share: model files, a clock, and stores that die, are far away or count."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from eco_ray.models.blobs import Blobs
from eco_ray.models.object_store import LocalStore
from eco_ray.models.parts import Parts


def empty_place(request, folder):
    """URL of an empty place of the kind that a fixture's parameter names."""
    if request.param == "s3":
        return request.getfixturevalue("s3_url")
    kinds = {
        "local": f"{folder}/registry",
        "file": f"file://{folder}/registry",
        "memory": f"memory://{uuid.uuid4().hex}",
    }
    return kinds[request.param]


WRITES = ("put", "put_new", "remove")


def weights(seed, rows=64, changed=0):
    """A safetensors file of a small network; `changed` weights differ from those of the same seed."""
    chance = np.random.default_rng(seed)
    made = {"a": chance.normal(size=(rows, 32)).astype(np.float32), "b": chance.normal(size=32).astype(np.float16)}
    made["a"].ravel()[:changed] += 0.5
    return save(made)


def objects(store):
    """Where all parts are, open and sealed ones."""
    return Blobs(store, Parts(store))._all(lambda: None)


class Clock:
    """A clock that goes a second further each time it is read."""

    def __init__(self):
        self.now_s = 1_783_252_800.0

    def __call__(self):
        self.now_s += 1
        return self.now_s


class Killed(BaseException):
    """What nobody catches."""


def die():
    raise Killed


class Deadly:
    """A store that dies at its n-th call of some kinds, before or after that does what it does."""

    def __init__(self, store, at, after, calls=WRITES, die=die, remote=None):
        self._store, self.left, self._after, self._calls, self._die = store, at, after, calls, die
        self.url, self.remote = store.url, store.remote if remote is None else remote

    def __getattr__(self, name):
        call = getattr(self._store, name)
        if name not in self._calls:
            return call

        def dying(*args, **how):
            if self.left < 0:
                self._die()  # a dead process does no more
            self.left -= 1
            if self.left < 0 and not self._after:
                self._die()
            done = call(*args, **how)
            if self.left < 0:
                self._die()
            return done

        return dying


class Failing:
    """A store of which each call of some kinds raises an error from the n-th on."""

    def __init__(self, store, error, at=0, calls=WRITES):
        self._store, self._error, self.left, self._calls = store, error, at, calls
        self.url, self.remote = store.url, store.remote

    def __getattr__(self, name):
        call = getattr(self._store, name)
        if name not in self._calls:
            return call

        def failing(*args, **how):
            self.left -= 1
            if self.left < 0:
                raise self._error
            return call(*args, **how)

        return failing


class Far(Deadly):
    """A directory that passes for a store far away, and lives."""

    def __init__(self, root):
        super().__init__(LocalStore(root), 10**9, False, remote=True)


def kill(root, what, calls, at, file, how="before"):
    """Let a process (registry_child.py) do something until it kills itself; whether it did."""
    here = Path(__file__).parent
    words = [str(root), what, calls, str(at), how, str(root.parent / "cache"), str(file)]
    done = subprocess.run(
        [sys.executable, str(here / "registry_child.py"), *words],
        env={**os.environ, "PYTHONPATH": f"{here}:{here.parent.parent}"},
        timeout=60,
    )
    assert done.returncode in {0, -signal.SIGKILL}
    return done.returncode != 0
