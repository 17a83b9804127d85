"""What each tenant may use, in a YAML file (docs/keys.md).

limits:
  tenants:
    vision: {requests_per_s: 50, burst: 100, energy_j_per_day: 1.0e6, carbon_g_per_day: 500}
  default: {requests_per_s: 5}
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from eco_ray import schema
from eco_ray.core.limits import Limits, TenantLimits
from eco_ray.schema import Amount, Label, Strict, Whole
from eco_ray.yaml_file import load_yaml

Quota = Annotated[Amount | None, Field(ge=0, le=1e15)]


class TenantLimitsFile(Strict):
    """Limits of one tenant; what is left out has none."""

    requests_per_s: Amount | None = Field(default=None, gt=0, le=1_000_000)
    #: default: requests_per_s, rounded up
    burst: Whole | None = Field(default=None, ge=1, le=1_000_000)
    energy_j_per_day: Quota = None
    energy_j_per_month: Quota = None
    carbon_g_per_day: Quota = None
    carbon_g_per_month: Quota = None

    @model_validator(mode="after")
    def _consistent(self) -> TenantLimitsFile:
        if self.burst is not None and self.requests_per_s is None:
            raise ValueError(f"burst {self.burst} without requests_per_s: add that, or leave burst out")
        return self

    def to_limits(self) -> TenantLimits:
        """The limits."""
        burst = self.burst or math.ceil(self.requests_per_s or 1)
        return TenantLimits(**{**self.model_dump(), "burst": burst})


class TenantsFile(Strict):
    """Limits of those that are named, and of all others."""

    tenants: dict[Label, TenantLimitsFile] = Field(default_factory=dict, max_length=10_000)
    default: TenantLimitsFile = TenantLimitsFile()


class LimitsFile(Strict):
    """The whole file."""

    limits: TenantsFile

    def to_limits(self) -> Limits:
        """The limits of all tenants."""
        named = {tenant: limits.to_limits() for tenant, limits in self.limits.tenants.items()}
        return Limits(named, self.limits.default.to_limits())


def load_limits(path: Path) -> Limits:
    """Read a file. Raises UsageError."""
    document = load_yaml(path, "limits")
    return schema.check(LimitsFile, document.value, document.where, document.line_of).to_limits()
