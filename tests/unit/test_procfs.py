"""CPU time by process tree: tables on a fake /proc, and a simulated kernel."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.errors import NotFoundError
from eco_ray.power import processes
from eco_ray.power.processes import ProcessInfo, ProcessTable
from eco_ray.power.procfs import NodeCpu

HZ = os.sysconf("SC_CLK_TCK")


class FakeProc:
    """A /proc of plain files, times in clock ticks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put(1, 0, comm="init")
        (root / "meminfo").write_text("not a process")

    def put(self, pid: int, ppid: int, own: int = 0, reaped: int = 0, *, start: int | None = None, comm: str = "x"):
        (self.root / str(pid)).mkdir(exist_ok=True)
        start = pid if start is None else start
        user, child_user = own // 2, reaped // 3
        times = f"{user} {own - user} {child_user} {reaped - child_user}"
        fields = f"S {ppid} 1 1 0 -1 4194304 10 20 30 40 {times} 20 0 1 0 {start} 3133440 388 18446744073709551615"
        (self.root / str(pid) / "stat").write_text(f"{pid} ({comm}) {fields} 1 1 0 0\n")

    def end(self, *pids: int) -> None:
        for pid in pids:
            shutil.rmtree(self.root / str(pid))


@pytest.fixture
def proc(tmp_path):
    return FakeProc(tmp_path)


def node(proc: FakeProc, root_pid: int | None, owners: dict[int, str] | None = None) -> NodeCpu[str]:
    owners = owners if owners is not None else {}
    return NodeCpu(root_pid, lambda process: owners.get(process.pid), ProcessTable(proc.root))


def ticks(cpu: NodeCpu[str]) -> tuple[dict[str, int], int]:
    total, owners, system = cpu.read()
    assert total == sum(owners.values()) + system
    return {owner: round(s * HZ) for owner, s in owners.items()}, round(system * HZ)


def test_growth_is_split_by_nearest_owner(proc):
    proc.put(10, 1, 5)
    proc.put(20, 10, 50)
    proc.put(21, 20, 7)
    proc.put(22, 21, 7)
    proc.put(99, 1, 1000)
    cpu = node(proc, 10, {20: "a", 22: "b"})
    proc.put(10, 1, 6)
    proc.put(20, 10, 60)
    proc.put(21, 20, 27)
    proc.put(22, 21, 107)
    proc.put(99, 1, 9000)
    assert ticks(cpu) == ({"a": 30, "b": 100}, 1)
    assert ticks(cpu) == ({"a": 0, "b": 0}, 0)


def test_whole_machine_counts_every_process(proc):
    proc.put(10, 1)
    cpu = node(proc, None)
    proc.put(10, 1, 5)
    proc.put(99, 1, 7)
    assert ticks(cpu) == ({}, 12)


@pytest.mark.parametrize("comm", ["a b", ") R 1 (", "x) S 77 1 (y", "", "ray::IDLE"])
def test_any_process_name_parses(proc, comm):
    proc.put(10, 1, 9, 4, start=123, comm=comm)
    process = ProcessTable(proc.root).snapshot().processes[10]
    assert process == ProcessInfo(10, 1, 123, comm, 9, 4)


@pytest.mark.parametrize("stat", ["", "10", "10 (x) S 1", "10 (x) S one 1 1 0 -1 4 10 20 30 40 1 2 3 4 20 0 1 0 9 1 1"])
def test_a_line_that_is_cut_short_is_a_process_that_ended(proc, stat):
    proc.put(10, 1, 5)
    proc.put(11, 10, 5)
    cpu = node(proc, 10)
    (proc.root / "11" / "stat").write_text(stat)
    assert ticks(cpu) == ({}, 0)


def test_new_process_counts_from_zero_with_what_it_reaped(proc):
    proc.put(10, 1)
    cpu = node(proc, 10, {20: "a"})
    proc.put(20, 10, 30, 12)
    assert ticks(cpu) == ({"a": 42}, 0)


def test_reaped_child_counts_once_and_its_remainder_goes_to_its_owner(proc):
    proc.put(10, 1)
    proc.put(20, 10, 100)
    cpu = node(proc, 10, {20: "a"})
    proc.put(20, 10, 150, 30)
    assert ticks(cpu) == ({"a": 80}, 0)
    proc.end(20)
    proc.put(10, 1, 2, 150 + 30 + 7)
    assert ticks(cpu) == ({"a": 7}, 2)
    assert ticks(cpu) == ({}, 0)


def test_remainders_of_two_owners_follow_their_last_use(proc):
    proc.put(10, 1)
    proc.put(20, 10)
    proc.put(30, 10)
    cpu = node(proc, 10, {20: "a", 30: "b"})
    proc.put(20, 10, 89)
    proc.put(30, 10, 9)
    ticks(cpu)
    proc.end(20, 30)
    proc.put(10, 1, 0, 89 + 9 + 50)
    assert ticks(cpu) == ({"a": 45, "b": 5}, 0)


