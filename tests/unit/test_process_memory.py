"""How benchmarks count memory, on real processes that share some."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import process_memory
import training_memory

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the kernel has no smaps_rollup")

MB = 1 << 20
SIZE = 48 * MB
#: of an interpreter, and what others that use the same libraries take off it
SLACK = 12 * MB
#: two processes with the same memory: one makes it, then forks; both say when they are ready, and wait
PAIR = """
import mmap, os
size = {size}
data = {data}
data[:] = b"x" * size
child = os.fork()
if not child:
    {child}
    os.write(1, b"ready\\n")
    os.read(0, 1)
    os._exit(0)
os.write(1, b"%d\\n" % child)
os.read(0, 1)
"""


@contextmanager
def pair(data, child="pass"):
    """Ids of both."""
    code = PAIR.format(size=SIZE, data=data, child=child)
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            told = {first.stdout.readline().strip() for _ in range(2)}
            yield first.pid, int((told - {"ready"}).pop())
        finally:
            first.stdin.close()


def test_memory_that_two_processes_share_is_counted_once_and_as_shared():
    with pair("mmap.mmap(-1, size)", child="assert data[:] == b'x' * size") as pids:
        found = process_memory.of_all(pids)
        assert found.shared == pytest.approx(SIZE, abs=MB)
        assert found.own < SLACK
        assert sum(process_memory.peak_rss(pid) for pid in pids) > 2 * SIZE  # what a sum of RSS has
        assert process_memory.memory(pids[1]).shared == pytest.approx(SIZE / 2, abs=MB)


@pytest.mark.parametrize(("child", "times"), [("pass", 1), ("data[:] = b'y' * size", 2)])
def test_what_a_fork_inherits_is_counted_once_until_it_is_written_to(child, times):
    with pair("bytearray(size)", child=child) as pids:
        found = process_memory.of_all(pids)
        assert times * SIZE - MB < found.own < times * SIZE + SLACK
        assert found.shared < MB


def test_a_process_that_has_ended_has_none():
    with subprocess.Popen(["sleep", "0"]) as one:
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)  # not waited for yet: it is still in /proc
        assert process_memory.memory(one.pid) == process_memory.Memory()
    assert process_memory.memory(one.pid) == process_memory.Memory()
    assert process_memory.peak_rss(one.pid) == process_memory.object_store([one.pid]) == 0


STORE = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.unlink(sys.argv[1])
os.ftruncate(fd, 64 << 20)
if not os.fork():  # a worker that writes an object, and ends
    os.pwrite(fd, b"x" * {size}, 0)
    os._exit(0)
os.wait()
child = os.fork()  # another one that holds it open
if child:
    print(child, flush=True)
os.read(0, 1)
"""


def test_the_object_store_is_what_is_written_of_it_whoever_did_and_counted_once(tmp_path):
    folder = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    command = [sys.executable, "-S", "-c", STORE.format(size=16 * MB), str(folder / f"plasma{os.getpid()}")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as raylet:
        try:
            pids = [raylet.pid, int(raylet.stdout.readline())]
            assert process_memory.object_store(pids) == pytest.approx(16 * MB, abs=MB)
            assert process_memory.of_all(pids).shared < MB  # nobody has mapped it
        finally:
            raylet.stdin.close()


#: starts processes of these titles with so much memory each, and tells their ids when they have it
JOB = """
import os, subprocess, sys
holds = "import os, sys; data = b'x' * int(sys.argv[1]); os.write(1, b'.'); os.read(0, 1)"
for told in sys.argv[1:]:
    title, _, size = told.partition("=")
    home = {{**os.environ, "PYTHONHOME": {home!r}}}  # of an interpreter that does not know how it was called
    one = subprocess.Popen(
        [title, "-S", "-c", holds, size], executable=sys.executable, env=home, stdout=subprocess.PIPE
    )
    one.stdout.read(1)
    os.write(1, b"%d\\n" % one.pid)
os.read(0, 1)
"""


@contextmanager
def titled(sizes):
    """A job with children of these titles and sizes [bytes]; its id, and theirs."""
    command = [sys.executable, "-S", "-c", JOB.format(home=sys.base_prefix)]
    command += [f"{title}={size}" for title, size in sizes.items()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as job:
        try:
            yield job.pid, [int(job.stdout.readline()) for _ in sizes]
        finally:
            job.stdin.close()


def test_readers_idle_workers_and_rays_own_processes_are_told_apart():
    sizes = {"ray::ReadParquet->Map": 16 * MB, "ray::IDLE": 32 * MB, "ray::DashboardAgent": 64 * MB, "raylet": 4 * MB}
    with titled(sizes) as (job, pids):
        found = training_memory.Watch(job).sample()
        reads, idle, agent, raylet = (process_memory.memory(pid).own / 1e9 for pid in pids)
        assert reads > 16 * MB / 1e9
        near = 2 * MB / 1e9  # others that use the same libraries come and go
        assert found["readers"] == pytest.approx(reads, abs=near)
        assert found["idle workers"] == pytest.approx(idle, abs=near)
        assert found["Ray's own"] == pytest.approx(agent + raylet, abs=near)
        assert found["object store"] == 0
        assert found["together"] == pytest.approx(found["trainer"] + found["readers"])
        assert found["all"] == pytest.approx(found["together"] + found["idle workers"] + found["Ray's own"])


def test_a_worker_that_has_read_is_a_reader_when_it_is_idle_again():
    with titled({"ray::IDLE": 16 * MB}) as (job, pids):
        watch = training_memory.Watch(job)
        assert watch.sample()["readers"] == 0
        watch.readers.update(pids)
        found = watch.sample()
        assert (found["readers"] > 0.016, found["idle workers"]) == (True, 0)
