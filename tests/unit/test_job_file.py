from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import quiet_seconds_of

from eco_ray.core.cluster import Resources
from eco_ray.core.jobs import ONE_WORKER, SuspendRule, Workers
from eco_ray.errors import InfeasibleError, UsageError
from eco_ray.job_file import JobFile, job_from_flags, job_from_metadata, load_job_file
from eco_ray.job_model import POLICIES
from eco_ray.times import When, parse_instant

REPOSITORY = Path(__file__).parents[2]
NOW_S = parse_instant("2026-11-22T08:00Z")
DAY_S = 86_400.0

FULL = """\
name: train-mnist
run: python jobs/train_mnist.py --epochs 20
workdir: .
runtime_env: {pip: [], env_vars: {OMP_NUM_THREADS: "1"}}
resources: {num_cpus: 1, num_gpus: 2, memory_gb: 2, gpu_memory_gb: 12}
workers: {min: 2, max: 4, throughput: [30, 40.5, 45]}
tenant: vision
priority: 700
carbon:
  policy: lowest-window
  expected_duration: 20s
  not_before: 1h
  deadline: 2026-11-23T08:00:00Z
  zones: [DE, NO]
  max_intensity: 250
  min_saving_pct: 5
  suspend: {allow: true, min_run: 2s, resume_cost: 1s, checkpoint_gb: 1.5}
  budget: {carbon_g: 500, energy_kwh: 5}
  on_missing_signal: run
retries: {max: 3, on_exit_codes: [33]}
"""


def load(folder: Path, text: str, **overrides: Any) -> JobFile:
    path = folder / "job.yaml"
    path.write_text(text)
    return load_job_file(path, overrides)


def refusal(folder: Path, text: str, **overrides: Any) -> str:
    with pytest.raises(UsageError) as error:
        load(folder, text, **overrides)
    assert error.value.exit_code == 2
    return str(error.value)


def test_a_full_job_file_becomes_a_spec(tmp_path: Path) -> None:
    job = load(tmp_path, FULL)
    spec = job.to_spec(NOW_S, clock_speed=600, default_max_delay_s=DAY_S, package="abc")
    assert job.workdir == "."
    assert (spec.name, spec.run) == ("train-mnist", "python jobs/train_mnist.py --epochs 20")
    assert spec.demand == Resources(1.0, 2.0, 2.0, 12.0)
    assert (spec.tenant, spec.priority, spec.policy, spec.package) == ("vision", 700, "lowest-window", "abc")
    assert spec.zones == ("DE", "NO")  # NO is Norway, not false
    assert (spec.max_intensity, spec.min_saving_pct) == (250, 5)
    assert (spec.max_retries, spec.retry_exit_codes) == (3, (33,))
    assert spec.runtime_env == {"pip": [], "env_vars": {"OMP_NUM_THREADS": "1"}}
    # compute time runs with the clock; deadline and not_before are grid time
    assert spec.expected_duration_s == 12_000
    assert spec.suspend == SuspendRule(True, 1_200, 600)
    assert spec.deadline_s == NOW_S + DAY_S
    assert spec.not_before_s == NOW_S + 3_600
    assert spec.workers == Workers(2, 4, (1.0, 1.35, 1.5))  # in terms of two
    # energy is power x grid time already
    assert (spec.budget_g, spec.budget_j, spec.checkpoint_gb) == (500, 18_000_000, 1.5)


def test_defaults(tmp_path: Path) -> None:
    job = load(tmp_path, "run: python x.py\n")
    spec = job.to_spec(NOW_S, 600, DAY_S)
    assert job.workdir is None
    assert spec.name == "job"  # the file's name
    assert (spec.deadline_s, spec.not_before_s, spec.expected_duration_s) == (NOW_S + DAY_S, NOW_S, None)
    assert (spec.demand, spec.policy, spec.zones, spec.package) == (Resources(cpus=1.0), "eco", (), None)
    assert (spec.workers, spec.budget_g, spec.budget_j, spec.checkpoint_gb) == (ONE_WORKER, None, None, 0)


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ("{max: 8}", Workers(1, 8)),
        ("{min: 2}", Workers(2, 2)),
        ("{min: 3, throughput: [7]}", Workers(3, 3)),  # there is nothing to compare
        ("{max: 1000}", Workers(1, 1000)),
        ("{max: 3, throughput: [2, 2, 5]}", Workers(1, 3, (1.0, 1.0, 2.5))),
        ("{max: 2, throughput: [1e-300, 1.9e-300]}", Workers(1, 2, (1.0, 1.9))),
    ],
)
def test_workers(tmp_path: Path, workers: str, expected: Workers) -> None:
    assert load(tmp_path, f"run: x\nworkers: {workers}\n").to_spec(NOW_S, 600, DAY_S).workers == expected


