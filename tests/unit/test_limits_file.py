"""The file with the limits of tenants."""

from __future__ import annotations

from pathlib import Path

import pytest

from eco_ray.core.limits import Limits, TenantLimits
from eco_ray.errors import UsageError
from eco_ray.limits_file import load_limits

DOCS = Path(__file__).parents[2] / "docs/keys.md"


def load(tmp_path, text):
    (tmp_path / "limits.yaml").write_text(text)
    return load_limits(tmp_path / "limits.yaml")


def test_the_example_of_the_docs(tmp_path):
    example = DOCS.read_text().split("```yaml\n")[1].split("```")[0]
    assert load(tmp_path, example) == Limits(
        {"vision": TenantLimits(50.0, 100, energy_j_per_day=1e6, carbon_g_per_day=500.0)}, TenantLimits(5.0, 5)
    )


def test_nothing_said_is_no_limit(tmp_path):
    assert load(tmp_path, "limits: {}") == Limits()
    months = "limits: {default: {energy_j_per_month: 2, carbon_g_per_month: 0}}"
    assert load(tmp_path, months).of("anybody") == TenantLimits(energy_j_per_month=2.0, carbon_g_per_month=0.0)


@pytest.mark.parametrize(("rate", "burst"), [("0.2", 1), ("1", 1), ("2.5", 3)])
def test_a_burst_that_is_not_told_is_a_second(tmp_path, rate, burst):
    assert load(tmp_path, f"limits: {{default: {{requests_per_s: {rate}}}}}").default.burst == burst


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("limit: {}", r"line 1: limit: unknown key 'limit'; did you mean 'limits'\?"),
        ("{}", "limits: is missing"),
        ("limits: {default: {request_per_s: 5}}", r"did you mean 'requests_per_s'\?"),
        ("limits: {default: {requests_per_s: 0}}", "requests_per_s: 0 is not above 0"),
        ("limits: {default: {requests_per_s: 1, burst: 0}}", "burst: 0 is below 1"),
        ("limits: {default: {requests_per_s: 1, burst: 1.5}}", "burst: 1.5 is not a whole number"),
        ("limits: {default: {burst: 5}}", "burst 5 without requests_per_s: add that, or leave burst out"),
        ("limits: {default: {carbon_g_per_day: -1}}", "carbon_g_per_day: -1 is below 0"),
        ("limits: {default: {energy_j_per_day: .inf}}", "not a number"),
        ("limits:\n  tenants:\n    'a b': {requests_per_s: 1}", "line 3: .*'a b': use letters, digits"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, text, says):
    with pytest.raises(UsageError, match=says):
        load(tmp_path, text)
