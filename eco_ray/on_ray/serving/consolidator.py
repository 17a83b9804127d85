"""Empties nodes so that they can be released: looks, decides by `next_drain`, asks Ray, and sees to the end of it.

One drain at a time, its own or anybody's; none while replicas are starting, or while controller or Serve are away. What
is decided is in the store before Ray is asked, so that one that is killed at any moment does nothing twice. Only nodes
that come back by themselves are emptied (`View.returning`); of others it only says what emptying them would save.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from eco_ray.core.audit import AuditEntry
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.consolidation import Consolidation, DrainState, Guest, Hosts, next_drain, next_step
from eco_ray.core.decision_log import DrainRecord
from eco_ray.core.replica_places import Room
from eco_ray.core.store_port import Store
from eco_ray.errors import EcoRayError
from eco_ray.on_ray.serving.decision_file import NOT_KEPT, DecisionFile
from eco_ray.on_ray.serving.drain_record import META_KEY, TAKEN_S, DrainAnswer, Kept, Told, UnderWay
from eco_ray.on_ray.serving.sound_rooms import sound

log = logging.getLogger("eco_ray.serving")

#: between two looks [wall s]
LOOK_S = 10.0
#: after a longer pause than this nobody knows whether a node was worth emptying all along [s]
_BREAK_S = 120.0
#: how often it is written down that nothing has changed [s]
_WRITE_S = 60.0
#: from the drain on, until Serve may stop replicas that have no others yet, and jobs are lost [s]
MOVE_S = 900.0


@dataclass(frozen=True, slots=True)
class View:
    """The cluster at one moment."""

    #: wall time [s since epoch]
    now_s: float
    #: nodes that are there or asleep, with the mean intensity of their zones over the horizon
    rooms: tuple[Room, ...]
    guests: tuple[Guest, ...]
    #: nodes that are being drained, by whomever
    draining: frozenset[str] = frozenset()
    #: nodes that are switched off when they are empty, and on again when they are needed
    returning: frozenset[str] = frozenset()
    #: nodes on which waiting jobs have their places
    planned: frozenset[str] = frozenset()
    #: what has fewer replicas up than it should have, not counting those on nodes that are drained
    starting: tuple[str, ...] = ()

    def on(self, node: str) -> list[str]:
        """Names of the guests of a node."""
        return [guest.name for guest in self.guests if guest.node == node]


class Cluster(Protocol):
    """The Ray side."""

    def view(self, horizon_s: float) -> View:
        """What is there now. Raises EcoRayError where somebody who has to be asked is away."""
        ...

    def drain(self, node: Node, guests: Collection[str], why: str, deadline_wall_s: float) -> DrainAnswer:
        """Let nothing new begin on a node, and ask Ray to drain it: refused if it is not on these guests that it was
        decided. Raises EcoRayError where it is not known whether Ray does.
        """
        ...

    def let_go(self, node: Node) -> None:
        """End what is ours on a drained node that is empty: the last that keeps Ray there. May be asked again."""
        ...


class Consolidator:
    """Of one cluster."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        config: Consolidation | None = None,
        *,
        acts: bool = True,
        move_s: float = MOVE_S,
        decisions: DecisionFile = NOT_KEPT,
    ) -> None:
        """`acts`: False: it only says what it would do. `move_s`: for guests to be elsewhere. `decisions`: a log."""
        self._store, self._cluster, self._config = store, cluster, config or Consolidation()
        self._acts, self._move_s, self._decisions = acts, move_s, decisions
        self._kept: Kept | None = None
        self._written_s = -math.inf
        self._stopped = threading.Event()

    def follow(self, pause_s: float = LOOK_S) -> None:
        """Look again and again in the background, until `stop`."""

        def run() -> None:
            while not self._stopped.wait(pause_s):
                try:
                    self.look()
                except Exception:  # whatever it was, the next look may go well
                    log.exception("nodes could not be looked at")

        threading.Thread(target=run, name="consolidate", daemon=True).start()

    def stop(self) -> None:
        """End `follow`."""
        self._stopped.set()

    def look(self) -> Told:
        """One look, and what comes of it. Raises EcoRayError where the store is away: then nothing is done."""
        kept = self._kept or Kept.from_json(self._store.get_meta(META_KEY) or {})
        try:
            view = self._cluster.view(self._config.horizon_s)
        except EcoRayError as error:
            return self._keep(replace(kept, told=Told("unknown", None, str(error), kept.told.looked_s)), kept)
        if view.now_s - kept.looked_s > _BREAK_S:
            kept = replace(kept, state=replace(kept.state, candidate=""), empty=())
        starting = _since(view.starting, kept.starting, view.now_s)
        returning = tuple(sorted({*kept.returning, *view.returning}))
        # nothing moves to a node of which nobody has seen that it comes back
        view = replace(view, rooms=tuple(one for one in view.rooms if not one.asleep or one.node.name in returning))
        kept = replace(
            kept,
            looked_s=view.now_s,
            empty=_empty(dict(kept.empty), view),
            starting=starting,
            returning=returning,
        )
        # what never starts, whoever's it is, keeps no node on for good: it may need the one that comes back
        view = replace(view, starting=tuple(app for app, since_s in starting if view.now_s < since_s + self._move_s))
        return self._see_to(kept, kept.under_way, view) if kept.under_way else self._decide(kept, view)

    # -- deciding ----------------------------------------------------------------------------------------------------

    def _decide(self, kept: Kept, view: View) -> Told:
        waits = _waits(view)
        if waits:
            return self._keep(replace(kept, told=Told("waits", None, waits, view.now_s)), kept)
        hosts = _hosts(view, self._acts)
        empty = dict(kept.empty)
        found, state = next_step(hosts, empty, kept.state, self._config)
        self._decisions.note(DrainRecord(hosts, empty, kept.state, self._config, found), found.node or state.candidate)
        if found.node is None:
            would = _would(hosts, self._config)
            why = "; ".join(filter(None, (found.why, would, _given_up(kept, view))))
            told = Told("would drain" if would else "nothing", None, why, view.now_s)
            return self._keep(replace(kept, state=state, told=told), kept)
        return self._begin(kept, found.node, found.why, state, view)

    def _begin(self, kept: Kept, name: str, why: str, state: DrainState, view: View) -> Told:
        node = next(room.node for room in view.rooms if room.node.name == name)
        under_way = UnderWay(
            node.name,
            node.ray_node_id or "",
            why,
            view.now_s,
            view.now_s + self._move_s,
            tuple(guest.name for guest in view.guests),
        )
        told = Told("draining", node.name, why, view.now_s)
        kept = replace(kept, state=state, under_way=under_way, told=told)
        self._write(kept)  # before Ray is asked
        try:
            answer = self._cluster.drain(node, view.on(node.name), why, under_way.deadline_s)
        except EcoRayError as error:  # the next look tells whether Ray does it
            log.warning("%s: %s", name, error)
            return told
        if not answer.accepted:
            return self._refused(kept, under_way, f"{name} is not drained: {answer.why}", view)
        log.info("%s", why)
        self._audit("drain-node", under_way, why)
        return told

    # -- seeing to it ------------------------------------------------------------------------------------------------

    def _see_to(self, kept: Kept, under_way: UnderWay, view: View) -> Told:
        name = under_way.node
        node = next(
            (r.node for r in view.rooms if r.node.name == name and r.node.ray_node_id == under_way.ray_id), None
        )
        left, took_s = view.on(name), view.now_s - under_way.began_s
        missing = ", ".join(app for app, _ in kept.starting)
        starting = f"; {missing} has fewer replicas up than it should" if missing else ""
        if node is None:
            after = f"{took_s:.0f} s after it was decided{starting}"
            # Ray ends a drained node as soon as it is empty, often between two looks; but replicas that leave are up
            # elsewhere first
            if kept.told.did != "emptied" and _is_awaited(under_way, view):
                why = f"{name} is gone, before what was on it was up elsewhere, {after}"
                return self._end(kept, under_way, view, Told("gone", name, why, view.now_s))
            why = f"{name} was emptied and released, {after}"
            return self._end(kept, under_way, view, Told("released", name, why, view.now_s))
        if name in view.draining:
            under_way = replace(under_way, seen_s=view.now_s)
            kept = replace(kept, under_way=under_way)
        elif view.now_s - max(under_way.seen_s, under_way.began_s) >= TAKEN_S:
            return self._refused(kept, under_way, f"Ray did not say that it drains {name}, and does not", view)
        elif under_way.seen_s >= under_way.began_s:  # Ray has ended it, which the controller sees a moment later
            return self._keep(kept, kept)
        if not left and not _is_awaited(under_way, view):
            self._cluster.let_go(node)
            why = f"{name} is empty after {took_s:.0f} s, and is let go{starting}"
            told = Told("emptied", name, why, view.now_s)
        else:
            late = ", longer than it should take" if view.now_s > under_way.deadline_s else ""
            still = f"; still there: {', '.join(left)}" if left else ""
            why = f"{name} is being emptied for {took_s:.0f} s{late}{still}{starting}"
            told = Told("draining", name, why, view.now_s)
        return self._keep(replace(kept, told=told), kept)

    def _refused(self, kept: Kept, under_way: UnderWay, why: str, view: View) -> Told:
        """Nothing has moved, so that nothing was filled or emptied; the pause before the next drain is kept."""
        until_s = under_way.began_s + self._config.rest_s
        filled, emptied = (
            tuple(one for one in nodes if one[1] != until_s) for nodes in (kept.state.filled, kept.state.emptied)
        )
        log.warning("%s", why)
        told = Told("refused", under_way.node, why, view.now_s)
        state = replace(kept.state, filled=filled, emptied=emptied)
        empty = tuple(one for one in kept.empty if one[0] != under_way.node)  # one of them is asked for later again
        return self._write(replace(kept, state=state, under_way=None, told=told, empty=empty))

    def _end(self, kept: Kept, under_way: UnderWay, view: View, told: Told) -> Told:
        """What came since it began has filled nodes, whatever was planned: they are not emptied for a while."""
        until_s = view.now_s + self._config.rest_s
        came = {guest.node for guest in view.guests if guest.name not in under_way.guests}
        filled = {**dict(kept.state.filled), **dict.fromkeys(came, until_s)}
        state = replace(kept.state, filled=tuple(filled.items()))
        log.info("%s", told.why)
        self._audit("release-node" if told.did == "released" else "lose-node", under_way, told.why)
        return self._write(replace(kept, state=state, under_way=None, told=told, last=told))

    # -- the record --------------------------------------------------------------------------------------------------

    def _keep(self, kept: Kept, before: Kept) -> Told:
        """Write down what has changed, or once a minute that it was looked at."""
        same = (kept.told.did, kept.told.node) == (before.told.did, before.told.node)
        same = same and (kept.state, kept.returning) == (before.state, before.returning)
        if same and kept.looked_s - self._written_s < _WRITE_S:
            self._kept = kept
            return kept.told
        return self._write(kept)

    def _write(self, kept: Kept) -> Told:
        self._store.put_meta(META_KEY, kept.to_json())
        self._kept, self._written_s = kept, kept.looked_s
        return kept.told

    def _audit(self, action: str, under_way: UnderWay, detail: str) -> None:
        """Nobody asked for it in this moment; what is done does not depend on the log."""
        try:
            self._store.add_audit([AuditEntry(time.time(), "deployer", action, under_way.node, detail[:1000])])
        except EcoRayError as error:
            log.warning("%s of %s is not in the audit log: %s", action, under_way.node, error)


