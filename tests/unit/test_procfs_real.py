"""CPU time of real processes that burn CPU, against what the kernel says of them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from eco_ray.power.processes import ProcessTable
from eco_ray.power.procfs import NodeCpu

HZ = os.sysconf("SC_CLK_TCK")


def children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


BURN = "import time\nwhile time.process_time() < {seconds}: pass"


def test_real_tree_of_processes_agrees_with_rusage():
    jobs: set[int] = set()
    cpu = NodeCpu(os.getpid(), lambda process: "job" if process.pid in jobs else None)
    before = children_s()
    shell = subprocess.Popen(
        ["sh", "-c", f'"{sys.executable}" -S -c "$BURN"; read line'],
        env={**os.environ, "BURN": BURN.format(seconds=0.4)},
        stdin=subprocess.PIPE,
    )
    jobs.add(shell.pid)
    seen = 0.0
    deadline = time.monotonic() + 10
    while seen < 0.38 and time.monotonic() < deadline:
        time.sleep(0.07)
        total, owners, system = cpu.read()
        assert total == sum(owners.values()) + system
        seen += owners.get("job", 0.0)
    shell.communicate(b"\n", timeout=10)
    for _ in range(3):
        seen += cpu.read()[1].get("job", 0.0)
    assert seen == pytest.approx(children_s() - before, rel=0.15, abs=3 / HZ)


@pytest.mark.parametrize("end", ["exits", "is killed"])
def test_real_child_that_ends_between_readings_counts_once(end):
    jobs: set[int] = set()
    cpu = NodeCpu(os.getpid(), lambda process: "job" if process.pid in jobs else None)
    before = children_s()
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", BURN.format(seconds=0.25) + "\ninput()"], stdin=subprocess.PIPE
    )
    jobs.add(child.pid)
    seen = 0.0
    deadline = time.monotonic() + 10
    while seen < 0.05 and time.monotonic() < deadline:
        time.sleep(0.05)
        seen += cpu.read()[1]["job"]
    time.sleep(0.15)
    if end == "exits":
        child.communicate(b"\n", timeout=10)
    else:
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=10)
    seen += cpu.read()[1].get("job", 0.0)
    assert cpu.read()[1].get("job", 0.0) == 0.0
    assert seen == pytest.approx(children_s() - before, rel=0.15, abs=3 / HZ)


def test_real_environment_of_a_child():
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, env={"ECO_TEST": "yes", "OTHER": "no"})
    try:
        table = ProcessTable()
        deadline = time.monotonic() + 5
        found: dict[str, str] = {}
        while not found and time.monotonic() < deadline:
            process = table.snapshot().processes[child.pid]
            found = table.environ_of(process, ("ECO_TEST",))
        assert found == {"ECO_TEST": "yes"}
        table.close()
    finally:
        child.communicate(timeout=10)
