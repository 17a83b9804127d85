"""The Dockerfile and the systemd units keep to rules, and each rule is seen to fail."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator

import pytest
from manifests import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
UNITS = {path.name: path.read_text() for path in (REPOSITORY / "cluster/systemd").glob("*.service")}


def dockerfile_errors(text: str) -> Iterator[str]:
    """What is wrong with a Dockerfile."""
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip() and line[0] != "#"]
    stages = [re.match(r"FROM\s+(\S+)(?:\s+AS\s+(\S+))?", line, re.IGNORECASE) for line in lines if line[:4] == "FROM"]
    names = {stage[2] for stage in stages if stage and stage[2]}
    if len(stages) < 2:
        yield "one stage: build tools and caches stay in the image"
    for stage in filter(None, stages):
        tag = stage[1].rpartition("/")[2].partition(":")[2]
        if stage[1] not in names and (tag.count(".") < 2 or "latest" in tag):
            yield f"{stage[1]} has no full version"
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    if not users or users[-1].split(":")[0] in ("root", "0") or not users[-1][0].isdigit():
        yield "it ends as root, or as a user without a number, which runAsNonRoot cannot check"
    for line in lines:
        if "pip install" in line and ("-c constraints.txt" not in line or "--no-cache-dir" not in line):
            yield f"not pinned, or with its cache: {line}"
        if "apt-get install" in line and not {"--no-install-recommends", "/var/lib/apt/lists/*"} <= set(line.split()):
            yield f"more than is asked for, or package lists: {line}"
        if line.startswith("ADD") or re.search(r"curl|wget\s+-|https?://", line):
            yield f"something from outside that nothing checks: {line}"
        if re.search(r"^(ENV|ARG).*(PASSWORD|TOKEN|SECRET|_KEY)", line):
            yield f"a secret in a layer: {line}"
        if re.match(r"COPY\s+\.\s", line):
            yield "all of the folder is copied, and with it whatever lies there"
    if "sudo" in text:
        yield "sudo"


def test_the_image_keeps_to_the_rules() -> None:
    assert list(dockerfile_errors(DOCKERFILE)) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("FROM python:3.11.14-slim-trixie AS build", "FROM python:3.11 AS build", "no full version"),
        ("FROM python:3.11.14-slim-trixie\n", "FROM python:latest\n", "no full version"),
        ("USER 1000:1000\n", "", "as root"),
        ("USER 1000:1000", "USER root", "as root"),
        ("USER 1000:1000", "USER eco-ray", "without a number"),
        (" -c constraints.txt", "", "not pinned"),
        (" --no-cache-dir", "", "with its cache"),
        (" --no-install-recommends", "", "more than is asked for"),
        ("COPY eco_ray eco_ray", "COPY . .", "whatever lies there"),
        ("COPY eco_ray eco_ray", "ADD https://example.org/x /x", "from outside"),
        ("COPY eco_ray eco_ray", "RUN wget -q http://example.org/x", "from outside"),
        ("WORKDIR /src", "ENV API_TOKEN=abc", "a secret"),
        ("FROM python:3.11.14-slim-trixie\n", "", "one stage"),
        ("WORKDIR /src", "RUN sudo true", "sudo"),
    ],
)
def test_a_broken_image_is_told_of(old: str, new: str, said: str) -> None:
    assert old in DOCKERFILE
    assert said in "\n".join(dockerfile_errors(DOCKERFILE.replace(old, new)))


def unit_errors(text: str) -> Iterator[str]:
    """What is wrong with a unit."""
    told = configparser.RawConfigParser(strict=False, comment_prefixes=("#",))
    told.optionxform = str  # type: ignore[assignment,method-assign]
    told.read_string(text)
    service = told["Service"]
    if service.get("User", "root") == "root":
        yield "it runs as root"
    for key, value in (("NoNewPrivileges", "true"), ("ProtectSystem", "strict"), ("ProtectHome", "true")):
        if service.get(key) != value:
            yield f"{key} is not {value}"
    if not service.get("ExecStart", "").startswith("/"):
        yield "ExecStart needs a whole path"
    if "Restart" not in service:
        yield "nobody starts it again"
    environment = " ".join(line for line in text.splitlines() if line.startswith("Environment="))
    if "RAY_AUTH_MODE=token" not in environment or re.search(r"TOKEN=|PASSWORD=", environment):
        yield "Ray asks nobody for a token, or the unit shows it"
    if "ray start --head" in text and "--dashboard-host=127.0.0.1" not in text:
        yield "the job API is public"
    if told["Install"].get("WantedBy") != "multi-user.target":
        yield "nothing enables it"


@pytest.mark.parametrize("name", sorted(UNITS))
def test_the_units_keep_to_the_rules(name: str) -> None:
    assert list(unit_errors(UNITS[name])) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("User=eco-ray\n", "", "as root"),
        ("NoNewPrivileges=true", "NoNewPrivileges=false", "NoNewPrivileges"),
        ("ExecStart=/opt/eco-ray/bin/ray", "ExecStart=ray", "whole path"),
        ("Restart=always\n", "", "starts it again"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "nobody for a token"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=abc", "shows it"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "public"),
        ("WantedBy=multi-user.target", "", "enables"),
    ],
)
def test_a_broken_unit_is_told_of(old: str, new: str, said: str) -> None:
    text = UNITS["eco-ray-head.service"]
    assert old in text
    assert said in "\n".join(unit_errors(text.replace(old, new)))


def test_units_name_variables_that_their_examples_set() -> None:
    folder = REPOSITORY / "cluster/systemd"
    given = set(re.findall(r"^#?(\w+)=", "".join(path.read_text() for path in folder.glob("*.example")), re.MULTILINE))
    used = {name for text in UNITS.values() for name in re.findall(r"\$\{(\w+)\}", text)}
    assert used
    assert used <= given
