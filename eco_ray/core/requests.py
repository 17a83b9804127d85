"""Requests that were served together: how much of a replica's energy each of them, and each tenant, is charged.

A window is a stretch of a replica's time with the energy that the ledger gave to the replica. Each request of it has a
weight, and the energy is split by weight, exactly:

    classical model   w_r = service time x share of the batch
    language model    w_r = c_prefill * prefill tokens + c_decode * decode tokens + c_kv * KV tokens + c_batch / batch

Only the ratios of the four coefficients matter for the split. They are >= 0 and fitted to measured windows while the
model serves (`OnlineFit`), because they differ by model, device and precision.

None of the four terms is the idle energy of the replica: that is there without requests, and is split by reservation as
in `core.attribution`. The fit is therefore fed the dynamic part of a window's energy alone.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from eco_ray.core.footprint import Footprint
from eco_ray.core.split import integers, split_exact
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError

#: most tokens of one kind that one request can have in a window
MAX_TOKENS = 10**12
#: most energy of a window [mJ]: what the ledger's columns hold, by a margin
MAX_MJ = 10**18
#: windows that the fit keeps, and by how much each is worth less than the next younger one
WINDOWS = 512
FORGETTING = 0.995
#: windows before the fitted coefficients are used: twice as many as there are coefficients
MIN_WINDOWS = 8


@dataclass(frozen=True, slots=True)
class ServiceUse:
    """What one request used of a classical model's replica in a window."""

    request: str
    tenant: str
    #: time that its batch was computed [s]: CPU time, or time on the GPU
    service_s: float
    #: its rows among the rows of its batch, in (0, 1]; 1: it was served alone
    batch_share: float = 1.0
    #: what its answer told; None: nothing
    estimate: Footprint | None = None

    @property
    def weight(self) -> float:
        """Service time x share of the batch [s]."""
        if not 0 < self.batch_share <= 1:
            raise EcoRayError(
                f"request '{self.request}': share {_shown(self.batch_share)} of its batch is outside (0, 1]: "
                "divide its rows by those of the batch"
            )
        return _amount(self.request, "service time [s]", self.service_s, sys.float_info.max) * self.batch_share


