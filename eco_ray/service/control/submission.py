"""A job that is submitted over HTTP: checked, of the right tenant, and the same job however often it is sent.

A job is its own record of its submission: its id is made of tenant and Idempotency-Key, its nonce of the body. Both are
written with the job in one transaction, so no crash can part a key from its job, and no second table has to be cleared.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eco_ray.api_model import IDEMPOTENCY_KEY, IDEMPOTENCY_PATTERN
from eco_ray.errors import UsageError
from eco_ray.job_model import JobFile
from eco_ray.schema import check
from eco_ray.service.problems import Problem, shown

#: in answers, whatever is sent [characters]
_DETAIL = 2000
_KEY = re.compile(IDEMPOTENCY_PATTERN)
#: of a runtime environment: a text in them is a path, here one of the server
_PATHS = ("pip", "uv", "conda")
_SNAPSHOT = "give it by `eco-ray job submit`, or have the job fetch what it needs"


@dataclass(frozen=True, slots=True)
class Submission:
    """What the controller is given."""

    job_id: str
    job: JobFile
    nonce: str
    #: whether the id is made of a key, so that the job may be there already
    repeatable: bool


def submission(body: Mapping[str, Any], tenant: str | None, key: bytes | None) -> Submission:
    """Of a body, the key's tenant and the header Idempotency-Key. Raises Problem."""
    job = job_file(body, tenant)
    if key is None:
        return Submission(f"{job.name}-{secrets.token_hex(6)}", job, secrets.token_hex(16), False)
    if not _KEY.fullmatch(key.decode("latin-1")):
        detail = f"{IDEMPOTENCY_KEY} is {shown(key.decode('latin-1'))}; send 1 to 255 visible ASCII characters"
        raise Problem(400, "wrong header", detail)
    # 96 bits: no tenant finds a key that makes the id of another one's job
    made = hashlib.blake2b(f"{tenant or ''}\0".encode() + key, digest_size=12).hexdigest()
    same = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return Submission(f"job-{made}", job, hashlib.blake2b(same.encode(), digest_size=16).hexdigest(), True)


def job_file(body: Mapping[str, Any], tenant: str | None) -> JobFile:
    """The job of a body: the keys of a job file, as JSON; without `tenant`, the key's. Raises Problem."""
    given = dict(body)
    if tenant is not None and given.setdefault("tenant", tenant) != tenant:
        detail = f"tenant is {shown(given['tenant'])}, and the key is of another one; leave it out"
        raise Problem(403, "wrong tenant", detail)
    if given.get("workdir") is not None:
        raise _wrong(f"workdir {shown(given['workdir'])} is a folder, and none comes with a request; {_SNAPSHOT}")
    _check_paths(given.get("runtime_env"))
    try:
        return check(JobFile, given, "job")
    except UsageError as error:
        raise _wrong(str(error)) from None


def _check_paths(environment: object) -> None:
    """Refuse files of the server."""
    if not isinstance(environment, Mapping):
        return
    for name in _PATHS:
        if isinstance(environment.get(name), str):
            words = f"runtime_env.{name} {shown(environment[name])} is a path or a name of the server"
            raise _wrong(f"{words}; write what it says, as a list or a mapping")
    modules = environment.get("py_modules")
    for module in modules if isinstance(modules, list) else [] if modules is None else [modules]:
        if not isinstance(module, str) or "://" not in module:
            raise _wrong(f"runtime_env.py_modules has {shown(module)}, which is no URL; {_SNAPSHOT}")


def _wrong(detail: str) -> Problem:
    return Problem(400, "wrong job", detail if len(detail) <= _DETAIL else f"{detail[:_DETAIL]}...")
