"""A zone whose node sleeps is woken and takes requests over, on a cluster whose nodes an autoscaler starts and ends."""

from __future__ import annotations

from typing import Any

import pytest
from live_cluster import driven

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What zone_driver.py saw."""
    return driven("zone_driver.py", tmp_path_factory.mktemp("z"), timeout_s=580)


def test_a_zone_that_sleeps_is_woken_for_requests_and_none_is_lost(facts: dict[str, Any]) -> None:
    assert facts["deployed"] == {"AA": ["dirty"], "BB": ["green"]}
    assert facts["first"][0] == ["dirty"]
    assert "BB" not in facts["first"][1]
    assert facts["load"].keys() == {"200"}, facts
    assert facts["zones"]["BB"] > 20
