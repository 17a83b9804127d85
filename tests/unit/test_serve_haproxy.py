"""What becomes of Serve's HAProxy configuration."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from eco_ray.on_ray import haproxy

#: the lines that matter, as Ray 2.60 writes them
CONFIG = """global
    stats socket /tmp/h/admin.sock mode 666 level admin expose-fd listeners
    stats timeout 30s
defaults
    mode http
    errorfile 502 /tmp/h/500.http
    errorfile 503 /tmp/h/500.http
    errorfile 504 /tmp/h/500.http
    balance leastconn
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind 127.0.0.1:8000
    default_backend default_backend
backend http-model-rr.mnist
    log global
backend http-model.rr.mnist
    log global
listen stats
  bind *:8404
  stats enable
"""


def test_what_is_open_to_all_is_closed_and_heads_have_to_come_in_time(tmp_path):
    lines = haproxy.edited(CONFIG, tmp_path).splitlines()
    assert "    stats socket /tmp/h/admin.sock mode 600 level admin expose-fd listeners" in lines
    assert [line.strip() for line in lines if line.strip().startswith("bind")] == [
        "bind 127.0.0.1:9101",
        "bind 127.0.0.1:8000",
        "bind 127.0.0.1:8404",
    ]
    assert [line.strip() for line in lines[lines.index("defaults") + 1 :][:2]] == [
        "timeout http-request 10s",
        "option http-buffer-request",
    ]
    assert [line.split()[2] for line in lines if "errorfile" in line] == [
        f"{tmp_path}/{status}.http" for status in (502, 503, 504)
    ]
    assert len(lines) == len(CONFIG.splitlines()) + 10


def test_replicas_of_applications_that_ask_for_it_get_requests_in_turn(tmp_path):
    lines = haproxy.edited(CONFIG, tmp_path).splitlines()
    assert lines[lines.index("backend http-model-rr.mnist") + 1].strip() == "balance roundrobin"
    assert lines[lines.index("backend http-model.rr.mnist") + 1].strip() == "log global"  # a model named rr.mnist


@pytest.mark.parametrize("gone", ["stats socket", "defaults", "errorfile 503", "    bind 127.0.0.1:8000"])
def test_a_configuration_of_another_form_is_refused(tmp_path, gone):
    other = "\n".join(line for line in CONFIG.splitlines() if gone not in line)
    with pytest.raises(ValueError, match="Ray Serve's configuration"):
        haproxy.edited(other, tmp_path)


def test_what_no_replica_answered_is_a_problem_with_its_status():
    for status, text in haproxy.answers().items():
        head, body = text.split("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert f"Content-Length: {len(body)}" in head
        assert json.loads(body)["status"] == status


def test_the_launcher_changes_the_configuration_and_becomes_haproxy(tmp_path):
    """The real binary checks the whole: `-c` ends it after that."""
    told = tmp_path / "haproxy.cfg"
    before = (
        CONFIG.replace("/tmp/h", str(tmp_path))
        .replace("    default_backend default_backend\n", "    timeout client 1s\n")
        .replace("backend http-model-rr.mnist", "backend http-model-rr.mnist\n    timeout server 1s")
    )
    told.write_text(before)
    launcher = haproxy.write_launcher(tmp_path)
    here = str(Path(__file__).parents[2])
    env = {**os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher), "PYTHONPATH": here}
    done = subprocess.run([launcher, "-c", "-f", told], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    written = told.read_text()
    assert written.splitlines()[1:] == haproxy.edited(before, tmp_path / "answers").splitlines()
    subprocess.run([launcher, "-c", "-f", told], env=env, check=True, capture_output=True, timeout=30)
    assert told.read_text() == written  # Serve may start it again before it writes the next one
    (tmp_path / "haproxy.cfg").write_text(CONFIG.replace("mode http", "mode nonsense"))
    done = subprocess.run([launcher, "-c", "-f", told], env=env, capture_output=True, text=True, timeout=30)
    assert (done.returncode, "nonsense" in done.stderr) == (1, True)


def test_the_names_of_models_are_not_told_without_a_key(tmp_path):
    told, front = tmp_path / "haproxy.cfg", tmp_path / "front.sock"
    kept = CONFIG.partition("frontend prometheus")[0].replace("/tmp/h", str(tmp_path))
    routes = """http-request return status 200 content-type text/plain string '{"/v2/models/mnist": "x"}'"""
    told.write_text(
        f"{kept}    timeout client 1s\nfrontend http_frontend\n    bind unix@{front}\n"
        f"    acl routes path -i /-/routes\n    {routes} if routes\n    http-request return status 204\n"
    )
    env = {**os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH": "x", "PYTHONPATH": str(Path(__file__).parents[2])}
    running = subprocess.Popen([haproxy.write_launcher(tmp_path), "-db", "-f", told], env=env)
    try:
        deadline = time.monotonic() + 30
        while not front.exists() and time.monotonic() < deadline:
            assert running.poll() is None
            time.sleep(0.05)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(front)), base_url="http://x") as client:
            for path in ("/-/routes", "/-/Routes"):
                answer = client.get(path)
                assert (answer.status_code, answer.json()["status"]) == (404, 404)
                assert "mnist" not in answer.text
            assert client.get("/-/").status_code == 204
    finally:
        running.kill()
        running.wait()


def test_serve_knows_the_process_by_the_path_of_its_configuration(tmp_path):
    """Else it would not stop one whose end was missed at a reload, and half of the requests found what was no more."""
    told = tmp_path / "haproxy.cfg"
    kept = CONFIG.partition("frontend prometheus")[0].replace("/tmp/h", str(tmp_path))
    told.write_text(f"{kept}    timeout client 1s\nfrontend http_frontend\n    bind unix@{tmp_path}/front.sock\n")
    launcher = haproxy.write_launcher(tmp_path)
    here = str(Path(__file__).parents[2])
    env = {**os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher), "PYTHONPATH": here}
    running = subprocess.Popen([launcher, "-db", "-f", told], env=env, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "front.sock").exists() and time.monotonic() < deadline:
            assert running.poll() is None
            time.sleep(0.05)
        assert (tmp_path / "front.sock").exists()
        words = Path(f"/proc/{running.pid}/cmdline").read_bytes().split(b"\0")
        assert str(told).encode() in words  # what ray.serve._private.haproxy.HAProxyApi._is_our_haproxy looks for
    finally:
        running.kill()
        running.wait()
