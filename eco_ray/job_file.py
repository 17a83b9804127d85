"""Job files, and the same keys as options and as metadata of a Ray job: where a `JobFile` comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eco_ray import schema
from eco_ray.errors import UsageError
from eco_ray.job_model import JobFile
from eco_ray.yaml_file import load_yaml

__all__ = ["JobFile", "load_job_file", "job_from_flags", "job_from_metadata", "SHORT_KEYS", "OPTION_KEYS"]

#: short keys of options (`--expected-duration`) and of Ray's metadata (`eco.expected_duration`), and where they belong
SHORT_KEYS: dict[str, tuple[str, ...]] = {
    "name": ("name",),
    "tenant": ("tenant",),
    "priority": ("priority",),
    "num_cpus": ("resources", "num_cpus"),
    "num_gpus": ("resources", "num_gpus"),
    "memory_gb": ("resources", "memory_gb"),
    "gpu_memory_gb": ("resources", "gpu_memory_gb"),
    "min_workers": ("workers", "min"),
    "max_workers": ("workers", "max"),
    "policy": ("carbon", "policy"),
    "expected_duration": ("carbon", "expected_duration"),
    "not_before": ("carbon", "not_before"),
    "deadline": ("carbon", "deadline"),
    "max_delay": ("carbon", "max_delay"),
    "zones": ("carbon", "zones"),
    "max_intensity": ("carbon", "max_intensity"),
    "min_saving_pct": ("carbon", "min_saving_pct"),
    "budget_g": ("carbon", "budget", "carbon_g"),
    "budget_kwh": ("carbon", "budget", "energy_kwh"),
    "suspend": ("carbon", "suspend", "allow"),
}
#: short keys that only options have
OPTION_KEYS: dict[str, tuple[str, ...]] = {
    **SHORT_KEYS,
    "workdir": ("workdir",),
    "retries": ("retries", "max"),
    "min_run": ("carbon", "suspend", "min_run"),
    "resume_cost": ("carbon", "suspend", "resume_cost"),
}
_PREFIX = "eco."
_RIVALS: dict[tuple[str, ...], str] = {("carbon", "deadline"): "max_delay", ("carbon", "max_delay"): "deadline"}


def load_job_file(path: str | Path, overrides: Mapping[str, Any] | None = None) -> JobFile:
    """Read and check a job file. `overrides` are options by their short key; None means not given.

    A deadline among the overrides replaces a max_delay of the file, and the reverse. Raises UsageError.
    """
    path = Path(path)
    document = load_yaml(path, "job file")
    data = {"name": schema.slug(path.stem), **document.value}
    labels = _put(data, overrides or {}, OPTION_KEYS, lambda key: f"--{key.replace('_', '-')}")
    return schema.check(JobFile, data, document.where, document.line_of, labels)


def job_from_flags(
    run: str, flags: Mapping[str, Any] | None = None, metadata: Mapping[str, str] | None = None
) -> JobFile:
    """A job from a command, options by their short key (None: not given) and a Ray job's metadata; options win."""
    data: dict[str, Any] = {"name": _name_of(run), "run": run}
    labels = _put(data, _eco_keys(metadata or {}), SHORT_KEYS, lambda key: _PREFIX + key)
    labels |= _put(data, flags or {}, OPTION_KEYS, lambda key: f"--{key.replace('_', '-')}")
    return schema.check(JobFile, data, "job", labels=labels)


def job_from_metadata(metadata: Mapping[str, str], run: str) -> JobFile:
    """A job from a Ray job's metadata and its command. Keys without `eco.` belong to others and are left alone."""
    return job_from_flags(run, metadata=metadata)


def _eco_keys(metadata: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for key, value in metadata.items():
        if not key.startswith(_PREFIX):
            continue
        if key.removeprefix(_PREFIX) not in SHORT_KEYS:
            raise UsageError(f"metadata: {schema.unknown('key', key, [_PREFIX + short for short in SHORT_KEYS])}")
        found[key.removeprefix(_PREFIX)] = value
    return found


def _put(
    data: dict[str, Any], values: Mapping[str, Any], keys: Mapping[str, tuple[str, ...]], label: Any
) -> dict[schema.Path, str]:
    """Put short keys where they belong, and return what to call those places in errors."""
    labels: dict[schema.Path, str] = {}
    for short, value in values.items():
        if value is None:
            continue
        if short not in keys:
            raise UsageError(schema.unknown("option", short, keys))
        path = keys[short]
        place = data
        for part in path[:-1]:
            inner = place.get(part)
            if inner is not None and not isinstance(inner, dict):
                break  # the file has something else here, which the check refuses
            # a copy: aliases of a file may share the mapping
            place[part] = place = dict(inner or {})
        else:
            place[path[-1]] = value
            labels[path] = label(short)
            rival = _RIVALS.get(path)
            if rival and rival not in values:
                place.pop(rival, None)
    return labels


def _name_of(run: str) -> str:
    """A name from the command: that of its first Python script, else of its program."""
    words = run.split()
    script = next((word for word in words if re.search(r"\.(py|sh)$", word)), words[0] if words else "job")
    return schema.slug(Path(script).stem)