@pytest.mark.parametrize(
    ("budget", "limits"),
    [("{carbon_g: 0.5}", (0.5, None)), ("{energy_kwh: 0.001}", (None, 3_600)), ("", (None, None))],
)
def test_budgets(tmp_path: Path, budget: str, limits: tuple[float | None, float | None]) -> None:
    spec = load(tmp_path, f"run: x\ncarbon:\n  budget: {budget}\n").to_spec(NOW_S, 600, DAY_S)
    assert (spec.budget_g, spec.budget_j) == limits


@pytest.mark.parametrize(("gpus", "workers"), [("0.25", 4), ("0.1", 10), ("1", 7), ("0", 9), ("2", 3)])
def test_workers_share_a_gpu_or_have_whole_ones(tmp_path: Path, gpus: str, workers: int) -> None:
    text = f"run: x\nresources: {{num_gpus: {gpus}}}\nworkers: {{max: {workers}}}\n"
    assert load(tmp_path, text).to_spec(NOW_S, 1, DAY_S).workers.max == workers


@pytest.mark.parametrize("policy", POLICIES)
def test_policies(tmp_path: Path, policy: str) -> None:
    job = load(tmp_path, f"run: x\nworkers: {{max: 4}}\ncarbon: {{policy: {policy}}}\n")
    assert job.to_spec(NOW_S, 1, DAY_S).policy == policy


@pytest.mark.parametrize(
    ("carbon", "deadline_s"),
    [
        ("{}", DAY_S),
        ("{deadline: 6h}", 21_600),
        ("{max_delay: 6h}", 21_600),
        ("{max_delay: 6h, not_before: 1h}", 21_600),
        ("{not_before: 2d}", 3 * DAY_S),
        ("{expected_duration: 1h}", DAY_S),
        ("{expected_duration: 2d}", 3 * DAY_S),  # longer than the default delay: never infeasible by our own default
        ("{not_before: 2026-01-01}", DAY_S),
    ],
)
def test_deadlines(tmp_path: Path, carbon: str, deadline_s: float) -> None:
    job = load(tmp_path, f"run: x\ncarbon: {carbon}\n")
    assert job.to_spec(NOW_S, 1, DAY_S).deadline_s == NOW_S + deadline_s


def test_a_deadline_that_has_passed_is_infeasible(tmp_path: Path) -> None:
    job = load(tmp_path, "run: x\ncarbon: {deadline: 2026-11-22T07:00Z}\n")
    with pytest.raises(InfeasibleError, match=r"2026-11-22T07:00:00Z.*1 h before.*2026-11-22T08:00:00Z; give a later"):
        job.to_spec(NOW_S, 1, DAY_S)
    late = load(tmp_path, "run: x\ncarbon: {deadline: 6h, not_before: 7h}\n")
    with pytest.raises(UsageError, match=r"15:00:00Z.*14:00:00Z; make"):
        late.to_spec(NOW_S, 1, DAY_S)


