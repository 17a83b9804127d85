"""What a cluster file says of embodied carbon, and of electricity that was bought by contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from eco_ray.errors import UsageError
from eco_ray.schema import Amount, Strict, Whole

if TYPE_CHECKING:
    from eco_ray.core.embodied import Embodied


class DeviceFile(Strict):
    """Devices of one kind in a machine."""

    #: name in the cited table (`core/embodied.py`)
    device: str
    count: Whole = Field(default=1, ge=1, le=10_000)


class EmbodiedFile(Strict):
    """What making a node's machine emitted: its devices by the cited table, or a figure of its own."""

    devices: list[DeviceFile] | None = Field(default=None, min_length=1, max_length=100)
    #: making it and, where the source counts that, scrapping it [kg CO2e]
    kg: Amount | None = Field(default=None, ge=0, le=10_000_000)
    #: where kg comes from
    source: str | None = Field(default=None, min_length=1, max_length=500)
    mass_kg: Amount | None = Field(default=None, gt=0, le=1_000_000)
    #: the part of the machine that the node is
    share: Amount = Field(default=1.0, gt=0, le=1)
    lifetime_years: Amount = Field(default=4.0, gt=0, le=50)

    @model_validator(mode="after")
    def _one_form(self) -> EmbodiedFile:
        own = [key for key in ("kg", "source", "mass_kg") if getattr(self, key) is not None]
        if self.devices is not None and own:
            raise ValueError(f"{', '.join(own)} does not go with devices; give {_FORMS_TEXT}")
        if self.devices is None and (self.kg is None or self.source is None):
            missing = ", ".join(key for key in ("kg", "source") if getattr(self, key) is None)
            raise ValueError(f"{missing} missing (source says where the figure comes from); give {_FORMS_TEXT}")
        try:
            self.to_embodied()
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    def to_embodied(self) -> Embodied:
        """What the node carries."""
        from eco_ray.core.embodied import Embodied, of_devices
        from eco_ray.core.units import Nature

        if self.devices is not None:
            return of_devices([(d.device, d.count) for d in self.devices], self.share, self.lifetime_years)
        return Embodied(
            host_kg=(self.kg or 0.0) * self.share,
            gpus_kg=0.0,
            source=self.source or "",
            nature=Nature.MODELLED,
            mass_g=None if self.mass_kg is None else self.mass_kg * 1000 * self.share,
            lifetime_years=self.lifetime_years,
        )


_FORMS_TEXT = "one of {devices: [{device, count}]} and {kg, source, mass_kg}"


class MarketFile(Strict):
    """Electricity of a zone as it was bought: by contract or with certificates."""

    g_per_kwh: Amount = Field(ge=0, le=10_000)
    #: which contract or certificate says so
    source: str = Field(min_length=1, max_length=500)
