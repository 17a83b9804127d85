"""From samples to ledger rows, and what becomes of malformed ones."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.ledger import GpuSample, GpuUse, Sample, Served, Share, Usage
from eco_ray.core.power import PowerCurve
from eco_ray.core.store_port import Store
from eco_ray.core.tenants import split_by_tenant
from eco_ray.core.units import Nature
from eco_ray.on_ray.accounts import Accounts, Directory
from eco_ray.on_ray.spool import Spool, from_json, to_json
from eco_ray.store.memory import MemoryStore

T0 = 1_763_798_400.0
NODE = Node("n1", "DE", Resources(4, 1, 16), PowerCurve((0.0, 1.0), (50.0, 150.0), source="test"), pue=1.2)
USES = (Usage("job", "j-a2", 0, 1.0, 1.0), Usage("job", "ray:02", 0, 0.5), Usage("model", "serve-app:app", 0, 0.25))
GPUS = (
    GpuSample(
        "gpu-a",
        8_000,
        2_000,
        (
            GpuUse("job", "j-a2", 0, 0.25, 0.5),
            GpuUse("job", "ray:03", 0, 0.25, 0.25),
            GpuUse("job", "ray:09", 0, 0.125),
        ),
        0.5,
    ),
)
DIRECTORY = Directory(
    {"02": "j-a2", "03": "j-a2"}, {"app": ("digits:3",)}, lambda job: job == "j", lambda kind, owner: f"t-{owner}"
)


class Grid:
    """A series that a test chooses."""

    name = "test"

    def __init__(self, **changes: Any) -> None:
        values = np.array([100.0, 200.0, 300.0])
        series = IntensitySeries("DE", T0, 3600.0, values, SignalKind.MARGINAL, "trace", Nature.MEASURED)
        self.series = replace(series, **changes)

    def zones(self) -> tuple[str, ...]:
        return ("DE",)

    def actual(self, zone: str, start_s: float, end_s: float) -> IntensitySeries:
        return self.series

    forecast = actual


def sample(seq: int = 1, **changes: Any) -> Sample:
    base = Sample("n1", "boot", seq, T0 + seq, T0 + seq + 1, 100_000, 40_000, Nature.MEASURED, "rapl", 0.05, USES)
    return replace(base, **changes)


def book(
    store: Store, grid: Grid, samples: Sequence[Sample], node: Node = NODE, directory: Directory = DIRECTORY
) -> int:
    """As the controller does; what is refused is in the log."""
    with TemporaryDirectory() as folder:
        return Accounts(store, grid).book_sound(samples, {"n1": node}, directory, Spool(Path(folder)))


def booked(*samples: Sample, grid: Grid | None = None) -> list[dict[str, Any]]:
    store = MemoryStore()
    book(store, grid or Grid(), samples)
    return [dict(entry) for entry in list(store.ledger_entries())[1:]]


def test_a_row_says_of_which_kind_and_how_old_its_intensity_is() -> None:
    (row,) = booked(sample(1, start_s=T0 + 3600, end_s=T0 + 4500))
    told = {key: row[key] for key in ("intensity", "intensity_kind", "intensity_nature", "intensity_age_s")}
    assert told == {
        "intensity": 200.0, "intensity_kind": "marginal", "intensity_nature": "measured", "intensity_age_s": 900.0,
    }  # fmt: skip
    assert booked(sample(), grid=Grid(nature=Nature.MODELLED))[0]["intensity_age_s"] == 0.0
    assert booked(sample(), grid=Grid(issued_s=T0 - 100))[0]["intensity_age_s"] == 102.0
    (row,) = booked(sample(1, start_s=T0 - 5, end_s=T0 - 4))
    assert (row["intensity"], row["intensity_kind"], row["intensity_nature"], row["intensity_age_s"]) == (
        None, "", "", None,
    )  # fmt: skip


def test_an_interval_that_ends_on_the_turn_of_a_step_has_the_age_of_that_step() -> None:
    assert booked(sample(1, start_s=T0 + 3599, end_s=T0 + 3600))[0]["intensity_age_s"] == 3600.0


def test_shares_carry_the_tenant_and_uses_of_gpus_their_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sample] = []

    def attribute(given: Sample, capacity_cpus: float) -> tuple[Share, ...]:
        seen.append(given)
        return (Share("job", "j", 2, 10), Share("model", "digits:3", 0, 5))

    monkeypatch.setattr("eco_ray.on_ray.accounts.attribute", attribute)
    (row,) = booked(sample(gpus=GPUS))
    assert [(share["owner_id"], share["tenant"]) for share in row["shares"]] == [
        ("j", "t-j"),
        ("digits:3", "t-digits:3"),
    ]
    assert row["gpu_mj"] == 8_000
    (given,) = seen
    assert given.usages == (Usage("job", "j", 2, 1.5, 1.0), Usage("model", "digits:3", 0, 0.25))
    assert given.gpus[0].uses == (GpuUse("job", "j", 2, 0.5, 0.75),)
    assert given.gpus[0].system_busy_s == 0.625


def test_a_sample_with_gpus_comes_back_from_json_and_an_older_one_without() -> None:
    text = json.dumps(to_json(sample(gpus=GPUS, flags=("x",))))
    assert from_json(json.loads(text)) == sample(gpus=GPUS, flags=("x",))
    whole = sample(usages=REPLICA, served=(SERVED,))
    assert from_json(json.loads(json.dumps(to_json(whole)))) == whole
    with pytest.raises(TypeError, match=r"Served\.requests"):
        from_json({**to_json(whole), "served": [{**to_json(whole)["served"][0], "requests": "3"}]})
    older = {key: value for key, value in json.loads(text).items() if key not in ("gpus", "served")}
    assert from_json(older) == sample(flags=("x",))


def answered(tenant: str, requests: int, service_s: float, part: str = "r1", model: str = "m:1") -> Served:
    return Served(model, part, tenant, requests, 2 * requests, service_s)


def a_share(energy_mj: int, part: str = "r1") -> Share:
    return Share("model", "m:1", 0, energy_mj, part=part)


@pytest.mark.parametrize(
    ("share", "served", "expected"),
    [
        # by service time, not by number
        (a_share(100), [answered("a", 9, 1.0), answered("b", 1, 3.0)], [("a", 25, 9, 18), ("b", 75, 1, 2)]),
        # a tenant that is not named is one too
        (a_share(3), [answered("", 1, 0.5), answered("a", 1, 0.5)], [("", 2, 1, 2), ("a", 1, 1, 2)]),
        # nobody was seen to use anything: alike
        (a_share(10), [answered("a", 1, 0.0), answered("b", 1, 0.0)], [("a", 5, 1, 2), ("b", 5, 1, 2)]),
        # requests are counted where there is no energy
        (a_share(0), [answered("a", 2, 0.1)], [("a", 0, 2, 4)]),
        # it waited
        (a_share(7), [answered("", 0, 0.0)], [("", 7, 0, 0)]),
        # another replica and another model say nothing of this one: not known
        (a_share(7), [answered("a", 1, 1.0, "r2"), answered("a", 1, 1.0, model="m:2")], [("", 7, None, None)]),
        # two reports of one tenant are added up
        (a_share(9), [answered("a", 1, 1.0), answered("a", 2, 1.0)], [("a", 9, 3, 6)]),
    ],
)
def test_a_replicas_energy_goes_to_the_tenants_that_it_answered(
    share: Share, served: list[Served], expected: list[tuple[Any, ...]]
) -> None:
    parts = split_by_tenant([share], served)
    assert [(part.tenant, part.energy_mj, part.requests, part.items) for part in parts] == expected
    assert {(part.owner_id, part.part) for part in parts} == {(share.owner_id, share.part)}


TENANTS = st.builds(
    answered,
    st.sampled_from(["", "a", "b", "c"]),
    st.integers(0, 10**6),
    st.floats(0, 1e9),
    st.sampled_from(["r1", "r2"]),
)


@given(
    st.dictionaries(st.sampled_from(["", "r1", "r2"]), st.integers(0, 10**15), max_size=3),
    st.lists(TENANTS, max_size=8),
)
def test_tenants_sum_to_the_replica_and_requests_are_kept_in_any_order(
    energy_of: dict[str, int], served: list[Served]
) -> None:
    shares = [a_share(energy_mj, part) for part, energy_mj in energy_of.items()]
    parts = split_by_tenant(shares, served)
    for part, energy_mj in energy_of.items():
        mine = [one for one in parts if one.part == part]
        assert sum(one.energy_mj for one in mine) == energy_mj
        assert all(one.energy_mj >= 0 for one in mine)
        reported = [one for one in served if one.part == part]
        assert sum(one.requests or 0 for one in mine) == sum(one.requests for one in reported)
        assert (None in {one.requests for one in mine}) == (not reported)
    assert split_by_tenant(shares, served[::-1]) == parts


def test_shares_of_jobs_stay_as_they_are() -> None:
    job = Share("job", "j", 1, 50)
    assert split_by_tenant([job], [answered("a", 1, 1.0, "", "j")]) == (job,)


def test_replicas_are_kept_apart_and_their_requests_find_the_model() -> None:
    app = "serve-app:app"
    usages = (Usage("model", app, 0, 1.0, 0.25, "r1"), Usage("model", app, 0, 3.0, 0.25, "r2"))
    served = (Served(app, "r1", "vision", 3, 3, 0.5), Served(app, "r1", "text", 1, 1, 0.5))
    (row,) = booked(sample(usages=usages, served=served))
    told = {(s["part"], s["tenant"]): (s["energy_mj"], s.get("requests")) for s in row["shares"]}
    # 60 J of use at 1 : 3, 40 J of idle at a sixteenth each
    assert {s["owner_id"] for s in row["shares"]} == {"digits:3"}
    assert told["r1", "text"] == (told["r1", "vision"][0], 1)
    assert told["r1", "vision"][1] == 3
    assert sum(mj for mj, _ in told.values()) == 60_000 + 2 * 40_000 // 16
    assert told["r2", "t-digits:3"][1] is None


# --- malformed: an error that says why, or a row that carries a flag; never a number without either

REPLICA = (Usage("model", "serve-app:app", 0, 1.0, 0.25, "r1"),)
SERVED = Served("serve-app:app", "r1", "vision", 3, 3, 0.5)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "negative energy": ({"energy_mj": -1, "idle_mj": 0}, "outside .0, -1. mJ"),
    "energy is NaN": ({"energy_mj": math.nan}, "nan"),
    "energy beyond exact floats": ({"energy_mj": 2**53, "idle_mj": 0}, "9007199254740992 mJ"),
    "energy is no whole number": ({"energy_mj": 0.5}, "whole number"),
    "idle above the energy": ({"idle_mj": 100_001}, "100001 mJ"),
    "GPUs above the energy": ({"gpus": (GpuSample("g", 100_001, 0),)}, "100001 mJ"),
    "negative GPU": ({"gpus": (GpuSample("g", -5, 0),)}, "-5"),
    "ends before it starts": ({"end_s": T0}, "not after its start"),
    "start in the far future": ({"start_s": 1e15, "end_s": 1e15 + 1}, "limits 0 to 253402300799"),
    "a length of millennia": ({"end_s": 2e11}, "s long, limit 31622400 s"),
    "start is infinite": ({"start_s": -math.inf}, "finite"),
    "CPU time is NaN": ({"usages": (Usage("job", "j", 1, math.nan),)}, "nan"),
    "negative CPU time": ({"usages": (Usage("job", "j", 1, -1.0),)}, "-1"),
    "reserved is infinite": ({"usages": (Usage("job", "j", 1, 1.0, math.inf),)}, "inf"),
    "system CPU time is negative": ({"system_cpu_s": -1.0}, "-1"),
    "error is NaN": ({"error_rel": math.nan}, "nan"),
    "error is negative": ({"error_rel": -0.1}, "-0.1"),
    "unknown node": ({"node": "n9"}, "n9"),
    "no boot id": ({"boot_id": ""}, "boot id"),
    "negative requests": ({"usages": REPLICA, "served": (replace(SERVED, requests=-1),)}, "answered -1 requests"),
    "service time is NaN": ({"usages": REPLICA, "served": (replace(SERVED, service_s=math.nan),)}, "service time"),
    "negative items": ({"usages": REPLICA, "served": (replace(SERVED, items=-2),)}, "answered -2 items"),
    "negative sequence number": ({"seq": -1}, "seq"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_sample_is_refused_set_aside_and_holds_up_no_other(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change, message = REFUSED[name]
    store = MemoryStore()
    accounts = Accounts(store, Grid())
    batch = [sample(1), sample(**{"seq": 2, **change}), sample(3)]
    assert accounts.book_sound(batch, {"n1": NODE}, DIRECTORY, Spool(tmp_path / "rejected")) == 2
    assert re.search(message, caplog.text)
    assert len(list((tmp_path / "rejected").iterdir())) == 1
    assert store.verify_chain().ok
    assert store.node_energy()[0].energy_mj == 200_000


@pytest.mark.parametrize("values", [[100.0, math.nan, 1.0], [100.0, math.inf, 1.0], [100.0, -1.0, 1.0]])
def test_an_intensity_that_cannot_be_is_refused(values: list[float], caplog: pytest.LogCaptureFixture) -> None:
    grid = Grid(values_g_per_kwh=np.array(values))
    assert booked(sample(1, start_s=T0 + 3600, end_s=T0 + 3601), grid=grid) == []
    assert "intensity of interval 1 of node 'n1' is" in caplog.text


def test_a_pue_below_one_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    node = object.__new__(Node)
    for name in Node.__dataclass_fields__:
        object.__setattr__(node, name, 0.5 if name == "pue" else getattr(NODE, name))
    assert book(MemoryStore(), Grid(), [sample()], node) == 0
    assert "limit >= 1" in caplog.text


def test_what_is_odd_but_true_is_kept_with_a_flag() -> None:
    rows = booked(
        sample(1),
        sample(2, start_s=T0 + 1.5),  # overlaps the one before by half a second
        sample(3, start_s=T0 + 3, end_s=T0 + 3 + 86_401),
        sample(4, start_s=T0 - 7200, end_s=T0 - 7199, flags=("clock-jump",)),
    )
    assert [row["flags"] for row in rows] == [[], ["overlap"], ["long-interval"], ["clock-jump", "overlap"]]


def test_a_sample_that_is_sent_again_counts_once_and_is_not_flagged() -> None:
    rows = booked(sample(1), sample(2), sample(1), sample(2))
    assert [(row["seq"], row["flags"]) for row in rows] == [(1, []), (2, [])]


#: what JSON can hold and no ledger: found where a message is read, or else where it is counted
HUGE: dict[str, dict[str, Any]] = {
    "error": {"error_rel": 10**400},
    "start": {"start_s": -(10**400)},
    "end": {"end_s": 10**400},
    "energy": {"energy_mj": 10**30},
    "CPU time": {"usages": (Usage("job", "j", 1, 10**400),)},
    "attempt": {"usages": (Usage("job", "j", 10**30, 1.0),)},
    "reserved": {"usages": (Usage("job", "j", 1, 1.0, 10**5000),)},
    "GPU": {"gpus": (GpuSample("g", 1, 1, (GpuUse("job", "j", 1, 10**400),)),)},
    "not finite": {"system_cpu_s": math.inf},
    "no name of a file": {"boot_id": "a\0b"},
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_number_holds_up_no_other_sample(name: str, tmp_path: Path) -> None:
    store, spool = MemoryStore(), Spool(tmp_path)
    samples = [sample(1), sample(2, **HUGE[name]), sample(3)]
    sound = spool.sound([to_json(each) for each in samples])
    assert len(sound) == (3 if name == "no name of a file" else 2)
    assert len(list(tmp_path.glob("*.damaged"))) == 3 - len(sound)
    # what gets past the reader, e.g. from a file of an older life
    for batch in (sound, samples):
        Accounts(store, Grid()).book_sound(batch, {"n1": NODE}, DIRECTORY, spool)
        assert store.node_energy()[0].energy_mj == 200_000


DAMAGED: dict[str, Any] = {
    "a huge number": lambda text: text.replace('"cpu_s": 1.0', f'"cpu_s": {10**400}'),
    "a number that is not finite": lambda text: text.replace('"cpu_s": 1.0', '"cpu_s": Infinity'),
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "null": lambda text: "null",
    "text as energy": lambda text: text.replace('"energy_mj": 100000', '"energy_mj": "100000"'),
    "a float as energy": lambda text: text.replace('"energy_mj": 100000', '"energy_mj": 100000.5'),
    "true as a time": lambda text: text.replace('"end_s": ', '"end_s": true, "x": '),
    "null as a time": lambda text: text.replace(f'"start_s": {T0 + 1}', '"start_s": null'),
    "text as CPU time": lambda text: text.replace('"cpu_s": 1.0', '"cpu_s": "1.0"'),
    "a number as a flag": lambda text: text.replace('"flags": []', '"flags": [7]'),
    "unknown nature": lambda text: text.replace('"measured"', '"guessed"'),
    "a field too much": lambda text: text.replace('"seq"', '"extra": 1, "seq"'),
    "a field too few": lambda text: text.replace('"boot_id": "boot", ', ""),
    "text as a GPU's energy": lambda text: text.replace('"energy_mj": 8000', '"energy_mj": "8000"'),
    "a GPU that is text": lambda text: text.replace('"gpus": [', '"gpus": ["gpu-a", '),
    "bytes": lambda text: b"\xff\xfe\x00",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_of_the_spool_is_set_aside(name: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for seq in (1, 2):
        spool.put(sample(seq, gpus=GPUS))
    path = min(tmp_path.iterdir())
    before = path.read_text()
    after = DAMAGED[name](before)
    assert after != before
    path.write_bytes(after if isinstance(after, bytes) else after.encode())
    assert [kept.seq for kept in spool.load()] == [2]
    assert sum(file.suffix == ".damaged" for file in tmp_path.iterdir()) == 1
