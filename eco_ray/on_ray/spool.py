"""Samples that the controller has not confirmed yet, one small file each, so that none is lost while it is away."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eco_ray.core.ledger import Sample, Usage
from eco_ray.core.units import Nature

#: below this much free space nothing is written, so that a full disk is not made worse [bytes]
_MIN_FREE_BYTES = 50_000_000
_SUFFIX = ".sample.json"


def to_json(sample: Sample) -> dict[str, Any]:
    """A sample as JSON values."""
    return asdict(sample)


def from_json(data: dict[str, Any]) -> Sample:
    """The sample of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
    return Sample(
        **{
            **data,
            "nature": Nature(data["nature"]),
            "usages": tuple(Usage(**usage) for usage in data["usages"]),
            "flags": tuple(data["flags"]),
        }
    )


class Spool:
    """A directory of unconfirmed samples of one node; also of earlier lives of its agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, sample: Sample) -> bool:
        """Keep a sample; False when the disk is full and it is only in memory."""
        path = self.folder / f"{sample.boot_id}-{sample.seq:09d}{_SUFFIX}"
        part = path.with_suffix(".part")
        try:
            if shutil.disk_usage(self.folder).free < _MIN_FREE_BYTES:
                return False
            part.write_text(json.dumps(to_json(sample)))
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            return False
        return True

    def drop(self, sample: Sample) -> None:
        """Forget a confirmed sample."""
        (self.folder / f"{sample.boot_id}-{sample.seq:09d}{_SUFFIX}").unlink(missing_ok=True)

    def load(self) -> list[Sample]:
        """All kept samples, oldest first. A damaged file is set aside under another name, never counted."""
        samples = []
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            try:
                samples.append(from_json(json.loads(path.read_text())))
            except (OSError, KeyError, TypeError, ValueError):
                path.rename(path.with_suffix(".damaged"))
        return sorted(samples, key=lambda sample: sample.start_s)