@dataclass(frozen=True, slots=True)
class TokenUse:
    """What one request used of a language model's replica in a window."""

    request: str
    tenant: str
    #: tokens of its prompt that were computed (those from a cache were not)
    prefill_tokens: int
    #: tokens that were generated
    decode_tokens: int
    #: tokens of its KV cache that were read, summed over the tokens that were generated
    kv_tokens: int
    #: mean number of requests that ran together with it, itself included
    batch: float = 1.0

    @property
    def features(self) -> tuple[float, float, float, float]:
        """What the four coefficients are multiplied with."""
        tokens = [
            float(_amount(self.request, f"{name} tokens", count, MAX_TOKENS))
            for name, count in (
                ("prefill", self.prefill_tokens),
                ("decode", self.decode_tokens),
                ("KV", self.kv_tokens),
            )
        ]
        if not 1 <= self.batch <= sys.float_info.max:
            raise EcoRayError(
                f"request '{self.request}': batch of {_shown(self.batch)} requests; it counts itself: >= 1, finite"
            )
        return tokens[0], tokens[1], tokens[2], 1 / self.batch


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Energy [mJ] of one token of each kind, and of a request by itself, for one model on one device."""

    prefill_mj: float
    decode_mj: float
    kv_mj: float
    batch_mj: float
    nature: Nature

    def weight(self, use: TokenUse) -> float:
        """Expected energy of a request [mJ]."""
        terms = zip((self.prefill_mj, self.decode_mj, self.kv_mj, self.batch_mj), use.features, strict=True)
        return math.fsum(coefficient * feature for coefficient, feature in terms)


#: Until enough windows were measured. Assumed, in units of a prefill token: a prompt's tokens share one reading of the
#: weights and each generated token needs its own, with batching commonly about eight times the energy; attention to a
#: cached token costs 2 * 2 * d of 24 * d^2 operations per layer, 1/24576 of a token at d = 4096, and as much more for a
#: decoded token. Right in order of magnitude only, which is why they are replaced as soon as there is a measurement.
COLD_START = Coefficients(1.0, 8.0, 8 / 24_576, 0.0, Nature.ASSUMED)


@dataclass(frozen=True, slots=True)
class WindowSplit:
    """The energy of a window, split; the parts and the rest are exactly its energy."""

    #: by (tenant, request) [mJ], in that order
    request_mj: Mapping[tuple[str, str], int]
    #: of a window without requests: the replica waited [mJ]
    waiting_mj: int

    @property
    def tenant_mj(self) -> dict[str, int]:
        """By tenant [mJ]."""
        sums: dict[str, int] = {}
        for (tenant, _), part_mj in self.request_mj.items():
            sums[tenant] = sums.get(tenant, 0) + part_mj
        return sums


def split_service(energy_mj: int, uses: Sequence[ServiceUse]) -> WindowSplit:
    """A window of a classical model over its requests, by service time x share of the batch."""
    return _split(energy_mj, [(use.tenant, use.request) for use in uses], [use.weight for use in uses])


def split_tokens(energy_mj: int, uses: Sequence[TokenUse], coefficients: Coefficients = COLD_START) -> WindowSplit:
    """A window of a language model over its requests, by fitted weights (cold start: assumed ones)."""
    weights = [coefficients.weight(use) for use in uses]
    if not any(weights):  # nothing of what these requests did has a fitted cost
        weights = [COLD_START.weight(use) for use in uses]
    return _split(energy_mj, [(use.tenant, use.request) for use in uses], weights)


def _split(energy_mj: int, keys: Sequence[tuple[str, str]], weights: Sequence[float]) -> WindowSplit:
    _check_window("energy of a window", energy_mj)
    if not keys:
        return WindowSplit({}, energy_mj)
    whole = integers(weights, "weight of a request")
    if not any(whole):  # nobody was seen to use anything: the replica was there for all of them alike
        whole = [1] * len(whole)
    weight_of: dict[tuple[str, str], int] = {}
    for key, weight in zip(keys, whole, strict=True):
        weight_of[key] = weight_of.get(key, 0) + weight
    ordered = sorted(weight_of)
    parts = split_exact(energy_mj, [weight_of[key] for key in ordered])
    return WindowSplit(dict(zip(ordered, parts, strict=True)), 0)


@dataclass(slots=True)
class OnlineFit:
    """Coefficients of one model on one device, from its last windows: least squares with c >= 0, the past fading."""

    _rows: deque[tuple[tuple[float, ...], float]] = field(default_factory=lambda: deque(maxlen=WINDOWS))

    def add(self, dynamic_mj: int, uses: Sequence[TokenUse]) -> None:
        """Learn from a window. One without requests says nothing about them and is left out.

        `dynamic_mj`: the window's energy without the replica's idle share. With it the idle energy would be taken for a
        cost of requests, mostly of `batch_mj`, which is nearly constant too.
        """
        _check_window("dynamic energy of a window", dynamic_mj)
        if uses:
            columns = zip(*(use.features for use in uses), strict=True)
            self._rows.append((tuple(math.fsum(column) for column in columns), float(dynamic_mj)))

    @property
    def coefficients(self) -> Coefficients:
        """The fit; the assumed cold start while there are too few windows, or all of them are zero."""
        if len(self._rows) < MIN_WINDOWS:
            return COLD_START
        from scipy.optimize import nnls  # SciPy takes 0.2 s to import

        age = np.arange(len(self._rows) - 1, -1, -1)
        energy_mj = np.array([mj for _, mj in self._rows])
        # a meter's error grows with what it measures: residuals count relative to the energy, small windows alike
        root = np.sqrt(FORGETTING**age) / np.maximum(energy_mj, max(0.1 * energy_mj.mean(), 1.0))
        energy_mj = energy_mj * root
        features = np.array([row for row, _ in self._rows]) * root[:, None]
        scale = features.max(axis=0)  # tokens are many and requests few: equal columns make the fit well-conditioned
        seen = scale > 0
        found = np.zeros(len(scale))
        if seen.any():
            found[seen] = nnls(features[:, seen] / scale[seen], energy_mj)[0] / scale[seen]
        if not found.any():
            return COLD_START
        # a kind that was never seen has the assumed ratio to the decode (else the prefill) token
        known, other = (found[1], COLD_START.decode_mj) if found[1] else (found[0], COLD_START.prefill_mj)
        assumed = (COLD_START.prefill_mj, COLD_START.decode_mj, COLD_START.kv_mj, COLD_START.batch_mj)
        found = np.where(seen, found, np.array(assumed) * (known / other))
        prefill_mj, decode_mj, kv_mj, batch_mj = (float(value) for value in found)
        return Coefficients(prefill_mj, decode_mj, kv_mj, batch_mj, Nature.MODELLED)


def _check_window(what: str, energy_mj: int) -> None:
    if isinstance(energy_mj, bool) or not isinstance(energy_mj, int):
        raise EcoRayError(f"{what} is {energy_mj!r} mJ: must be a whole number of millijoules; round it at its meter")
    if not 0 <= energy_mj <= MAX_MJ:
        raise EcoRayError(f"{what} is {_shown(energy_mj)} mJ: must be >= 0 and at most {MAX_MJ:g}; mend its meter")


def _amount(request: str, what: str, value: float, limit: float) -> float:
    if not 0 <= value <= limit:
        up_to = " and finite" if limit == sys.float_info.max else f" and at most {limit:g}"
        raise EcoRayError(f"request '{request}': {what} is {_shown(value)}: must be >= 0{up_to}; mend its counter")
    return value


def _shown(value: float) -> str:
    """A value in a message; of a huge whole number its size, because it may have thousands of digits."""
    if abs(value) <= MAX_MJ or not isinstance(value, int):
        return str(value)
    return f"about {'-' if value < 0 else ''}1e{math.log10(abs(value)):.0f}"
