"""CASPER's published saving by our shares; the inputs are read by benchmarks/green_serving.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import green_serving

from eco_ray.core.serving import split_traffic

pytestmark = pytest.mark.skipif(
    not green_serving.SHARED.exists(),
    reason="../shared, with the traces and the published results, is not here: they are not ours to ship",
)


def test_the_published_saving_within_a_tenth_of_a_point():
    local, published = json.loads((green_serving.SHARED / "reference" / "casper.json").read_text())["rows"]
    week = green_serving.week()
    assert week.local == pytest.approx(local["carbon_req_ci"])
    grams = way_ms = 0.0
    for requests, intensity in zip(week.requests, week.intensity, strict=True):
        share = split_traffic(requests, intensity, week.rtt_ms, np.full(6, green_serving.REGION), 50.0)
        sent = share * requests[:, None]
        assert (sent.sum(0) <= green_serving.REGION + 1e-6).all()
        assert not sent[week.rtt_ms > 50].any()
        grams += (sent * intensity).sum()
        way_ms += (sent * week.rtt_ms).sum()
    assert 100 * (1 - grams / week.local) == pytest.approx(published["saved_pct"], abs=0.1)
    assert way_ms / week.requests.sum() <= published["mean_latency_ms"]