# (file, what the message must hold: place, value, limit, cure)
BAD = [
    ("resource: {num_cpus: 1}\n", ["line 2", "'resource'", "did you mean 'resources'?", "Allowed: name, run,"]),
    ("resources: {num_cpu: 1}\n", ["line 2: resources.num_cpu", "did you mean 'num_cpus'?", "num_gpus, memory_gb"]),
    ("resources: {gpu: 1}\n", ["did you mean 'num_gpus'?"]),
    ("carbon:\n  suspend:\n    minrun: 3m\n", ["line 4: carbon.suspend.minrun", "'min_run'", "allow, min_run"]),
    ("deadline: 3h\n", ["'deadline' here", "did you mean carbon.deadline?"]),
    ("resources: {num_cpus: 0}\n", ["resources.num_cpus: 0 is not above 0", "give a number above 0"]),
    ("resources: {num_cpus: -1}\n", ["-1 is not above 0"]),
    ("resources: {num_cpus: 1e999}\n", ["inf is not a finite number", "above 0"]),
    ("resources: {num_cpus: .nan}\n", ["'.nan' is not a", "above 0"]),
    ("resources: {num_cpus: true}\n", ["true is not a number"]),
    ("resources: {num_gpus: 1.5}\n", ["1.5", "whole number", "0.25, 1 or 2"]),
    ("resources: {memory_gb: -2}\n", ["-2 is below 0", "at least 0"]),
    ("resources: 3\n", ["3 is not a mapping", "num_cpus, num_gpus, memory_gb"]),
    ("resources:\n", ["nothing (null) is not a mapping"]),
    ("priority: 1001\n", ["1001 is above 1000", "from 0 to 1000"]),
    ("priority: -1\n", ["-1 is below 0", "from 0 to 1000"]),
    ("priority: 1.5\n", ["1.5 is not a whole number", "from 0 to 1000"]),
    ("priority: " + "9" * 50 + "\n", ["50 digits", "at most 40"]),
    ("name: My Job\n", ["'My Job'", "at most 63", "'my-job'"]),
    ("name: " + "x" * 64 + "\n", ["at most 63", "'" + "x" * 63 + "'"]),
    ("name: 5\n", ["5 is not text", "quotes"]),
    ("tenant: a b\n", ["'a b'", "letters, digits"]),
    ("run: ''\n", ["empty", "python jobs/"]),
    ('run: "a\\0b"\n', ["NUL", "remove it"]),
    ("run: " + "x" * 40_000 + "\n", ["40000 bytes", "32768", "script"]),
    ("run: [a, b]\n", ["['a', 'b'] is not text"]),
    ("workdir: ''\n", ["'' is not a folder", "leave workdir out"]),
    ("carbon: {min_saving_pct: 101}\n", ["101 is above 100", "from 0 to 100"]),
    ("carbon: {max_intensity: 0}\n", ["0 is not above 0"]),
    ("carbon: {expected_duration: 0s}\n", ["0s is outside 0.001s to 3660d"]),
    ("carbon: {expected_duration: 3}\n", ["3 has no unit", "3s, 3m or 3h"]),
    ("carbon: {expected_duration: [3]}\n", ["[3] is not a duration", "1h30m"]),
    ("carbon: {deadline: later}\n", ["'later' is not a duration", "2026-11-22T08:00Z"]),
    ("carbon: {deadline: 2026-02-30T00:00Z}\n", ["'2026-02-30T00:00Z'", "ISO 8601"]),
    ("carbon: {not_before: 5}\n", ["5 is not a time", "2026-11-22T08:00Z"]),
    ("carbon: {deadline: 6h, max_delay: 6h}\n", ["deadline and max_delay", "keep one"]),
    ("carbon: {zones: []}\n", ["[] allows no zone", "leave zones out"]),
    ("carbon: {zones: [DE, DE]}\n", ["'DE' is there twice"]),
    ("carbon: {zones: [D E]}\n", ["carbon.zones[0]", "'D E'", "US-CAL-CISO"]),
    ("carbon: {zones: 5}\n", ["5 is not a list"]),
    ("carbon: {suspend: {allow: perhaps}}\n", ["'perhaps' is not true or false"]),
    ("carbon: {policy: ecoo}\n", ["unknown policy 'ecoo'", "'eco'", "run-now, lowest-slot"]),
    ("carbon: {policy: carbon_scaler}\n", ["unknown policy 'carbon_scaler'", "'carbon-scaler'"]),
    ("carbon: {budget: {}}\n", ["carbon.budget: limits nothing", "carbon_g, energy_kwh or both"]),
    ("carbon: {budget: {carbon_g: 0}}\n", ["carbon.budget.carbon_g: 0 is not above 0", "give a number above 0"]),
    ("carbon: {budget: {energy_kwh: -1}}\n", ["carbon.budget.energy_kwh: -1 is not above 0"]),
    ("carbon: {budget: {carbon_kg: 1}}\n", ["'carbon_kg'", "did you mean 'carbon_g'?"]),
    ("carbon: {budget: 500}\n", ["500 is not a mapping", "carbon_g, energy_kwh"]),
    ("carbon: {suspend: {checkpoint_gb: -1}}\n", ["carbon.suspend.checkpoint_gb: -1 is below 0"]),
    ("carbon: {on_missing_signal: wait}\n", ["'wait' is not in this version", "write run"]),
    ("workers: {min: 2, max: 1}\n", ["workers: min 2 is above max 1", "lower min or raise max"]),
    ("workers: {min: 0}\n", ["workers.min: 0 is below 1", "from 1 to 1000"]),
    ("workers: {max: 1001}\n", ["workers.max: 1001 is above 1000", "from 1 to 1000"]),
    ("workers: {max: 2.5}\n", ["2.5 is not a whole number", "from 1 to 1000"]),
    ("workers: {max: 3, throughput: [1, 2]}\n", ["throughput has 2 values, and 3 are needed", "1 to 3 workers"]),
    ("workers: {throughput: [1, 2]}\n", ["throughput has 2 values, and 1 are needed", "1 worker;"]),
    ("workers: {max: 2, throughput: []}\n", ["throughput has 0 values, and 2 are needed", "leave throughput out"]),
    ("workers: {max: 2, throughput: [0, 1]}\n", ["throughput 0 with 1 workers is not above 0", "any unit"]),
    ("workers: {min: 4, max: 6, throughput: [9, 8, 9]}\n", ["8 with 5 workers is below 9 with 4", "set max to 4"]),
    ("workers: {max: 2, throughput: [1, 2e6]}\n", ["from 1 to 2e+06", "a factor of 1e+06", "same unit"]),
    ("workers: {max: 2, throughput: [1, .inf]}\n", ["workers.throughput[1]", "not a"]),
    ("workers: {max: 2, throughput: 2}\n", ["2 is not a list"]),
    ("resources: {gpu_memory_gb: 8}\n", ["gpu_memory_gb 8 needs a GPU", "num_gpus is 0", "such as 0.5"]),
    ("resources: {num_gpus: 0.5}\nworkers: {max: 3}\n", ["0.5 for each of 3 workers is 1.5", "at most 2 workers"]),
    (
        "carbon: {policy: wait-awhile, suspend: {allow: false}}\n",
        ["wait-awhile suspends jobs", "suspend.allow is false", "policy to eco or lowest-window"],
    ),
    ("workers: {min: 2}\ncarbon: {policy: carbon-scaler}\n", ["workers.min is 2", "begins with 1", "policy to eco"]),
    ("retries: {max: 101}\n", ["101 is above 100", "from 0 to 100"]),
    ("retries: {max: 1, on_exit_codes: [0]}\n", ["0 is outside 1 to 255"]),
    ("retries: {on_exit_codes: [33]}\n", ["no effect with max 0", "set max to 1"]),
    ("runtime_env: {working_dir: .}\n", ["working_dir", "workdir: FOLDER"]),
    ("runtime_env: {env_vars: [A]}\n", ["env_vars is not a mapping", "{NAME: 'value'}"]),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_errors_hold_place_value_limit_and_cure(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refusal(tmp_path, text if text.startswith("run:") else f"run: x\n{text}")
    for word in [str(tmp_path / "job.yaml"), "line ", *words]:
        assert word in message
    assert len(message.splitlines()) == 1


def test_secrets_stay_out_of_errors(tmp_path: Path) -> None:
    message = refusal(tmp_path, "run: x\nruntime_env: {env_vars: {TOKEN: 12345}}\n")
    assert "env_vars.TOKEN is not text" in message
    assert "quotes" in message
    assert "12345" not in message


def test_all_errors_come_at_once_and_are_bounded(tmp_path: Path) -> None:
    message = refusal(tmp_path, "name: A\npriority: -1\n")
    assert len(message.splitlines()) == 3  # with the missing run
    assert "run: is missing; add it" in message
    many = refusal(tmp_path, "run: x\n" + "".join(f"k{i}: 1\n" for i in range(50)))
    assert many.splitlines()[-1] == "... and 40 more"


# each line repeats the line above nine times: 9^7 values
BOMB = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 8))

