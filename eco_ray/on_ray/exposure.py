"""Which ports of Ray and Serve on this machine can be reached from other machines, and whether they ask who comes."""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

PROC = Path("/proc")
_LISTEN = "0A"
#: what stands on the command lines of Ray's and Serve's processes; `/ray/` alone is also the home of a user called ray
_MARK = re.compile(
    rb"ray::|ray-dashboard|haproxy|\0-m\0ray\.|ray\.util\.client|/(?:site|dist)-packages/ray/"
    rb"|/ray/(?:core|dashboard|_private|autoscaler|serve|util|scripts)/"
)
#: those whose ports answer without a token whatever the mode says, e.g. Serve's gRPC proxy: only an answer counts
_NO_TOKEN = (b"ray::ProxyActor", b"ray::Serve", b"ray-dashboard", b"/ray/dashboard/dashboard.py", b"haproxy")
#: without a token, Ray's job API answers the first of these with 401, and so does a gateway with keys
_PATHS = ("/api/jobs/", "/-/routes")
_DENIED = (401, 403)
_PATIENCE_S = 1.0
#: ports that are asked at the same time
_AT_ONCE = 32
#: of a command line
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Port:
    """A port that listens on an address which other machines may reach."""

    address: str
    port: int
    pid: int
    #: beginning of the command line
    process: str
    #: how it knows who comes
    auth: Literal["token", "none"]


@dataclass(frozen=True, slots=True)
class Unread:
    """A process of Ray or Serve whose sockets we may not see."""

    pid: int
    process: str


@dataclass(frozen=True, slots=True)
class Exposure:
    """What of Ray and Serve on this machine other machines may reach, and what we could not find out."""

    ports: tuple[Port, ...]
    unread: tuple[Unread, ...]
    #: listen beyond loopback, and no process that we may look at has them
    unknown_owner: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Socket:
    address: str
    port: int
    pid: int
    command: bytes


def exposure(proc: Path = PROC) -> Exposure:
    """Ports of Ray and Serve processes on this machine that are not bound to loopback."""
    listening = dict(_listening(proc))
    rays: dict[str, _Socket] = {}
    owned: set[str] = set()
    unread = []
    for pid, command in _processes(proc):
        is_rays = _MARK.search(command) is not None
        inodes = _inodes(proc, pid)
        if inodes is None:
            if is_rays:
                unread.append(Unread(pid, _shown(command)))
            continue
        owned |= inodes
        for inode in inodes & listening.keys() if is_rays else ():
            rays.setdefault(inode, _Socket(*listening[inode], pid, command))  # children inherit sockets
    sockets = sorted(rays.values(), key=lambda one: (one.port, one.address))
    unknown = {port for inode, (_, port) in listening.items() if inode not in owned}
    limits = httpx.Limits(max_keepalive_connections=0)
    with (
        httpx.Client(timeout=_PATIENCE_S, trust_env=False, limits=limits) as http,
        ThreadPoolExecutor(_AT_ONCE) as threads,
    ):
        ports = tuple(threads.map(lambda one: _judged(proc, one, http), sockets))
    return Exposure(ports, tuple(unread), tuple(sorted(unknown)))


def _judged(proc: Path, one: _Socket, http: httpx.Client) -> Port:
    token = _asked(one, http)
    if token is None:
        # what does not speak HTTP is Ray's gRPC, which asks for the token where the mode says so, or Serve's
        token = not any(mark in one.command for mark in _NO_TOKEN) and _has_token_mode(proc, one.pid)
    return Port(one.address, one.port, one.pid, _shown(one.command), "token" if token else "none")


def _shown(command: bytes) -> str:
    return command.replace(b"\0", b" ").decode(errors="replace")[:_SHOWN].strip()


def _listening(proc: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    """(inode, (address, port)) of sockets that listen beyond loopback."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTEN:
                host, _, port = fields[1].partition(":")
                address = _address(host)
                if not _is_loopback(address):
                    yield fields[9], (str(address), int(port, 16))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as /proc/net writes it: words of 4 bytes, each in the machine's order."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    packed = b"".join(struct.pack("=I", word) for word in words)
    return ipaddress.ip_address(packed)


def _is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _processes(proc: Path) -> Iterator[tuple[int, bytes]]:
    """(pid, command line) of all processes, parents mostly first."""
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal()):
        with suppress(OSError):
            yield pid, (proc / str(pid) / "cmdline").read_bytes()


def _inodes(proc: Path, pid: int) -> set[str] | None:
    """Of the sockets that a process has; None: we may not look, e.g. as it is another user's."""
    folder = proc / str(pid)
    found = set()
    try:
        for entry in (folder / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                target = str(entry.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    except OSError:
        return None if folder.exists() else set()  # it may have ended meanwhile
    return found


def _asked(one: _Socket, http: httpx.Client) -> bool | None:
    """Whether it refuses who has no token; None: it does not speak HTTP."""
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - compared with, not bound to
    host = wildcard.get(one.address, f"[{one.address}]" if ":" in one.address else one.address)
    spoke = False
    for path in _PATHS:
        with suppress(httpx.HTTPError):
            if http.get(f"http://{host}:{one.port}{path}").status_code in _DENIED:
                return True
            spoke = True
    return False if spoke else None


def _has_token_mode(proc: Path, pid: int) -> bool:
    try:
        return b"RAY_AUTH_MODE=token" in (proc / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