def _empty(since: dict[str, float], view: View) -> tuple[tuple[str, float], ...]:
    """Nodes with nothing on them, and since when that was seen without a break; one that is drained comes back anew."""
    free = [room.node.name for room in view.rooms if room.held == Resources() and not room.asleep]
    names = [name for name in free if not view.on(name) and name not in view.draining]
    return _since(names, since.items(), view.now_s)


def _since(names: Iterable[str], before: Iterable[tuple[str, float]], now_s: float) -> tuple[tuple[str, float], ...]:
    """These, and since when they were seen without a break."""
    since = dict(before)
    return tuple((name, since.get(name, now_s)) for name in names)


def _is_awaited(under_way: UnderWay, view: View) -> bool:
    """Whether what left a node may not be up elsewhere yet.

    What has come since waits for room, which this node gives only once it has ended and is back.
    """
    before = {guest.partition(" ")[0].partition("/")[0] for guest in under_way.guests}
    return view.now_s <= under_way.deadline_s and any(app in before for app in view.starting)


def _waits(view: View) -> str:
    """Why nothing is decided now; empty: something may be."""
    if view.draining:
        return f"nothing is moved while {', '.join(sorted(view.draining))} is drained"
    if view.starting:
        return f"nothing is moved while replicas start: {', '.join(view.starting)} has fewer up than it should"
    return ""