def test_child_too_short_to_be_seen_goes_to_its_parents_owner(proc):
    proc.put(10, 1)
    proc.put(20, 10)
    cpu = node(proc, 10, {20: "a"})
    proc.put(20, 10, 1, 8)
    proc.put(10, 1, 0, 3)
    assert ticks(cpu) == ({"a": 9}, 3)


def test_parent_that_ignores_sigchld_gives_nothing_negative_and_recovers(proc):
    proc.put(10, 1)
    proc.put(20, 10, 1000)
    cpu = node(proc, 10, {20: "a"})
    proc.end(20)
    proc.put(10, 1, 4)
    assert ticks(cpu) == ({}, 4)
    proc.put(10, 1, 5)
    assert ticks(cpu) == ({}, 1)
    proc.put(10, 1, 5, 6)
    assert ticks(cpu) == ({}, 6)


def test_child_gone_one_reading_before_its_parent_shows_it_counts_once(proc):
    proc.put(10, 1)
    proc.put(20, 10, 1000)
    cpu = node(proc, 10, {20: "a"})
    proc.end(20)
    assert ticks(cpu) == ({}, 0)
    proc.put(10, 1, 0, 1003)
    assert ticks(cpu) == ({"a": 3}, 0)


def test_family_that_ends_at_once_counts_once_though_init_waits_for_the_grandchild(proc):
    proc.put(10, 1)
    proc.put(20, 10, 100)
    proc.put(30, 20, 5000)
    cpu = node(proc, None, {20: "a"})
    proc.end(20, 30)
    proc.put(10, 1, 0, 104)
    proc.put(1, 0, 0, 5006)
    assert ticks(cpu) == ({"a": 10}, 0)


def test_orphan_stays_in_the_node_with_its_owner(proc):
    proc.put(10, 1)
    proc.put(20, 10, 1)
    proc.put(30, 20, 1)
    cpu = node(proc, 10, {20: "a"})
    proc.end(20)
    proc.put(10, 1, 0, 1)
    for own in (6, 11):
        proc.put(30, 1, own)
        assert ticks(cpu) == ({"a": 5}, 0)
    proc.put(31, 30, 2)
    assert ticks(cpu) == ({"a": 2}, 0)


def test_orphan_adopted_by_the_raylet_keeps_its_owner(proc):
    proc.put(10, 1)
    proc.put(20, 10, 1)
    proc.put(30, 20, 1)
    cpu = node(proc, 10, {20: "a"})
    proc.end(20)
    proc.put(30, 10, 6)
    assert ticks(cpu) == ({"a": 5}, 0)


def test_pid_used_again_is_another_process(proc):
    proc.put(10, 1)
    proc.put(20, 10, 100)
    cpu = node(proc, 10, {20: "a"})
    proc.put(20, 1, 4000, start=5555)
    assert ticks(cpu) == ({}, 0)
    proc.put(10, 1, 3, start=6666)
    assert ticks(cpu) == ({}, 0)


def test_worker_that_changes_hands_is_charged_to_the_new_owner(proc):
    proc.put(10, 1)
    proc.put(20, 10)
    owners: dict[int, str] = {}
    cpu = node(proc, 10, owners)
    proc.put(20, 10, 5)
    assert ticks(cpu) == ({}, 5)
    owners[20] = "a"
    proc.put(20, 10, 8)
    assert ticks(cpu) == ({"a": 3}, 0)


def test_root_that_is_not_there_is_an_error_with_a_cure(proc):
    with pytest.raises(NotFoundError, match="no process 4711: give the pid of a raylet"):
        node(proc, 4711)


def test_more_processes_than_files_may_be_open(proc, monkeypatch):
    monkeypatch.setattr(processes, "_MAX_OPEN", 3)
    for pid in range(10, 20):
        proc.put(pid, 1)
    table = ProcessTable(proc.root)
    assert len(table.snapshot().processes) == 11
    proc.end(10, 11, 12)
    proc.put(19, 1, 5)
    assert table.snapshot().processes[19].own_ticks == 5
    table.close()
    assert len(table.snapshot().processes) == 8
    table.close()


def test_environment_is_the_one_after_exec_and_survives_a_title(proc):
    proc.put(10, 1, comm="raylet")
    environ = proc.root / "10" / "environ"
    table = ProcessTable(proc.root)

    def read(content: bytes, comm: str = "python") -> dict[str, str]:
        environ.write_bytes(content)
        proc.put(10, 1, comm=comm)
        return table.environ_of(table.snapshot().processes[10], ("A", "B", "C"))

    assert read(b"A=parent\0B=\0AB=3\0junk\0", "raylet") == {"A": "parent", "B": ""}
    # exec: its own environment replaces the parent's
    assert read(b"A=child=1\0X=2\0") == {"A": "child=1"}
    # settled: it is not read again
    assert read(b"A=other\0X=2\0") == {"A": "child=1"}
    # a new name is looked at; a title written over the environment does not make us forget it
    assert read(b"ray::f(x=1)\0\0\0\0", "ray::f") == {"A": "child=1"}


