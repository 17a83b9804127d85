"""SGD around a parameter server on a real cluster of two nodes, with every kind of process killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # three minutes; test_training_live.py has the quick part
DRIVER = Path(__file__).with_name("async_sgd_driver.py")
STEPS = 240


def run(*command):
    env = {k: v for k, v in os.environ.items() if not k.startswith("ECO_RAY_") and k != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    out = run(DRIVER, tmp_path_factory.mktemp("sgd"))
    answers = [json.loads(line) for line in out.splitlines() if line.startswith("{")]  # the rest is Ray's
    return {answer["case"]: answer for answer in answers}


def check_learned(case):
    assert case["w"] == pytest.approx(3, abs=0.02)
    assert case["b"] == pytest.approx(1, abs=0.02)
    assert case["gradients"] == STEPS  # each step once in what was kept
    assert case["staleness_max"] <= 2


def test_synchronous_on_two_workers_is_the_plain_class_bit_for_bit(cases):
    assert (cases["sync"]["w"], cases["sync"]["b"]) == (cases["plain"]["w"], cases["plain"]["b"])
    check_learned(cases["sync"])
    assert cases["sync"]["told"] == []


def test_a_killed_worker_is_told_and_replaced_and_the_others_go_on(cases):
    case = cases["worker killed"]
    check_learned(case)
    assert (case["workers_lost"], case["server_restarts"]) == (1, 0)
    assert len(case["told"]) == 1
    assert "is lost, the others go on" in case["told"][0]


def test_a_killed_server_goes_on_from_its_last_checkpoint_and_tells_what_is_lost(cases):
    case = cases["server killed"]
    check_learned(case)
    assert (case["server_restarts"], case["workers_lost"]) == (1, 0)
    assert len(case["told"]) == 1
    version = int(case["told"][0].split("checkpoint after ")[1].split()[0])
    assert 0 <= version < 240
    assert f"at least {case['updates_lost']} are done again" in case["told"][0]


def test_a_task_may_stand_in_a_module_beside_the_script(cases):
    assert cases["a module of its own"]["gradients"] == 40


def test_a_paused_training_goes_on_where_it_was(cases):
    assert cases["paused"]["error"] == "Paused"
    check_learned(cases["resumed"])
    assert 60 <= int(cases["resumed"]["told"][0].split("goes on after ")[1].split()[0]) < STEPS
    assert cases["another training"]["error"] == "UsageError"


def test_a_killed_node_costs_its_worker_and_no_more(cases):
    case = cases["node killed"]
    check_learned(case)
    assert case["workers_lost"] >= 1


def test_a_worker_that_hangs_is_ended(cases):
    case = cases["hangs"]
    assert (case["gradients"], case["workers_lost"]) == (60, 1)
    assert "worker_timeout_s=2 s" in case["told"][0]


def test_what_cannot_go_on_fails_with_the_reason(cases):
    assert cases["raises"]["error"] == "EcoRayError"
    assert "ValueError: no such image; mend" in cases["raises"]["message"]
    assert cases["diverges"]["error"] == "DivergedError"
    assert "lower the learning rate" in cases["diverges"]["message"]
    assert cases["dies"]["error"] == "EcoRayError"
    assert "lost 4 times without progress" in cases["dies"]["message"]
    assert "because its worker process has died" in cases["dies"]["message"]
    assert cases["server always killed"]["error"] == "EcoRayError"
    assert "parameter server was lost 4 times without progress" in cases["server always killed"]["message"]
    assert "stands at 0 of 240 updates" in cases["server always killed"]["message"]


def test_workers_that_get_no_cpu_are_told_of_and_begin_when_there_is_one(cases):
    case = cases["no room"]
    assert (case["gradients"], case["workers_lost"], len(case["told"])) == (60, 0, 1)
    assert "each needs a free CPU, and Ray has 0 of 2" in case["told"][0]
