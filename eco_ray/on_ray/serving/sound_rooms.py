"""Whether what is said of a node can be true. What cannot is no reason to move anything."""

from __future__ import annotations

import math
from dataclasses import replace

from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_places import Room
from eco_ray.grid.points import MAX_G_PER_KWH

#: no machine draws more [W]; the limit of cluster files
_MOST_W = 100_000.0
#: facility energy / IT energy, as cluster files have it
_MOST_PUE = 10.0
#: to switch a machine on [J]
_MOST_WAKE_J = 3.6e9
#: in place of what cannot be true
_MOST = PowerCurve((0.0, 1.0), (0.0, _MOST_W), "the most that any machine draws")


def sound(room: Room) -> tuple[Room, str]:
    """The node as it may be counted with, and what is wrong with it; empty: nothing.

    One with which something is wrong has no known intensity, so that it is neither emptied nor filled, and is the last
    to get requests; what it draws counts as the most that any machine does.
    """
    node, intensity = room.node, room.intensity_g_per_kwh
    checks = [
        ("intensity", [] if intensity is None else [intensity], 0.0, MAX_G_PER_KWH, "g/kWh"),
        ("power", [*node.power.watts, node.gpu_idle_w, node.gpu_busy_w], 0.0, _MOST_W, "W"),
        ("PUE", [node.pue], 1.0, _MOST_PUE, ""),
        ("energy for waking", [node.wake_j], 0.0, _MOST_WAKE_J, "J"),
        ("use", list(room.held.amounts), 0.0, math.inf, "CPUs, GPUs or GB"),
    ]
    for what, values, least, most, unit in checks:
        wrong = [value for value in values if not (math.isfinite(value) and least <= value <= most)]
        if wrong:
            said = f"its {what} cannot be {wrong[0]:g} {unit}".rstrip()
            if what != "intensity":
                node = replace(node, power=_MOST, pue=1.0, gpu_idle_w=0.0, gpu_busy_w=0.0, wake_j=0.0)
            held = node.capacity if what == "use" else room.held
            counted = replace(room, node=node, held=held, intensity_g_per_kwh=None)
            return counted, f"{said} (limits {least:g} to {most:g})"
    return room, ""