SYNTAX = [
    ("run: [x\nfoo: y\n", ["line 2", "column"]),
    ("run: x\n\tfoo: y\n", ["line 2, column 1", "tab"]),
    ("run: x\nrun: y\n", ["line 2, column 1", "'run' is already in line 1", "keep one"]),
    ("run: x\ncarbon: {zones: [DE], zones: [FR]}\n", ["line 2", "'zones' is already in line 2"]),
    ("run: x\n---\nrun: y\n", ["line 2", "single document"]),
    ("- run\n", ["line 1", "`key: value`"]),
    ("", ["is empty", "job file"]),
    ("# nothing\n", ["is empty"]),
    ("1: x\n", ["line 1", "key '1' is not text", "quotes"]),
    ("? [a]\n: x\n", ["line 1", "not text"]),
    ("run: !!python/object/apply:os.system [ls]\n", ["line 1, column 6", "os.system", "not allowed"]),
    ("run: !!set {a}\n", ["not allowed"]),
    ("run: *nope\n", ["line 1, column 6", "undefined alias"]),
    ("run: \x07\n", ["x0007", "remove"]),
    ("<<: {run: x}\n", ["unknown key '<<'"]),
    ("run: &a [*a]\n", ["deeper than 32 levels"]),
    ("run: " + "[" * 200_000, ["deeper than 32 levels", "flatten"]),
    ("run: " + "{a: " * 200_000, ["deeper than 32 levels"]),
    ("run: [" + "1," * 200_000 + "]", ["more than 20,000 values"]),
    (BOMB, ["20,000 values", "aliases"]),
    (f"a: &a {'x' * 100_000}\nb: [{','.join(['*a'] * 100)}]\n", ["4 Mi characters", "aliases"]),
]


