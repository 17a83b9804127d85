"""An S3 server of its own for the tests, on loopback: moto's, as a process of its own, with the real protocol."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

REGION = "us-east-1"
START_LIMIT_S = 60.0
#: credentials that the server takes; it takes any
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests-secret",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
}


class S3Server:
    """Started by the constructor; `stop` ends it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        watchdog = threading.Timer(START_LIMIT_S, self._process.kill)
        watchdog.start()
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        watchdog.cancel()
        if not port.isdigit():
            raise RuntimeError(f"the S3 server did not start within {START_LIMIT_S:g} s")
        #: what a client needs in its environment
        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        self._count = 0

    def new_bucket(self) -> str:
        """URL of a new, empty bucket; the environment must be that of the server."""
        import fsspec

        self._count += 1
        name = f"models-{os.getpid()}-{self._count}"
        fsspec.filesystem("s3").mkdir(name)
        return f"s3://{name}/registry"

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # it ends with its parent, however that ends
        self._process.wait(10)


class _OneByOne:
    """An application that answers one request after the other.

    S3's conditional writes are atomic. Moto looks whether an object is there, and then writes it: of two requests at
    once both could be told that they were the first.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self._turn = threading.Lock()

    def __call__(self, environment: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
        environment["wsgi.input"] = io.BytesIO(body)  # nobody waits for a slow sender
        with self._turn:
            return list(self._application(environment, start_response))


def _serve() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = _OneByOne(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
