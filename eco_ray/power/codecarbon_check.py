"""CodeCarbon's figure for the same time, beside ours: a second opinion, never a source.

Only `OfflineEmissionsTracker`: the online one takes a wrong country for granted where it has no network. At most one
per machine, held by a file lock: each tracker counts the whole machine, so two of them count it twice. Carbon is not
asked of it, so its country does not matter.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eco_ray.core.ports import Reading
from eco_ray.core.units import J_PER_KWH

#: where the right to run the one tracker of this machine is held
LOCK = Path(tempfile.gettempdir()) / "eco-ray-codecarbon.lock"


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What CodeCarbon counted."""

    seconds: float
    cpu_j: float
    gpu_j: float
    ram_j: float
    #: version and how it says that it got its figures
    source: str

    @property
    def energy_j(self) -> float:
        """All of it."""
        return self.cpu_j + self.gpu_j + self.ram_j

    @property
    def power_w(self) -> float:
        """Mean power."""
        return self.energy_j / self.seconds

    def ratio_to(self, ours: Reading, wall_s: float) -> float | None:
        """Its mean power over ours (the two do not start and stop at one instant); None where ours is 0."""
        ours_w = ours.energy_mj / 1000 / wall_s if wall_s > 0 else 0.0
        return self.power_w / ours_w if ours_w > 0 else None

    def why_they_differ(self, ours: Reading) -> str:
        """What each of the two counts, in one sentence each."""
        cpu = (
            "the CPU from its load and a table of TDPs"
            if "Load" in self.source
            else "the CPU from a counter or its TDP"
        )
        return (
            f"CodeCarbon takes {cpu} ({self.cpu_j / self.seconds:.1f} W), memory as a constant per module "
            f"({self.ram_j / self.seconds:.1f} W) and GPUs from NVML ({self.gpu_j / self.seconds:.1f} W). "
            f"Ours is {ours.nature}, +-{100 * ours.error_rel:.0f} %: {ours.source}."
        )


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why there is no second opinion."""

    reason: str


class CodeCarbonCheck:
    """One measurement by CodeCarbon: `start`, then `stop`. Nothing it does fails, prints, logs or writes a file."""

    def __init__(self, lock: Path = LOCK) -> None:
        self._lock_path = lock
        self._lock: int | None = None
        self._tracker: Any = None
        self._reason = "the cross-check was not started"

    def start(self) -> None:
        """Begin; the first time takes 2 to 4 s, so take our own baseline afterwards."""
        if self._lock is not None:
            return
        try:
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._release()
            self._reason = (
                f"another CodeCarbon tracker of eco_ray runs on this machine ({self._lock_path}: {error.strerror}): "
                "two would count it twice"
            )
            return
        try:
            with _quiet():
                self._tracker = _tracker()
                self._tracker.start()
        except ImportError:
            self._fail("codecarbon is not installed: `pip install codecarbon`")
        except Exception as error:  # a second opinion must not cost the first
            self._fail(f"CodeCarbon could not start: {type(error).__name__}: {error}")

    def stop(self) -> SecondOpinion | Unavailable:
        """End, with what it counted since `start`."""
        if self._tracker is None:
            return Unavailable(self._reason)
        tracker, self._tracker = self._tracker, None
        self._reason = "the cross-check has been stopped"
        try:
            with _quiet():
                tracker.stop()
            return _opinion(tracker)
        except Exception as error:  # as above
            return Unavailable(f"CodeCarbon could not stop: {type(error).__name__}: {error}")
        finally:
            self._release()

    def _fail(self, reason: str) -> None:
        self._reason = reason
        self._tracker = None
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _tracker() -> Any:
    """CodeCarbon's offline tracker with nothing left to its configuration files that could send or write anything."""
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL + 1)
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL + 1)
    return OfflineEmissionsTracker(
        country_iso_code="DEU",
        country_2letter_iso_code=None,
        region=None,
        cloud_provider=None,
        cloud_region=None,
        force_carbon_intensity_g_co2e_kwh=0.0,
        electricitymaps_api_token=None,
        emissions_endpoint=None,
        output_methods=[],
        output_handlers=[],
        tracking_mode="machine",
        measure_power_secs=1,
        gpu_ids=None,
        pue=1.0,
        log_level="critical",
        # the other setting replaces this process's signal handlers; our own lock does its work
        allow_multiple_runs=True,
    )


def _opinion(tracker: Any) -> SecondOpinion | Unavailable:
    # CodeCarbon swallows its own errors: what it could not do is only missing
    data = getattr(tracker, "final_emissions_data", None)
    if data is None:
        return Unavailable("CodeCarbon gave no figures: it could not read this machine")
    parts_kwh = [data.cpu_energy, data.gpu_energy, data.ram_energy]
    if not all(math.isfinite(part) and part >= 0 for part in parts_kwh) or not 0 < data.duration < math.inf:
        return Unavailable(f"CodeCarbon gave {parts_kwh} kWh over {data.duration} s, which cannot be")
    cpu_j, gpu_j, ram_j = (part * J_PER_KWH for part in parts_kwh)
    hardware = ", ".join(item.description() for item in getattr(tracker, "_hardware", ()))
    return SecondOpinion(data.duration, cpu_j, gpu_j, ram_j, f"CodeCarbon {data.codecarbon_version}: {hardware}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
