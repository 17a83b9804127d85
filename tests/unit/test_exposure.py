"""Ports that other machines can reach, found on real sockets of real processes that look like Ray's."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from eco_ray.cli import doctor as doctor_cli
from eco_ray.on_ray.examine import _document
from eco_ray.on_ray.exposure import Exposure, Port, Unread, _address, _is_loopback, exposure

#: answers every request with a status, or closes what is not understood; prints its port
SERVER = """
import socket, sys
address, status = sys.argv[1], sys.argv[2]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family) as server:
    server.bind((address, 0))
    server.listen()
    print(server.getsockname()[1], flush=True)
    while True:
        with server.accept()[0] as peer:
            peer.recv(65536)
            if status != "grpc":
                peer.sendall(f"HTTP/1.1 {status} x\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n".encode())
"""


@pytest.fixture
def ray_like() -> Iterator[object]:
    started: list[subprocess.Popen[str]] = []

    def start(address: str, status: str, mark: str = "/ray/dashboard/agent.py", **env: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, address, status, mark],
            stdout=subprocess.PIPE, text=True, env={**os.environ, **env},
        )  # fmt: skip
        started.append(process)
        assert process.stdout
        return int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.wait()


def found(port: int) -> Port | None:
    return next((one for one in exposure().ports if one.port == port), None)


@pytest.mark.parametrize(
    ("address", "status", "env", "auth"),
    [
        ("0.0.0.0", "200", {}, "none"),
        ("0.0.0.0", "404", {}, "none"),
        ("0.0.0.0", "401", {}, "token"),
        ("0.0.0.0", "403", {}, "token"),
        ("::", "200", {}, "none"),
        ("0.0.0.0", "grpc", {"RAY_AUTH_MODE": "token"}, "token"),
        ("0.0.0.0", "grpc", {"RAY_AUTH_MODE": "disabled"}, "none"),
        # what it says of itself does not count where it answers
        ("0.0.0.0", "200", {"RAY_AUTH_MODE": "token"}, "none"),
    ],
)
def test_what_listens_beyond_loopback_is_found(ray_like, address, status, env, auth):
    one = found(ray_like(address, status, **env))
    assert one is not None
    assert (one.address, one.auth) == (address, auth)
    assert "python" in one.process


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1"])
def test_loopback_is_not_exposed(ray_like, address):
    assert found(ray_like(address, "200")) is None


def test_other_programs_are_not_our_business(ray_like):
    assert found(ray_like("0.0.0.0", "200", mark="something-else")) is None


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("0100007F", "127.0.0.1", True),
        ("00000000", "0.0.0.0", False),
        ("0500000A", "10.0.0.5", False),
        ("00000000000000000000000001000000", "::1", True),
        ("0000000000000000FFFF00000100007F", "::ffff:127.0.0.1", True),
        ("0000000000000000FFFF00000500000A", "::ffff:10.0.0.5", False),
        ("00000000000000000000000000000000", "::", False),
    ],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="/proc/net has the machine's byte order")
def test_addresses_as_proc_writes_them(text, address, loopback):
    assert _address(text) == __import__("ipaddress").ip_address(address)
    assert _is_loopback(_address(text)) is loopback


def test_doctor_fails_where_a_port_is_open_to_all(ray_like, tmp_path: Path):
    def doctor(*args: str) -> tuple[int, str]:
        done = CliRunner().invoke(doctor_cli.doctor, [*args, "--state-dir", str(tmp_path)])
        return done.exit_code, done.stdout

    port = ray_like("0.0.0.0", "200")
    code, text = doctor("-o", "json")
    document = json.loads(text)
    assert code == 1
    assert document["ok"] is False
    assert port in [one["port"] for one in document["open_ports"]]
    code, text = doctor()
    assert code == 1
    assert "Bind them to 127.0.0.1" in text


# -- on a /proc of our own ---------------------------------------------------------------------------------------------

#: port -> inode of what listens on 0.0.0.0; inodes of a process, None: its sockets may not be seen
Processes = Mapping[int, tuple[str, str, list[int] | None]]


def a_proc(root: Path, processes: Processes, ports: Mapping[int, int]) -> Path:
    (root / "net").mkdir()
    lines = [f" 0: 00000000:{port:04X} 00000000:0000 0A 0:0 0:0 0 0 0 {inode} 1" for port, inode in ports.items()]
    (root / "net" / "tcp").write_text("\n".join(["header", *lines]) + "\n")
    for pid, (command, environ, inodes) in processes.items():
        folder = root / str(pid)
        folder.mkdir()
        (folder / "cmdline").write_bytes(command.replace(" ", "\0").encode())
        (folder / "environ").write_text(environ)
        if inodes is None:
            (folder / "fd").touch()  # no folder to look into: the tests may run as root, who may look into all
            continue
        (folder / "fd").mkdir()
        for number, inode in enumerate(inodes):
            (folder / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
    return root


SITE = "/opt/lib/python3.11/site-packages/ray"
GCS = f"{SITE}/core/src/ray/gcs/gcs_server --gcs_server_port=6379"


@pytest.mark.parametrize(
    ("command", "is_rays"),
    [
        ("/usr/bin/python3 -m ray.util.client.server --address=10.0.0.5:6379 --host=0.0.0.0 --port=10001", True),
        (f"/usr/bin/python3 -u {SITE}/autoscaler/_private/monitor.py --logs-dir=/x", True),
        (f"/usr/bin/python3 -u {SITE}/autoscaler/v2/monitor.py", True),
        (f"/usr/bin/python3 {SITE}/a_later_version.py", True),
        ("/src/ray/python/ray/_private/log_monitor.py", True),
        ("python3 -m ray.serve", True),
        (GCS, True),
        ("ray::ServeReplica:app:Model", True),
        ("/home/ray/anaconda3/bin/python /home/ray/app.py", False),
        ("nginx: master process", False),
        ("python -m rays.of.light", False),
    ],
)
def test_processes_of_ray_are_known_by_their_command_line(tmp_path: Path, command: str, is_rays: bool) -> None:
    found = exposure(a_proc(tmp_path, {10: (command, "", [7])}, {1: 7}))
    assert [(one.port, one.auth) for one in found.ports] == ([(1, "none")] if is_rays else [])
    assert (found.unread, found.unknown_owner) == ((), ())


def test_what_could_not_be_seen_is_said(tmp_path: Path) -> None:
    processes: Processes = {10: (GCS, "", None), 11: ("sshd", "", None), 12: ("nginx", "", [9])}
    found = exposure(a_proc(tmp_path, processes, {6379: 7, 22: 8, 80: 9}))
    assert found == Exposure((), (Unread(10, GCS[:80]),), (22, 6379))


@pytest.mark.parametrize(
    ("command", "auth"),
    [
        ("ray::IDLE", "token"),
        ("ray::DashboardAgent", "token"),
        ("ray::ProxyActor.run", "none"),
        ("ray::ServeReplica:app:Model", "none"),
        ("haproxy -f x", "none"),
        (f"python {SITE}/dashboard/dashboard.py", "none"),
    ],
)
def test_who_answers_without_token_is_not_believed_for_its_mode(tmp_path: Path, command: str, auth: str) -> None:
    (port,) = exposure(a_proc(tmp_path, {10: (command, "RAY_AUTH_MODE=token", [7])}, {1: 7})).ports
    assert port.auth == auth


class Open(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_every_port_is_asked(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Open) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        processes = {100 + n: ("ray::IDLE", "RAY_AUTH_MODE=token", [100 + n]) for n in range(60)}
        processes[500] = ("ray::train", "RAY_AUTH_MODE=token", [500])
        ports = {100 + n: 100 + n for n in range(60)} | {server.server_port: 500}
        found = exposure(a_proc(tmp_path, processes, ports))
        server.shutdown()
    assert len(found.ports) == 61
    assert [one.port for one in found.ports if one.auth == "none"] == [server.server_port]


# -- the document ------------------------------------------------------------------------------------------------------

SEEN = {"findings": [], "open_ports": [], "unread": [], "unknown_owner": [], "machine": "m"}
UNREAD = [{"pid": 10, "process": GCS}]


def a_node(name: str = "n", *, there: bool = True, error: str = "", **facts: object) -> dict[str, object]:
    return {"node": name, "zone": "DE", "there": there, "error": error, **({} if error else SEEN), **facts}


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ([a_node()], ""),
        ([a_node(), a_node("far", there=False, error="the node is not there")], ""),
        ([a_node(), a_node("mute", error="its agent does not answer")], "mute"),
        ([a_node(unknown_owner=[22])], ""),
        ([a_node(unread=UNREAD)], ""),  # every port has another owner
        ([a_node(unread=UNREAD, unknown_owner=[22, 6379])], "1 processes"),
    ],
)
def test_doctor_is_content_only_with_what_it_could_examine(nodes, problem, monkeypatch, tmp_path: Path) -> None:
    document = _document(nodes, [])
    assert document["ok"] is (problem == "")
    assert problem in " ".join(document["problems"])
    monkeypatch.setattr("eco_ray.on_ray.examine.examine_cluster", lambda _settings: document)
    done = CliRunner().invoke(doctor_cli.doctor, ["--state-dir", str(tmp_path)])
    assert done.exit_code == (1 if problem else 0)
    assert problem in done.stdout
    everything = all(not node["error"] and not node["unknown_owner"] and not node["unread"] for node in nodes)
    assert ("No port of Ray or Serve can be reached" in done.stdout) is everything
    if nodes[0].get("unknown_owner"):
        assert "of unknown owner" in done.stdout
