"""Who is charged for the energy of a node: exact to the millijoule, and nothing is made up.

The node's energy falls into parts: each GPU that is metered by itself, and the host, which is all the rest. Of a part,

    E_owner = E_dynamic * used_owner / sum(used)  +  E_idle * reserved_owner / capacity

where used is CPU time (host) or the weighed time of kernels (GPU). `sum(used)` includes what belongs to nobody (raylet,
agents). What no owner used or reserved is unallocated. An owner is charged the sum over the parts. All arithmetic is on
integers (a float is an exact ratio), so the parts sum to the whole for any input.
"""

from __future__ import annotations

from collections.abc import Sequence

from eco_ray.core.ledger import GpuSample, OwnerKind, Sample, Share
from eco_ray.core.split import integers, largest_remainder, split_exact
from eco_ray.errors import EcoRayError

__all__ = ["attribute", "largest_remainder"]

#: kind, id, attempt, part: each replica of a model is an owner of its own
_Key = tuple[OwnerKind, str, int, str]
#: (owner, what it used, what it reserved)
_Use = tuple[_Key, float, float]


def attribute(sample: Sample, capacity_cpus: float) -> tuple[Share, ...]:
    """The energy of each owner of a sample, ordered by owner; what is missing to `sample.energy_mj` is unallocated.

    An owner that is listed more than once gets one share. Reservations above the capacity are scaled down to it.
    Dynamic energy of an interval in which no use was seen is unallocated.
    """
    _check(sample)
    energy_mj, idle_mj = _host(sample)
    of_host: list[_Use] = [
        ((u.owner_kind, u.owner_id, u.attempt, u.part), u.cpu_s, u.reserved_cpus) for u in sample.usages
    ]
    words = "CPU time [s]", "reserved or available CPUs"
    total_of = _part(energy_mj, idle_mj, of_host, sample.system_cpu_s, capacity_cpus, words)
    for gpu in sample.gpus:
        of_gpu: list[_Use] = [((u.owner_kind, u.owner_id, u.attempt, u.part), u.busy_s, u.reserved) for u in gpu.uses]
        words = f"busy time [s] on GPU '{gpu.gpu}'", f"reserved part of GPU '{gpu.gpu}'"
        parts = _part(gpu.energy_mj, gpu.idle_mj, of_gpu, gpu.system_busy_s, 1.0, words)
        for owner, part_mj in parts.items():
            total_of[owner] = total_of.get(owner, 0) + part_mj
    return tuple(Share(*owner[:3], energy_mj=total_of[owner], part=owner[3]) for owner in sorted(total_of))


def _part(
    energy_mj: int, idle_mj: int, uses: Sequence[_Use], system_used: float, capacity: float, words: tuple[str, str]
) -> dict[_Key, int]:
    """One part of a node over its owners; what is missing to `energy_mj` belongs to nobody."""
    *used, system = integers([*(used for _, used, _ in uses), system_used], words[0])
    *held, whole = integers([*(held for _, _, held in uses), capacity], words[1])
    # a denominator of 0 is replaced by one unit that belongs to nobody
    if sum(used) + system == 0:
        system = 1
    whole = max(whole, sum(held)) or 1
    used_sum = sum(used) + system
    dynamic_mj = energy_mj - idle_mj

    # both terms over the common denominator used_sum * whole
    weight_of: dict[_Key, int] = {}
    for (owner, _, _), its_use, its_hold in zip(uses, used, held, strict=True):
        weight = dynamic_mj * its_use * whole + idle_mj * its_hold * used_sum
        weight_of[owner] = weight_of.get(owner, 0) + weight
    nobody = dynamic_mj * system * whole + idle_mj * (whole - sum(held)) * used_sum

    owners = sorted(weight_of)
    # ties go in the order of the owners, last to the unallocated rest
    parts = split_exact(energy_mj, [*(weight_of[owner] for owner in owners), nobody])
    return dict(zip(owners, parts, strict=False))


def _host(sample: Sample) -> tuple[int, int]:
    """Energy and idle energy [mJ] of a node without its GPUs."""
    gpus_mj = sum(gpu.energy_mj for gpu in sample.gpus)
    gpus_idle_mj = sum(gpu.idle_mj for gpu in sample.gpus)
    energy_mj, idle_mj = sample.energy_mj - gpus_mj, sample.idle_mj - gpus_idle_mj
    if energy_mj < 0:
        raise EcoRayError(
            f"{_name(sample)}: its GPUs used {gpus_mj} mJ, more than the {sample.energy_mj} mJ of the whole node; "
            "the energy of a node is that of its host plus that of its GPUs"
        )
    slack_mj = len(sample.gpus) + 1  # the whole and each GPU are rounded to the millijoule by themselves
    if not -slack_mj <= idle_mj <= energy_mj + slack_mj:
        raise EcoRayError(
            f"{_name(sample)}: idle energy of the node without its GPUs is {idle_mj} mJ, outside [0, {energy_mj}] mJ; "
            "the idle energy of a node is that of its host plus that of its GPUs"
        )
    return energy_mj, min(max(idle_mj, 0), energy_mj)


def _name(sample: Sample) -> str:
    return f"sample {sample.seq} of node '{sample.node}'"


def _check(sample: Sample) -> None:
    _check_part(sample, _name(sample), "node")
    seen: set[str] = set()
    for gpu in sample.gpus:
        _check_part(gpu, f"{_name(sample)}, GPU '{gpu.gpu}'", "GPU")
        if gpu.gpu in seen:
            raise EcoRayError(f"{_name(sample)}: GPU '{gpu.gpu}' is there twice; meter each GPU once, by its UUID")
        seen.add(gpu.gpu)


def _check_part(part: Sample | GpuSample, where: str, what: str) -> None:
    if not isinstance(part.energy_mj, int) or not isinstance(part.idle_mj, int):
        raise EcoRayError(f"{where}: energy {part.energy_mj!r} mJ, idle {part.idle_mj!r} mJ must be whole numbers")
    if not 0 <= part.idle_mj <= part.energy_mj:
        raise EcoRayError(
            f"{where}: idle energy {part.idle_mj} mJ is outside [0, {part.energy_mj}] mJ, the energy of the {what}; "
            "clip it where the meter is read"
        )
