"""Examples of what is sent and told, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from eco_ray.core.jobs import JobState, Reason

Example = dict[str, Any]

JOB: Example = {
    "name": "train-mnist",
    "run": "python jobs/train_mnist.py --epochs 20",
    "resources": {"num_cpus": 1},
    "carbon": {"policy": "eco", "expected_duration": "3h", "deadline": "12h", "zones": ["DE", "FR"]},
}
#: what is known of its form here; docs/job-file.md has all keys, and an unknown one is refused with the nearest
JOB_SCHEMA: Example = {
    "type": "object",
    "required": ["name", "run"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
        "run": {"type": "string", "minLength": 1},
        "tenant": {"type": "string"},
        "priority": {},
        **{name: {"type": "object"} for name in ("runtime_env", "resources", "workers", "carbon", "retries")},
    },
    "additionalProperties": False,
}
_ID = "train-mnist-4f2a9c01d3be"
_WHY: Example = {
    "state": str(JobState.QUEUED),
    "reason": str(Reason.WAITING_FOR_CLEANER_WINDOW),
    "message": "waits for cleaner power until 2026-07-05 10:00",
}
SUBMITTED: Example = {"id": _ID, **_WHY}
STEERED: Example = {"id": _ID, "message": "is being suspended"}
LINE: Example = {
    **{"id": _ID, "name": "train-mnist", "tenant": "vision", **_WHY},
    **{"submitted_s": 1783228800.0, "deadline_s": 1783272000.0, "attempts": 0, "progress": None},
}
STATUS: Example = {
    **{"id": _ID, "name": "train-mnist", "tenant": "vision", **_WHY, "progress": None},
    **{"submitted": "2026-07-05 05:20", "deadline": "2026-07-05 17:20", "resumes": 0},
    **{"plan": ["fr-1 (FR) 2026-07-05 10:00 to 2026-07-05 13:00"], "attempts": [], "metrics": {}},
}
_STRETCH = {
    "zone": "FR",
    "node": "fr-1",
    "start": "2026-07-05T10:00:00Z",
    "end": "2026-07-05T13:00:00Z",
    "workers": 1,
}
PLAN: Example = {
    **{"reason": _WHY["reason"], "message": _WHY["message"], "segments": [_STRETCH], "alternatives": []},
    **{"gives_way": [], "gives_way_others": 0, "why": "saves 31 g against running at once"},
    **{"carbon_g": 12.0, "added_g": 9.0, "run_now_g": 43.0, "saved_g": 31.0},
}
EXPLANATION: Example = {
    **{"id": _ID, **_WHY, "until": "2026-07-05T10:00:00Z", "unblock": "nothing has to be done"},
    **{"plan": None, "scaling": None},
    "events": [{"time": "2026-07-05 05:20", "event": "submitted", "what": "was submitted"}],
}
EVENT: Example = {"number": 17, "time": "2026-07-05T05:20:00Z", "job": _ID, "event": "submitted", "what": "submitted"}
LOG: Example = {"attempt": 1, "offset": 0, "text": "epoch 1 of 20\n", "lost_bytes": 0}
SUM: Example = {
    **{"job": _ID, "energy_j": 1.2e6, "operational_g": 63.0, "nature": "modelled", "carbon_nature": "modelled"},
    **{"error_pct": 15.0, "intensity_kinds": ["average-lifecycle"], "intensity_age_s": 0.0},
    **{"sources": ["modelled"], "requests": None},
}
NODE: Example = {
    **{"node": "fr-1", "zone": "FR", "cpus": 8.0, "pue": 1.2, "energy_j": None, "unallocated_j": None},
    "power_source": "modelled",
}
NOW: Example = {
    **{"zone": "FR", "intensity_g_per_kwh": 52.0, "kind": "average-lifecycle", "nature": "modelled"},
    **{"age_s": None, "source": "profile"},
}
FORECAST: Example = {
    **{"zone": "FR", "source": "profile", "kind": "average-lifecycle", "nature": "modelled"},
    **{"issued": "-", "age_s": None, "step_s": 3600.0, "series": [["2026-07-05 10:00", 52.0]], "quantiles": {}},
}
