"""Two versions of a model, of which the smaller one answers a part: whether they may, and what is known of both.

Accuracies are compared as they were measured: those of `model compress` are of the same images, and go before what
somebody else told of the large one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eco_ray.core.deployments import Deployment
from eco_ray.core.replica_places import Room
from eco_ray.core.units import Nature
from eco_ray.core.variants import Mixing, Variant
from eco_ray.errors import UsageError

#: requests of a version from which on the mean of their energy is believed
ENOUGH = 20
#: the mean is that of about so many of the last requests
_MOST = 2000.0


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What the registry knows of a version."""

    #: name:VERSION
    reference: str
    #: of the file: safetensors are served by other names of inputs than their signature has
    format: str
    #: inputs and outputs, which are compared only; None: not known
    signature: object | None
    #: part of the test data that is read right, 0 to 1; None: not known
    accuracy: float | None
    #: name:VERSION that it was made from, with the accuracy of that one by the same measurement; empty: not known
    parent: str = ""
    parent_accuracy: float | None = None
    #: of a request to either, alone, when it was made [J]; None: not known
    energy_j: float | None = None
    parent_energy_j: float | None = None
    energy_nature: Nature = Nature.ASSUMED


@dataclass(frozen=True, slots=True)
class Spent:
    """What requests took, by the footprints of their answers."""

    requests: float = 0.0
    energy_j: float = 0.0
    nature: Nature = Nature.MODELLED

    @property
    def is_sound(self) -> bool:
        """Whether there were any, and their energy can be true."""
        return self.requests > 0 and math.isfinite(self.requests) and 0 <= self.energy_j < math.inf

    def plus(self, other: Spent) -> Spent:
        """With more of them; of very many, the older ones count less and less."""
        requests, energy_j = self.requests + other.requests, self.energy_j + other.energy_j
        fewer = min(1.0, _MOST / requests) if requests else 1.0
        nature = Nature.weakest([self.nature, other.nature]) if other.requests else self.nature
        return Spent(requests * fewer, energy_j * fewer, nature)

    @property
    def j_per_request(self) -> float:
        """The mean; 0 where there were none."""
        return self.energy_j / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Pair:
    """The two versions, and how their joules are known."""

    large: Variant
    small: Variant
    nature: Nature
    source: str
    #: whether the joules are joules; else it is known only, by who declared it, which one takes fewer
    in_joules: bool = True


def check_pair(large: VersionFacts, small: VersionFacts, mixing: Mixing) -> tuple[float, float]:
    """Their accuracies. Raises UsageError where the one may not answer for the other."""
    if large.signature is None or small.signature is None:
        which = large if large.signature is None else small
        raise UsageError(f"{which.reference} has no signature in the registry; push it with --signature FILE")
    if large.signature != small.signature:
        raise UsageError(
            f"{small.reference} has another signature than {large.reference}: clients would have to know which one "
            "answers; see `eco-ray model show` of both, and take a variant with the same inputs, outputs and labels"
        )
    if large.format != small.format and "safetensors" in (large.format, small.format):
        raise UsageError(
            f"{small.reference} ({small.format}) is served with other names of inputs and outputs than "
            f"{large.reference} ({large.format}); take a variant of the same format"
        )
    accuracies = _accuracies(large, small)
    for version, accuracy in zip((large, small), accuracies, strict=True):
        if accuracy is None:
            raise UsageError(
                f"{version.reference} has no measured accuracy in the registry; make the variant with `eco-ray model "
                f"compress {large.reference}`, or push the version again with --metric accuracy=0.98"
            )
        if not 0 <= accuracy <= 1:
            raise UsageError(
                f"the accuracy of {version.reference} in the registry is {accuracy:g}: it must be from 0 to 1; push it "
                "again with --metric accuracy=0.98"
            )
    of_large, of_small = accuracies
    assert of_large is not None and of_small is not None  # noqa: S101, PT018  # seen above
    if mixing.accuracy_floor > of_large:
        raise UsageError(
            f"the accuracy floor {mixing.accuracy_floor:g} is above the accuracy {of_large:g} of {large.reference} "
            "itself, so that no variant could answer; lower it"
        )
    return of_large, of_small


def joined(large: VersionFacts, small: VersionFacts, mixing: Mixing, spent: Mapping[str, Spent], hop: Spent) -> Pair:
    """What `next_mix` needs of both. `spent`: by name:VERSION; `hop`: of sending a request on, in the large one.

    Joules are those of answers while they are served, else as `model compress` measured them, else unknown: then the
    small one is taken for what its owner says it is, until enough requests have shown it. Raises UsageError.
    """
    of_large, of_small = check_pair(large, small, mixing)
    seen = [spent.get(version.reference, Spent()) for version in (large, small)]
    if min(one.requests for one in seen) >= ENOUGH:
        large_j, small_j = seen[0].j_per_request, seen[1].j_per_request + hop.j_per_request
        nature = Nature.weakest([one.nature for one in (*seen, hop)])
        source, in_joules = "footprints of answers", True
    elif small.parent == large.reference and small.energy_j is not None and small.parent_energy_j is not None:
        large_j, small_j, nature = small.parent_energy_j, small.energy_j, small.energy_nature
        source, in_joules = "measured by model compress", True
    else:
        large_j, small_j, nature = 1.0, 0.0, Nature.ASSUMED
        source, in_joules = f"assumed: fewer for the variant, until {ENOUGH} requests of each have shown it", False
    return Pair(
        Variant(large.reference, of_large, large_j),
        Variant(small.reference, of_small, small_j),
        nature,
        source,
        in_joules,
    )


def intensity_and_pue(one: Deployment, rooms: Sequence[Room]) -> tuple[float | None, float]:
    """Of the nodes on which the replicas of a deployment are by the plan, each as often as it has one.

    None: that of one of them is unknown. Their product is the mean of the nodes' products.
    """
    there = {room.node.name: room for room in rooms}
    found = [there[place.node] for place in one.places if place.node in there]
    known = [(room.intensity_g_per_kwh, room.node.pue) for room in found if room.intensity_g_per_kwh is not None]
    if not found or len(known) < len(found):
        return None, 1.0
    total = sum(intensity for intensity, _ in known)
    pue = sum(intensity * pue for intensity, pue in known) / total if total else 1.0
    return total / len(known), pue


def _accuracies(large: VersionFacts, small: VersionFacts) -> tuple[float | None, float | None]:
    if small.parent == large.reference and small.parent_accuracy is not None:
        return small.parent_accuracy, small.accuracy
    return large.accuracy, small.accuracy