@pytest.mark.parametrize(("text", "words"), SYNTAX)
def test_what_is_no_plain_yaml_is_refused_fast(tmp_path: Path, text: str, words: list[str]) -> None:
    messages: list[str] = []
    assert quiet_seconds_of(lambda: messages.append(refusal(tmp_path, text))) < 2
    message = messages[0]
    assert str(tmp_path / "job.yaml") in message
    for word in words:
        assert word in message
    assert len(message) < 600


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: No such file.*check the path"):
        load_job_file(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="directory"):
        load_job_file(tmp_path)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        load_job_file(large)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"run: x\ntenant: \xe9\n")
    with pytest.raises(UsageError, match=r"line 2: byte 0xe9 is not UTF-8"):
        load_job_file(latin)


def test_options_win_over_the_file(tmp_path: Path) -> None:
    job = load(tmp_path, FULL, max_delay="2h", num_cpus="2", zones="FR,GB", suspend="false", tenant=None)
    assert job.carbon.deadline is None  # replaced by its rival
    assert job.carbon.max_delay_s == 7_200
    assert job.carbon.zones == ("FR", "GB")
    assert not job.carbon.suspend.allow
    assert job.carbon.suspend.min_run_s == 2
    assert (job.resources.num_cpus, job.tenant) == (2, "vision")
    assert load(tmp_path, "run: x\ncarbon: {max_delay: 1h}\n", deadline="6h").carbon.deadline == When(after_s=21_600)


def test_errors_of_options_name_the_option(tmp_path: Path) -> None:
    assert refusal(tmp_path, FULL, max_delay="soon").startswith("--max-delay: 'soon' is not a duration")
    assert "deadline and max_delay" in refusal(tmp_path, FULL, max_delay="1h", deadline="1h")
    assert "did you mean 'max_delay'?" in refusal(tmp_path, FULL, maxdelay="1h")
    assert "carbon: 5 is not a mapping" in refusal(tmp_path, "run: x\ncarbon: 5\n", deadline="1h")