def _given_up(kept: Kept, view: View) -> str:
    """What is not waited for any more; empty: nothing."""
    apps = [app for app, _ in kept.starting if app not in view.starting]
    return f"not waited for any more, as its replicas do not start: {', '.join(apps)}" if apps else ""


def _hosts(view: View, acts: bool) -> Hosts:
    rooms, kept = [], {}
    for room in view.rooms:
        checked, why = sound(room)
        rooms.append(checked)
        if why:
            kept[room.node.name] = why
        elif not acts:
            kept[room.node.name] = _NOT_ASKED
        elif room.node.name not in view.returning:
            kept[room.node.name] = _STAYS_AWAY
        elif room.node.name in view.planned:
            kept[room.node.name] = "waiting jobs have their places there"
    return Hosts(view.now_s, tuple(rooms), view.guests, kept)


_NOT_ASKED = "consolidation is set to report"
_STAYS_AWAY = "nobody could bring it back"


def _would(hosts: Hosts, config: Consolidation) -> str:
    """What would be saved if the nodes that are only kept for this came back by themselves; empty: nothing."""
    kept = {name: why for name, why in hosts.kept.items() if why not in (_NOT_ASKED, _STAYS_AWAY)}
    if len(kept) == len(hosts.kept):
        return ""
    found, _ = next_drain(replace(hosts, kept=kept), None, replace(config, hold_s=0.0, gap_s=0.0))
    return f"if it could be: {found.why}" if found.node in hosts.kept.keys() - kept.keys() else ""
