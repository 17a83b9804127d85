"""What was published of a zone so far, with gaps where nothing was, kept over restarts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.units import Nature

#: older values say nothing more: the forecaster looks back five weeks [s]
KEEP_S = 35 * 86_400.0
#: what a value says of itself, beyond so many only the newest are told apart
MAX_LABELS = 20

#: source and nature of a value
Label = tuple[str, Nature]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class History:
    """Values of one zone and kind on regular steps, each with its label; NaN stands for steps that nobody published."""

    #: `source` and `nature` are those of the newest value
    series: IntensitySeries
    labels: tuple[Label, ...]
    #: shape (T,): which of `labels` each value has
    label_of: NDArray[np.uint8]

    @classmethod
    def of(cls, series: IntensitySeries) -> History:
        """The first that is known."""
        plain = replace(series, issued_s=None, quantiles_g_per_kwh={})
        return cls(plain, ((series.source, series.nature),), np.zeros(len(series.values_g_per_kwh), dtype=np.uint8))

    @property
    def end_s(self) -> float:
        """End of the newest step [s since epoch]."""
        return self.series.end_s

    @property
    def first_gap(self) -> tuple[float, float] | None:
        """Begin and end of the oldest gap [s since epoch]; None: there is none."""
        gaps = np.isnan(self.series.values_g_per_kwh)
        if not gaps.any():
            return None
        first = int(np.argmax(gaps))
        count = int(np.argmin(gaps[first:]))  # the newest value is always known
        start_s = self.series.start_s + first * self.series.step_s
        return start_s, start_s + count * self.series.step_s

    def with_(self, new: IntensitySeries) -> History:
        """The history with newly published values, which win.

        Newer ones in other steps or of another kind start it anew; older ones in other steps are left out.
        """
        old = self.series
        offset = (new.start_s - old.start_s) / old.step_s
        if new.step_s != old.step_s or new.kind is not old.kind or offset != round(offset):
            return History.of(new) if new.end_s >= old.end_s else self
        end_s = max(old.end_s, new.end_s)
        start_s = max(min(old.start_s, new.start_s), end_s - math.ceil(KEEP_S / old.step_s) * old.step_s)
        values = np.full(round((end_s - start_s) / old.step_s), np.nan)
        label_of = np.zeros(len(values), dtype=np.uint8)
        labels, number = _with_label(self.labels, (new.source, new.nature))
        number_of = self.label_of if labels[: len(self.labels)] == self.labels else np.minimum(self.label_of, number)
        for part, numbers in ((old, number_of), (new, np.full(len(new.values_g_per_kwh), number, dtype=np.uint8))):
            at = round((part.start_s - start_s) / old.step_s)
            cut = max(0, -at)
            kept = part.values_g_per_kwh[cut:]
            known = ~np.isnan(kept)
            values[max(0, at) : max(0, at) + len(kept)][known] = kept[known]
            label_of[max(0, at) : max(0, at) + len(kept)][known] = numbers[cut:][known]
        source, nature = labels[int(label_of[-1])]
        whole = replace(old, start_s=start_s, values_g_per_kwh=values, source=source, nature=nature)
        return History(whole, labels, label_of)

    def until(self, now_s: float) -> History | None:
        """What had begun by `now_s`: after a clock went back, newer values are not of the past."""
        series = self.series
        count = math.floor((now_s - series.start_s) / series.step_s + 1)
        known = np.flatnonzero(~np.isnan(series.values_g_per_kwh[: max(0, count)]))
        if not len(known):
            return None
        last = int(known[-1]) + 1
        source, nature = self.labels[int(self.label_of[last - 1])]
        cut = replace(series, values_g_per_kwh=series.values_g_per_kwh[:last], source=source, nature=nature)
        return History(cut, self.labels, self.label_of[:last])

    def since(self, start_s: float, end_s: float | None = None, bridge_s: float = 0.0) -> IntensitySeries | None:
        """What is known from the step that holds `start_s` on, up to the next gap; None: that step is not known.

        Up to `end_s` only, where that is given. Gaps of up to `bridge_s` carry the value before them, and the source
        says how long they are.
        """
        series, longest = self.series, round(bridge_s / self.series.step_s)
        first = math.floor((start_s - series.start_s) / series.step_s)
        if not 0 <= first < len(series.values_g_per_kwh):
            return None
        begin = max(0, first - longest)  # it may lie in a short gap itself
        before = np.flatnonzero(~np.isnan(series.values_g_per_kwh[begin : first + 1]))
        if not len(before):
            return None
        begin += int(before[-1])
        last = len(series.values_g_per_kwh)
        if end_s is not None:
            last = min(last, max(first + 1, math.ceil((end_s - series.start_s) / series.step_s)))
        # what lies after it shows whether a gap at the end is a short one
        values, carried = _bridged(series.values_g_per_kwh[begin : last + longest], longest)
        values, carried = values[first - begin : last - begin], carried[first - begin : last - begin]
        if not len(values):
            return None
        used = [self.labels[number] for number in np.unique(self.label_of[first : first + len(values)][~carried])]
        source = "; ".join(dict.fromkeys(text for text, _ in used)) or series.source
        natures = [nature for _, nature in used]
        if carried.any():
            source += f"; {carried.sum() * series.step_s / 3600:.3g} h that were not published carry the value before"
            natures.append(Nature.MODELLED)
        return replace(
            series,
            start_s=series.start_s + first * series.step_s,
            values_g_per_kwh=values,
            source=source,
            nature=Nature.weakest(natures),
        )

    def tail(self) -> IntensitySeries:
        """What is known without a gap up to the end; the last step is always known."""
        gaps = np.flatnonzero(np.isnan(self.series.values_g_per_kwh))
        first = int(gaps[-1]) + 1 if len(gaps) else 0
        series = self.series
        return replace(
            series,
            start_s=series.start_s + first * series.step_s,
            values_g_per_kwh=series.values_g_per_kwh[first:],
        )


def _with_label(labels: tuple[Label, ...], label: Label) -> tuple[tuple[Label, ...], int]:
    """The labels with this one, and its number. Of too many the oldest become one that says so."""
    if label in labels:
        return labels, labels.index(label)
    if len(labels) >= MAX_LABELS:
        labels = ((f"{labels[0][0]} and others", Nature.weakest([nature for _, nature in labels])),)
    return (*labels, label), len(labels)


def _bridged(values: Floats, longest: int) -> tuple[Floats, NDArray[np.bool_]]:
    """The values up to the first gap longer than `longest` steps, shorter ones filled; and which were filled."""
    known = np.flatnonzero(~np.isnan(values))
    wide = np.flatnonzero(np.diff(known) > longest + 1)
    end = int(known[wide[0]]) + 1 if len(wide) else int(known[-1]) + 1
    filled = values[:end].copy()
    gaps = np.isnan(filled)
    filled[gaps] = filled[np.maximum.accumulate(np.where(gaps, 0, np.arange(end)))[gaps]]
    return filled, gaps
