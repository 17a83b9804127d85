"""CPU time by process tree, from /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from eco_ray.core.attribution import largest_remainder
from eco_ray.errors import NotFoundError
from eco_ray.power.processes import ProcessInfo, ProcessTable

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

OwnerKey = TypeVar("OwnerKey", bound=Hashable)


@dataclass(slots=True)
class _Member(Generic[OwnerKey]):
    """A process of the node at the last reading."""

    info: ProcessInfo
    #: parent when it was first seen; another one later means that its parent ended
    first_ppid: int
    owner: OwnerKey | None
    #: CPU time it used in the last interval [clock ticks]
    used_ticks: int = 0


@dataclass(slots=True)
class _Gone(Generic[OwnerKey]):
    """An ended process whose time, counted while it lived, will show up again in whoever waited for it."""

    #: nearest living ancestor
    reaper_pid: int
    owner: OwnerKey | None
    used_ticks: int
    #: counted already and not yet seen again [clock ticks]
    left_ticks: int
    #: whether it ended in this interval
    fresh: bool = True


class NodeCpu(Generic[OwnerKey]):
    """CPU time of one node's processes between two readings, by owner.

    The node is a process (its raylet) with all that ever descended from it, or the whole machine (`root_pid=None`).

    A process that is alive at both readings has used the growth of its own time; a new one all of its time. When a
    child ends and is waited for, its whole time appears in its parent's `cutime`/`cstime`: what was counted while it
    lived is taken off again, and the remainder (what it, and children too short-lived to be seen, used since) goes to
    the owner of the ended child, or else of the parent. A parent that ignores SIGCHLD shows nothing, and nothing
    is counted: the last fraction of an interval of its children is lost, never negative. As a child may be gone from
    the list just before its parent shows it, what is to be taken off waits for one more reading.

    The owner of a process is that of the nearest ancestor-or-self for which `owner_of` gives one; a process that
    outlives its parent keeps its owner. `owner_of` is asked at every reading, since workers change hands.
    """

    def __init__(
        self,
        root_pid: int | None,
        owner_of: Callable[[ProcessInfo], OwnerKey | None],
        table: ProcessTable | None = None,
    ) -> None:
        """Take the first snapshot. Raises NotFoundError when the root is not running."""
        self._owner_of = owner_of
        self._table = table or ProcessTable()
        self._whole_machine = root_pid is None
        self._members: dict[int, _Member[OwnerKey]] = {}
        self._gone: list[_Gone[OwnerKey]] = []
        #: pids of the machine that are not the node's
        self._strangers: set[int] = set()
        snapshot = self._table.snapshot()
        if root_pid is not None and root_pid not in snapshot.processes:
            raise NotFoundError(f"no process {root_pid}: give the pid of a raylet that runs on this machine")
        pids = snapshot.processes.keys() if root_pid is None else snapshot.descendants(root_pid)
        self._members = self._joined({pid: snapshot.processes[pid] for pid in pids})
        self._strangers = set(self._table.pids) - self._members.keys()

    def read(self) -> tuple[float, dict[OwnerKey, float], float]:
        """(total, {owner: its part}, part of nobody) in CPU seconds since the last call; the parts sum to the total."""
        snapshot = self._table.snapshot(self._strangers)
        before = self._members
        alive = {
            pid
            for pid, member in before.items()
            if pid in snapshot.processes and snapshot.processes[pid].id == member.info.id
        }
        pids = snapshot.processes.keys() if self._whole_machine else snapshot.descendants(*alive)
        self._members = self._joined({pid: snapshot.processes[pid] for pid in pids})
        self._strangers = set(self._table.pids) - self._members.keys()

        ticks: dict[OwnerKey | None, int] = defaultdict(int)
        growth: dict[int, int] = {}
        for pid, member in self._members.items():
            info = member.info
            if pid in alive:
                last = before[pid].info
                member.used_ticks = max(0, info.own_ticks - last.own_ticks)
                growth[pid] = max(0, info.reaped_ticks - last.reaped_ticks)
            else:
                member.used_ticks = info.own_ticks + info.reaped_ticks
            ticks[member.owner] += member.used_ticks
        for owner, remainder in self._remainders(before, alive, growth):
            ticks[owner] += remainder

        system_s = ticks.pop(None, 0) / _TICKS_PER_S
        by_owner = {owner: used / _TICKS_PER_S for owner, used in ticks.items() if owner is not None}
        return sum(by_owner.values()) + system_s, by_owner, system_s

    def owner_of_pid(self, pid: int) -> OwnerKey | None:
        """Whose process that is, by the last reading; None: nobody's, or it is gone."""
        member = self._members.get(pid)
        return member.owner if member is not None else None

    def close(self) -> None:
        """Close the files of the process table."""
        self._table.close()

    def _joined(self, infos: Mapping[int, ProcessInfo]) -> dict[int, _Member[OwnerKey]]:
        """The processes of the node now, each with its owner."""
        now: dict[int, _Member[OwnerKey]] = {}
        for start in infos.values():
            # up to the first ancestor that is done or has an owner, then down again
            path: list[_Member[OwnerKey]] = []
            info: ProcessInfo | None = start
            owner: OwnerKey | None = None
            while info is not None:
                if info.pid in now:
                    owner = now[info.pid].owner
                    break
                known = self._members.get(info.pid)
                if known is not None and known.info.id != info.id:
                    known = None
                member = _Member(info, known.first_ppid if known else info.ppid, self._owner_of(info))
                now[info.pid] = member
                path.append(member)
                if member.owner is None and known is not None and info.ppid != known.first_ppid:
                    member.owner = owner = known.owner
                    break
                owner = member.owner
                info = infos.get(info.ppid) if owner is None else None
            for member in reversed(path):
                if member.owner is None:
                    member.owner = owner
                owner = member.owner
        return now

    def _remainders(
        self, before: Mapping[int, _Member[OwnerKey]], alive: set[int], growth: dict[int, int]
    ) -> list[tuple[OwnerKey | None, int]]:
        """What ended children used beyond what was counted, as (owner, ticks). Uses up `growth`."""

        def living(pid: int) -> int:
            passed: set[int] = set()
            while pid not in alive and pid in before and pid not in passed:
                passed.add(pid)
                pid = before[pid].info.ppid
            return pid

        for gone in self._gone:
            gone.fresh = False
            gone.reaper_pid = living(gone.reaper_pid)
        for pid, member in before.items():
            if pid not in alive:
                counted = member.info.own_ticks + member.info.reaped_ticks
                self._gone.append(_Gone(living(pid), member.owner, member.used_ticks, counted))

        reaped_by: dict[int, list[_Gone[OwnerKey]]] = defaultdict(list)

        def settle(gone: _Gone[OwnerKey], pid: int) -> None:
            taken = min(growth.get(pid, 0), gone.left_ticks)
            gone.left_ticks -= taken
            if pid in growth:
                growth[pid] -= taken
                if gone.left_ticks == 0:
                    reaped_by[pid].append(gone)

        for gone in self._gone:
            settle(gone, gone.reaper_pid)
        # an orphan is waited for by an ancestor further up, or by init
        for gone in self._gone:
            for pid in self._above(gone.reaper_pid) if gone.left_ticks else ():
                if gone.left_ticks:
                    settle(gone, pid)
        self._gone = [gone for gone in self._gone if gone.left_ticks and gone.fresh]

        result: list[tuple[OwnerKey | None, int]] = []
        for pid, remainder in growth.items():
            if remainder and reaped_by[pid]:
                children = reaped_by[pid]
                parts = largest_remainder(remainder, [child.used_ticks + 1 for child in children])
                result += [(child.owner, part) for child, part in zip(children, parts, strict=True)]
            elif remainder:
                result.append((self._members[pid].owner, remainder))
        return result

    def _above(self, pid: int) -> list[int]:
        """Ancestors of a process within the node, nearest first; init last."""
        found: list[int] = []
        while pid in self._members and self._members[pid].info.ppid not in found:
            pid = self._members[pid].info.ppid
            found.append(pid)
        return found if 1 in found else [*found, 1]
