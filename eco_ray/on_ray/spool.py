"""Samples that the controller has not confirmed yet, one small file each, so that none is lost while it is away."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from eco_ray.core.ledger import GpuSample, GpuUse, Sample, Served, Usage
from eco_ray.core.units import Nature
from eco_ray.json_file import read_json

log = logging.getLogger("eco_ray.controller")

#: characters of something that is no sample
_MOST_KEPT = 100_000
#: below this much free space nothing is written, so that a full disk is not made worse [bytes]
_MIN_FREE_BYTES = 50_000_000
_SUFFIX = ".sample.json"
#: a larger file was not written by an agent: 10,000 owners and tenants in one sample [bytes]
_LIMIT_BYTES = 2_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_INT = 2**63 - 1


def to_json(sample: Sample) -> dict[str, Any]:
    """A sample as JSON values. Not by `asdict`, which takes ten times as long: an agent does it each second."""
    gpus = tuple({**_values(gpu), "uses": tuple(map(_values, gpu.uses))} for gpu in sample.gpus)
    usages, served = (tuple(map(_values, records)) for records in (sample.usages, sample.served))
    return {**_values(sample), "usages": usages, "served": served, "gpus": gpus}


_NAMES = {cls: tuple(field.name for field in fields(cls)) for cls in (Sample, GpuSample, Usage, GpuUse, Served)}
_GETTERS = {cls: attrgetter(*names) for cls, names in _NAMES.items()}


def _values(record: Sample | GpuSample | Usage | GpuUse | Served) -> dict[str, Any]:
    cls = type(record)
    return dict(zip(_NAMES[cls], _GETTERS[cls](record), strict=True))


def from_json(data: dict[str, Any]) -> Sample:
    """The sample of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
    sample = Sample(
        **{
            **data,
            "nature": Nature(data["nature"]),
            "usages": tuple(Usage(**usage) for usage in data["usages"]),
            "flags": tuple(data["flags"]),
            # a sample that an older agent left behind knows of none of these
            "served": tuple(Served(**served) for served in data.get("served", ())),
            "gpus": tuple(_gpu(gpu) for gpu in data.get("gpus", ())),
        }
    )
    _check(sample, Sample)
    return sample


def _gpu(data: dict[str, Any]) -> GpuSample:
    return GpuSample(**{**data, "uses": tuple(GpuUse(**use) for use in data["uses"])})


_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "OwnerKind": (str,)}


def _check(record: Any, cls: type[Any]) -> None:
    """Raise TypeError where a field is of another type than its class says: text is no number here, nor is true.

    Raise ValueError for a number that is not finite, or too large for a float or a 64-bit integer: JSON knows no limit.
    """
    for field in fields(cls):
        value = getattr(record, field.name)
        if isinstance(value, tuple):
            for item in value:
                if is_dataclass(item):
                    _check(item, type(item))
                elif not isinstance(item, str):
                    raise TypeError(f"{cls.__name__}.{field.name} has {item!r:.80}, not text")
        elif str(field.type) in _KINDS and (isinstance(value, bool) or not isinstance(value, _KINDS[str(field.type)])):
            raise TypeError(f"{cls.__name__}.{field.name} is {value!r:.80}, not {field.type}")
        elif isinstance(value, int) and abs(value) > _MAX_INT:
            raise ValueError(f"{cls.__name__}.{field.name} has {value.bit_length()} bits, limit 63")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{cls.__name__}.{field.name} is {value}, must be finite")


def _text(data: Any) -> str:
    try:
        return json.dumps(data, default=str, sort_keys=True)
    except (TypeError, ValueError):  # keys that do not sort, a number of thousands of digits, a ring
        return f"a {type(data).__name__} that JSON cannot hold"


class Spool:
    """A directory of unconfirmed samples of one node; also of earlier lives of its agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last: tuple[Sample, dict[str, Any]] | None = None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, sample: Sample) -> bool:
        """Keep a sample; False when the disk is full and it is only in memory."""
        path = self._path(sample)
        part = path.with_suffix(".part")
        try:
            if self._is_full():
                return False
            part.write_text(json.dumps(self.json_of(sample)))
            part.replace(path)
        except (OSError, ValueError):  # a ValueError: of a number of thousands of digits
            with suppress(OSError):
                part.unlink(missing_ok=True)
            return False
        return True

    def json_of(self, sample: Sample) -> dict[str, Any]:
        """As `to_json`; made once for a sample that is kept and then sent."""
        if self._last is None or self._last[0] is not sample:
            self._last = sample, to_json(sample)
        return self._last[1]

    def sound(self, batch: Iterable[Any]) -> list[Sample]:
        """The samples of a message; what is none is set aside here as it came, so that it is not sent for ever."""
        samples = []
        for data in batch:
            try:
                samples.append(from_json(dict(data)))
            except (KeyError, TypeError, ValueError) as error:
                log.error("what is no sample (%r) is set aside in %s", error, self.folder.name)
                self.set_aside(data)
        return samples

    def set_aside(self, data: Any) -> bool:
        """Keep what is no sample, or one that JSON cannot hold, as text; False when the disk is full."""
        text = _text(data)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        try:
            if self._is_full():
                return False
            (self.folder / f"{name}.damaged").write_text(text[:_MOST_KEPT])
        except OSError:
            return False
        return True

    def _is_full(self) -> bool:
        return shutil.disk_usage(self.folder).free < _MIN_FREE_BYTES

    def drop(self, sample: Sample) -> None:
        """Forget a confirmed sample."""
        self._path(sample).unlink(missing_ok=True)

    def _path(self, sample: Sample) -> Path:
        # what came in a message may be no name of a file, or one of another folder
        boot_id = sample.boot_id
        name = boot_id if _NAME.fullmatch(boot_id) else hashlib.sha256(repr(boot_id).encode()).hexdigest()[:16]
        return self.folder / f"{name}-{sample.seq:09d}{_SUFFIX}"

    def load(self) -> list[Sample]:
        """All kept samples, oldest first. A damaged file is set aside under another name, never counted."""
        samples = []
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            try:
                samples.append(from_json(read_json(path, _LIMIT_BYTES)))
            except OSError as error:  # it may be read the next time
                log.error("%s stays where it is: %s", path, error)
            except (KeyError, TypeError, ValueError):
                with suppress(OSError):
                    path.rename(path.with_suffix(".damaged"))
        return sorted(samples, key=lambda sample: sample.start_s)
