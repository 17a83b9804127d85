"""Intel and AMD CPU energy counters (RAPL) through Linux' powercap files.

A counter covers the whole machine: on a machine that plays several nodes it belongs to none of them.
Top domains are `intel-rapl:N` (a package, or psys: the whole platform), their parts `intel-rapl:N:M` (core, uncore,
dram). Core and uncore are inside the package; dram is beside it; psys contains all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from eco_ray.core.ports import CpuUse, Reading
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotAllowedError, NotFoundError
from eco_ray.power._counter import COUNTER_RESET, IdleFloor, step, wall_time

POWERCAP = Path("/sys/class/powercap")
#: our half-width; RAPL tracks a plug meter closely on Haswell and later (Khan et al., RAPL in Action, TOMPECS 2018)
ERROR_REL = 0.05
_UJ_PER_J = 1e6
#: an interval in which a package at this power would go round its whole counter cannot be told from a shorter one
_WRAP_W = 300.0
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


class RaplMeter:
    """Measured energy of the CPU packages and their memory, or of the platform where psys counts it."""

    name = "rapl"

    def __init__(self, root: Path = POWERCAP, idle_w: float | None = None) -> None:
        """Find the domains and take their counters as the start of the first interval.

        Raises NotFoundError where there is no RAPL, NotAllowedError where the counters may not be read.
        """
        domains = _find(root)
        self._psys = [domain for domain in domains if domain.name == "psys"]
        self._parts = [domain for domain in domains if domain.name != "psys"]
        if not domains:
            raise NotFoundError(f"no RAPL domain under {root}: most virtual machines have none; use a power curve")
        for domain in domains:
            domain.last_uj = _counter_uj(domain.path)
        self._idle = IdleFloor(idle_w)

    @staticmethod
    def available(root: Path = POWERCAP) -> bool:
        """Whether a meter can be opened here."""
        try:
            RaplMeter(root)
        except EcoRayError:
            return False
        return True

    def read(self, use: CpuUse) -> Reading:
        """Energy since the last call, or since the meter was made."""
        wall_s, flags = wall_time(use.wall_s)
        parts_mj = sum(self._step_mj(domain, wall_s, flags) for domain in self._parts)
        energy_mj, used = parts_mj, self._parts
        if self._psys:
            psys_mj = sum(self._step_mj(domain, wall_s, flags) for domain in self._psys)
            if psys_mj >= parts_mj:
                energy_mj, used = psys_mj, self._psys
            else:
                # psys contains the packages; on boards where nobody feeds it, it stands still
                flags.append("psys-below-package")
        names = "+".join(domain.name for domain in used)
        return Reading(
            energy_mj=energy_mj,
            idle_mj=self._idle.idle_mj(energy_mj, wall_s),
            nature=Nature.MEASURED,
            source=f"{self.name}: {names}",
            error_rel=ERROR_REL,
            flags=tuple(dict.fromkeys(flags)),
        )

    @staticmethod
    def _step_mj(domain: _Domain, wall_s: float, flags: list[str]) -> float:
        now_uj = _counter_uj(domain.path)
        increase_uj = step(domain.last_uj, now_uj, _UJ_PER_J, wall_s, domain.range_uj)
        domain.last_uj = now_uj
        if domain.range_uj is not None and wall_s * _WRAP_W * _UJ_PER_J > domain.range_uj:
            flags.append("counter-wrap-ambiguous")
        if increase_uj is None:
            flags.append(COUNTER_RESET)
            return 0.0
        return increase_uj / 1000


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
        elif name.startswith(("core", "uncore", "dram")):
            continue
        named[name] = _Domain(name, path, _range_uj(path))
    return sorted(named.values(), key=lambda domain: domain.name)


def _range_uj(path: Path) -> int | None:
    try:
        return _counter_uj(path, "max_energy_range_uj") or None
    except NotFoundError:
        return None


def _counter_uj(path: Path, name: str = "energy_uj") -> int:
    text = _text(path / name)
    if not text.isdecimal():
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