METADATA = {
    "eco.name": "night-job",
    "eco.tenant": "vision",
    "eco.priority": "900",
    "eco.num_cpus": "2",
    "eco.num_gpus": "0",
    "eco.memory_gb": "1.5",
    "eco.gpu_memory_gb": "0",
    "eco.min_workers": "1",
    "eco.max_workers": "4",
    "eco.policy": "run-now",
    "eco.expected_duration": "3h",
    "eco.not_before": "now",
    "eco.deadline": "6h",
    "eco.zones": "DE, FR",
    "eco.max_intensity": "250",
    "eco.min_saving_pct": "5",
    "eco.budget_g": "500",
    "eco.budget_kwh": "2.5",
    "eco.suspend": "false",
    "job_submission_id": "raysubmit_x",
}


def test_metadata_of_a_ray_job() -> None:
    job = job_from_metadata(METADATA, "python x.py")
    assert (job.name, job.tenant, job.priority, job.run) == ("night-job", "vision", 900, "python x.py")
    assert job.resources.model_dump() == {"num_cpus": 2, "num_gpus": 0, "memory_gb": 1.5, "gpu_memory_gb": 0}
    assert job.carbon.zones == ("DE", "FR")
    assert not job.carbon.suspend.allow
    spec = job.to_spec(NOW_S, 1, DAY_S)
    assert (spec.policy, spec.expected_duration_s, spec.deadline_s) == ("run-now", 10_800, NOW_S + 21_600)
    assert (spec.max_intensity, spec.min_saving_pct) == (250, 5)
    assert (spec.workers, spec.budget_g, spec.budget_j) == (Workers(1, 4), 500, 9_000_000)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("eco.deadlin", "6h", ["'eco.deadlin'", "'eco.deadline'", "eco.max_delay"]),
        ("eco.workdir", ".", ["'eco.workdir'", "Allowed: eco.name"]),
        ("eco.deadline", "soon", ["eco.deadline: 'soon'", "1h30m"]),
        ("eco.priority", "high", ["eco.priority: 'high' is not a whole number", "0 to 1000"]),
        ("eco.zones", "DE,DE", ["eco.zones: 'DE' is there twice"]),
        ("eco.zones", "", ["eco.zones: [] allows no zone"]),
        ("eco.suspend", "perhaps", ["eco.suspend: 'perhaps' is not true or false"]),
        ("eco.num_cpus", "nan", ["eco.num_cpus", "nan", "above 0"]),
        ("eco.max_workers", "many", ["eco.max_workers: 'many' is not a whole number", "1 to 1000"]),
        ("eco.budget_g", "0", ["eco.budget_g: '0' is not above 0"]),
    ],
)
def test_bad_metadata(key: str, value: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        job_from_metadata({key: value}, "python x.py")
    for word in words:
        assert word in str(error.value)


def test_flags_win_over_metadata_and_the_name_comes_from_the_command() -> None:
    job = job_from_flags("python -u jobs/train_mnist.py --x", {"max_delay": "1h", "retries": 2}, {"eco.deadline": "6h"})
    assert job.name == "train-mnist"
    assert (job.carbon.deadline, job.carbon.max_delay_s, job.retries.max) == (None, 3_600, 2)
    assert job_from_flags("/usr/bin/Env FOO=1").name == "env"
    with pytest.raises(UsageError, match="the command is empty"):
        job_from_flags("  ")


@given(st.dictionaries(st.sampled_from(sorted(METADATA)), st.text(max_size=70), max_size=3), st.text(max_size=30))
def test_any_metadata_is_a_job_or_a_usage_error(metadata: dict[str, str], run: str) -> None:
    with suppress(UsageError, InfeasibleError):
        job_from_metadata(metadata, run).to_spec(NOW_S, 600, DAY_S)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_example_jobs_load(path: Path) -> None:
    assert load_job_file(path).to_spec(NOW_S, 600, DAY_S).run
