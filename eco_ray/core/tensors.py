"""What goes into a served model and what comes out, in the words of the V2 inference protocol."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a served model."""

    name: str
    #: of the V2 protocol (FP32, BYTES, ...), or BF16
    datatype: str
    #: -1: any size
    shape: tuple[int, ...]
    #: an input's further datatypes and shapes that the model takes as well
    other_datatypes: tuple[str, ...] = ()
    other_shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def datatypes(self) -> tuple[str, ...]:
        """All that are taken."""
        return self.datatype, *self.other_datatypes

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """All that are taken."""
        return self.shape, *self.other_shapes
