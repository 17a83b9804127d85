"""Intel and AMD CPU energy counters (RAPL) through Linux' powercap files.

A counter covers the whole machine: on a machine that plays several nodes it belongs to none of them.
Top domains are `intel-rapl:N` (a package, or psys: the whole platform), their parts `intel-rapl:N:M` (core, uncore,
dram). Core and uncore are inside the package; dram is beside it; psys contains all. A second socket has `package-1` and
may have `psys-1`; the mmio driver mirrors domains of the msr driver under the same names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eco_ray.core.ports import CpuUse, Reading
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotAllowedError, NotFoundError
from eco_ray.power._counter import COUNTER_RESET, IdleFloor, step, wall_time

#: a runtime hides these files from a container, which then has the host's mounted elsewhere (k8s/components/rapl)
POWERCAP = Path(os.environ.get("ECO_RAY_POWERCAP_DIR") or "/sys/class/powercap")
#: our half-width; RAPL tracks a plug meter closely on Haswell and later (Khan et al., RAPL in Action, TOMPECS 2018)
ERROR_REL = 0.05
#: what the source of a reading says then
NO_MEMORY = " (memory is not counted)"
_UJ_PER_J = 1e6
#: an interval in which a package at this power would go round its whole counter cannot be told from a shorter one
_WRAP_W = 300.0
#: of a count that the kernel keeps in 64 bits
_MOST_DIGITS = 20
_DOMAIN = re.compile(r"(intel-rapl(?:-mmio)?):(\d+)(?::(\d+))?$")
_CURE = (
    "let the agent read it: `sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj` "
    "(not kept over a reboot: use a udev rule), or give the agent CAP_DAC_READ_SEARCH"
)


@dataclass(slots=True)
class _Domain:
    name: str
    path: Path
    #: where the counter wraps [uJ]; None: unknown
    range_uj: int | None
    last_uj: int = field(default=0)

    def counter_uj(self) -> int:
        """The counter now [uJ]."""
        now_uj = _counter_uj(self.path)
        if self.range_uj is not None and now_uj > self.range_uj:
            raise EcoRayError(
                f"{self.path / 'energy_uj'} holds {now_uj}, above its range of {self.range_uj} microjoules: "
                "RAPL cannot be used here"
            )
        return now_uj


class RaplMeter:
    """Measured energy of the CPU packages and their memory, or of the platform where psys counts it."""

    name = "rapl"

    def __init__(self, root: Path = POWERCAP, idle_w: float | None = None) -> None:
        """Find the domains and take their counters as the start of the first interval.

        Raises NotFoundError where there is no RAPL, NotAllowedError where the counters may not be read.
        """
        domains = _find(root)
        self._psys = [domain for domain in domains if domain.name.startswith("psys")]
        self._parts = [domain for domain in domains if not domain.name.startswith("psys")]
        if not domains:
            raise NotFoundError(f"no RAPL domain under {root}: most virtual machines have none; use a power curve")
        for domain in domains:
            domain.last_uj = domain.counter_uj()
        self._idle = IdleFloor(idle_w)

    @staticmethod
    def available(root: Path = POWERCAP) -> bool:
        """Whether a meter can be opened here."""
        try:
            RaplMeter(root)
        except EcoRayError:
            return False
        return True

    @property
    def counts_memory(self) -> bool:
        """Whether memory is in its figures: by dram domains, which AMD and many desktop CPUs lack, or in psys."""
        return _counts_memory([*self._parts, *self._psys])

    def read(self, use: CpuUse) -> Reading:
        """Energy since the last call, or since the meter was made."""
        wall_s, flags = wall_time(use.wall_s)
        # all or none: where one cannot be read, no other has moved its start
        now_uj = {domain.name: domain.counter_uj() for domain in [*self._parts, *self._psys]}
        parts_mj = sum(self._step_mj(domain, now_uj, wall_s, flags) for domain in self._parts)
        energy_mj, used = parts_mj, self._parts
        if self._psys:
            psys_mj = sum(self._step_mj(domain, now_uj, wall_s, flags) for domain in self._psys)
            if psys_mj >= parts_mj:
                energy_mj, used = psys_mj, self._psys
            else:
                # psys contains the packages; on boards where nobody feeds it, it stands still
                flags.append("psys-below-package")
        names = "+".join(domain.name for domain in used) + ("" if _counts_memory(used) else NO_MEMORY)
        return Reading(
            energy_mj=energy_mj,
            idle_mj=self._idle.idle_mj(energy_mj, wall_s),
            nature=Nature.MEASURED,
            source=f"{self.name}: {names}",
            error_rel=ERROR_REL,
            flags=tuple(dict.fromkeys(flags)),
        )

    @staticmethod
    def _step_mj(domain: _Domain, now_uj: Mapping[str, int], wall_s: float, flags: list[str]) -> float:
        increase_uj = step(domain.last_uj, now_uj[domain.name], _UJ_PER_J, wall_s, domain.range_uj)
        domain.last_uj = now_uj[domain.name]
        if domain.range_uj is not None and wall_s * _WRAP_W * _UJ_PER_J > domain.range_uj:
            flags.append("counter-wrap-ambiguous")
        if increase_uj is None:
            flags.append(COUNTER_RESET)
            return 0.0
        return increase_uj / 1000


def _counts_memory(domains: Sequence[_Domain]) -> bool:
    return any(domain.name.startswith("psys") or domain.name.endswith("dram") for domain in domains)


def _find(root: Path) -> list[_Domain]:
    """The domains to sum, each once: packages, dram beside them, psys."""
    named: dict[str, _Domain] = {}
    # 'intel-rapl:' sorts after 'intel-rapl-mmio:': the mirror comes first and is replaced
    for path in sorted(root.glob("intel-rapl*:*")):
        match = _DOMAIN.match(path.name)
        if match is None:
            continue
        driver, top, part = match.groups()
        name = _text(path / "name")
        if part is not None:
            if name != "dram":
                continue
            # the same memory under both drivers has the same package name
            name = f"{_text(root / f'{driver}:{top}' / 'name')}-dram"
        elif not name.startswith(("package", "psys")):
            if name.startswith(("core", "uncore", "dram")):
                continue  # inside a package, or listed below one
            raise EcoRayError(
                f"{path / 'name'} holds '{name[:40]}', no domain that we know (package, dram, psys): RAPL cannot be "
                "used without guessing what it counts; report it with the output of `grep . /sys/class/powercap/*/name`"
            )
        named[name] = _Domain(name, path, _range_uj(path))
    return sorted(named.values(), key=lambda domain: domain.name)


def _range_uj(path: Path) -> int | None:
    try:
        return _counter_uj(path, "max_energy_range_uj") or None
    except NotFoundError:
        return None


def _counter_uj(path: Path, name: str = "energy_uj") -> int:
    text = _text(path / name)
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        raise EcoRayError(f"{path / name} holds '{text[:40]}', not a count in microjoules: RAPL cannot be used here")
    return int(text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except PermissionError as error:
        raise NotAllowedError(f"{path} may not be read (since CVE-2020-8694 only by root): {_CURE}") from error
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there: RAPL cannot be used here") from error
    except OSError as error:
        raise EcoRayError(f"{path} cannot be read ({error.strerror}): RAPL cannot be used here") from error
