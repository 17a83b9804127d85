"""What the tests of the registry share: model files, a clock, and stores that die, are far away or count."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from eco_ray.errors import NotFoundError
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


#: the beginning of a file of any content that is taken for what it says
GGUF = b"GGUF\3\0\0\0"
#: the smallest model of ONNX: a version and a graph
ONNX = b"\x08\x08\x3a\0"

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


def document(values):
    """A document with the right SHA-256 that says anything."""
    rest = json.dumps(values)[1:].encode()
    return b'{"document_sha256": "' + hashlib.sha256(rest).hexdigest().encode() + b'",\n' + rest


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


class InTurns:
    """A store that several threads use, each of whose calls waits until an order says that it is their turn."""

    def __init__(self, store, order):
        self._store, self._order = store, order
        self._change, self._turn, self._waiting, self._ended = threading.Condition(), None, set(), set()

    def store(self, number):
        """The store of one of them."""
        return _Turn(self._store, self, number)

    def wait(self, number):
        """Until it is the turn of one."""
        with self._change:
            self._waiting.add(number)
            self._change.notify_all()
            self._change.wait_for(lambda: self._turn == number)
            self._turn = None
            self._waiting.discard(number)

    def end(self, number):
        """One does no more."""
        with self._change:
            self._ended.add(number)
            self._change.notify_all()

    def play(self, several):
        """Give turns until all have ended; who stands first in the order goes on when that is at its end."""
        order = iter(self._order)
        with self._change:
            while True:
                self._change.wait_for(
                    lambda: self._turn is None and len(self._waiting) + len(self._ended - self._waiting) == several
                )
                if len(self._ended) == several:
                    return
                chosen = next(order, None)
                self._turn = chosen if chosen in self._waiting else min(self._waiting)
                self._change.notify_all()


class _Turn:
    def __init__(self, store, turns, number):
        self._store, self._turns, self._number = store, turns, number
        self.url, self.remote = store.url, False  # one thread each

    def __getattr__(self, name):
        call = getattr(self._store, name)

        def in_turn(*args, **how):
            self._turns.wait(self._number)
            return call(*args, **how)

        return in_turn


class Plain:
    """A store in a dictionary, for tests of so many orders that another would take minutes."""

    url, remote = "plain", False

    def __init__(self):
        self.objects = {}

    def read(self, path, most_bytes):
        if path not in self.objects:
            raise NotFoundError(path)
        return self.objects[path][: most_bytes + 1]

    def put_new(self, path, data):
        return self.objects.setdefault(path, data) is data

    def put(self, path, data):
        self.objects[path] = bytes(data)

    def names(self, path, *, links=True):
        return sorted({one[len(path) + 1 :].partition("/")[0] for one in self.objects if one.startswith(f"{path}/")})

    def size(self, path):
        return len(self.objects[path]) if path in self.objects else None

    def written_s(self, path):
        return None

    def md5(self, path):
        return None

    def remove(self, path):
        self.objects.pop(path, None)

    def sweep(self, before_s):
        """Nothing is half-written there."""
