"""The control API keeps to its own OpenAPI document, whatever schemathesis makes of it: no 5xx, and nothing untold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from control_cases import BASE, QUICK, attempt, case
from test_control_energy import CLUSTER, ROWS
from test_service_schemathesis import holds, statuses

from eco_ray.core.jobs import AttemptState, JobState

#: until they have been seen to be stable where everything else runs, too
pytestmark = pytest.mark.slow

LIMITS = replace(QUICK, stream_s=0.05, calls_of_one=16, streams_of_one=64)
DOCUMENT = f"{BASE}/openapi.json"


@pytest.mark.parametrize(
    ("part", "seen"),
    [
        ("/jobs$", {200, 201, 400}),
        ("/plan$", {200, 400}),
        ("/jobs/.job_id", {400, 404}),
        ("/events$", {200, 400}),
        ("/(ledger|nodes|grid/.*)$", {200, 400, 404}),
    ],
)
def test_the_api_keeps_to_its_document(tmp_path: Path, part: str, seen: set[int]) -> None:
    with case(tmp_path, LIMITS) as api:
        api.put("0", state=JobState.FAILED, attempts=(attempt(1, AttemptState.FAILED, 1.0),))
        api.keep_log("0", "a-1", b"output")
        api.store.add_intervals(ROWS)
        api.store.put_meta("cluster", CLUSTER)
        found = holds(api.app, "--max-examples", "4", "--include-path-regex", part, document=DOCUMENT)
    assert seen <= statuses(found, BASE)
    assert not {status for status in statuses(found, BASE) if status >= 500}