def test_environment_is_read_again_after_one_snapshot_though_the_name_stays(proc):
    proc.put(10, 1)
    environ = proc.root / "10" / "environ"
    environ.write_bytes(b"A=parent\0X=2\0")
    table = ProcessTable(proc.root)
    process = table.snapshot().processes[10]
    assert table.environ_of(process, ("A",)) == {"A": "parent"}
    environ.write_bytes(b"A=child\0X=2\0")
    assert table.environ_of(process, ("A",)) == {"A": "parent"}
    table.snapshot()
    assert table.environ_of(process, ("A",)) == {"A": "child"}


def test_environment_of_nobody_is_empty(proc):
    assert ProcessTable(proc.root).environ_of(ProcessInfo(77, 1, 1, "x", 0, 0), ("A",)) == {}


class Kernel:
    """The bookkeeping of Linux: a child's time goes to whoever waits for it; init waits for orphans at once."""

    def __init__(self, proc: FakeProc) -> None:
        self.proc = proc
        self.parent = {1: 0, 2: 1}
        self.own = {1: 0, 2: 0}
        self.reaped = {1: 0, 2: 0}
        self.zombies: set[int] = set()
        self.next_pid = 3
        self.burnt = 0

    def running(self) -> list[int]:
        return [pid for pid in self.parent if pid not in self.zombies]

    def fork(self, pid: int) -> None:
        self.parent[self.next_pid], self.own[self.next_pid], self.reaped[self.next_pid] = pid, 0, 0
        self.next_pid += 1

    def burn(self, pid: int, amount: int) -> None:
        self.own[pid] += amount
        self.burnt += amount

    def exit(self, pid: int) -> None:
        if pid <= 2:
            return
        self.zombies.add(pid)
        for child in [child for child, parent in self.parent.items() if parent == pid]:
            self.parent[child] = 1
            if child in self.zombies:
                self.wait(child)
        if self.parent[pid] == 1:
            self.wait(pid)

    def wait(self, pid: int) -> None:
        self.reaped[self.parent[pid]] += self.own.pop(pid) + self.reaped.pop(pid)
        self.zombies.remove(pid)
        del self.parent[pid]

    def show(self) -> None:
        for path in self.proc.root.iterdir():
            if path.name.isdecimal() and int(path.name) not in self.parent:
                shutil.rmtree(path)
        for pid, parent in self.parent.items():
            self.proc.put(pid, parent, self.own[pid], self.reaped[pid])


steps = st.lists(st.tuples(st.sampled_from("fffbbbxxwr"), st.integers(0, 99), st.integers(0, 50)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_every_tick_of_a_simulated_machine_is_counted_exactly_once(script):
    with tempfile.TemporaryDirectory() as root:
        kernel = Kernel(FakeProc(Path(root)))
        kernel.show()
        cpu = NodeCpu(None, lambda process: f"job{process.pid % 3}" if process.pid > 2 else None, ProcessTable(root))
        counted = 0
        for step, which, amount in [*script, ("r", 0, 0)]:
            running, zombies = kernel.running(), sorted(kernel.zombies)
            match step:
                case "f":
                    kernel.fork(running[which % len(running)])
                case "b":
                    kernel.burn(running[which % len(running)], amount)
                case "x":
                    kernel.exit(running[which % len(running)])
                case "w" if zombies:
                    kernel.wait(zombies[which % len(zombies)])
                case "r":
                    kernel.show()
                    owners, system = ticks(cpu)
                    assert min([system, *owners.values()]) >= 0
                    counted += sum(owners.values()) + system
                    assert counted == kernel.burnt


def test_processes_of_others_are_read_in_turn_and_a_reused_pid_is_noticed(proc):
    proc.put(10, 1, 5)
    proc.put(99, 1, 1000)
    cpu = node(proc, 10, {99: "a"})
    proc.put(99, 10, 30, start=500)  # it ended, and a child of the node got its pid, between two readings
    seen = [ticks(cpu)[0].get("a", 0) for _ in range(processes._STRANGERS_IN)]
    assert sum(seen) == 30  # late, and all of it
    proc.put(99, 10, 37, start=500)
    assert ticks(cpu) == ({"a": 7}, 0)


def test_a_new_process_with_the_pid_of_a_stranger_that_was_seen_to_end_counts_at_once(proc):
    proc.put(10, 1, 5)
    proc.put(99, 1, 1000)
    cpu = node(proc, 10, {99: "a"})
    ticks(cpu)
    proc.end(99)
    ticks(cpu)
    proc.put(99, 10, 30, start=500)
    assert ticks(cpu) == ({"a": 30}, 0)
