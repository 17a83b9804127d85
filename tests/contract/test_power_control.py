"""What every PowerControl promises, on devices in memory and on NVML's with a stand-in for the driver."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace

import pytest
from fake_nvml import FakeNvml

from eco_ray.core.ports import PowerControl, PowerDevice
from eco_ray.errors import EcoRayError, NotAllowedError, NotFoundError, UsageError
from eco_ray.power._journal import Lease, is_alive
from eco_ray.power.capping import JournalledControl, NvmlHardware
from eco_ray.power.memory_hardware import MemoryHardware

FIRST, SECOND = "GPU-a", "GPU-b"


class Node:
    """Two GPUs whose driver outlives the controls that are opened on it; the second cannot lock its clocks."""

    def __init__(self, kind: str, path, allowed: bool = True) -> None:
        self.journal = path / "power-journal.json"
        self.kind = kind
        gpus = [
            {"uuid": FIRST, "name": "H200", "limit_w": 650.0, "default_w": 700.0, "min_w": 200.0, "max_w": 700.0},
            {"uuid": SECOND, "name": "T4", "limit_w": 70.0, "default_w": 70.0, "min_w": 60.0, "max_w": 70.0},
        ]
        if kind == "nvml":
            gpus[0]["clocks_mhz"] = [1980, 1200, 345]
            self.driver = FakeNvml(*gpus, root=allowed)
        else:
            devices = [
                PowerDevice(
                    gpu["uuid"],
                    index,
                    gpu["name"],
                    gpu["limit_w"],
                    gpu["default_w"],
                    gpu["min_w"],
                    gpu["max_w"],
                    (345, 1980) if index == 0 else None,
                )
                for index, gpu in enumerate(gpus)
            ]
            self.driver = MemoryHardware(*devices, allowed=allowed)

    def open(self, boot_id: str = "boot-1") -> JournalledControl:
        hardware = NvmlHardware(self.driver) if self.kind == "nvml" else self.driver
        return JournalledControl(hardware, self.journal, boot_id=boot_id)

    def limit_w(self, device: str = FIRST) -> float:
        return next(gpu.limit_w for gpu in self.open().devices() if gpu.id == device)

    def locked_mhz(self, device: str = FIRST) -> tuple[int, int] | None:
        if self.kind == "nvml":
            locked = next(gpu for gpu in self.driver.gpus if gpu["uuid"] == device).get("locked")
            return locked and tuple(locked)
        return self.driver.locked_mhz.get(device)

    def entry_of_killed_owner(self, **entry) -> None:
        """What a process that is no longer there has left."""
        entry = {"limit_w": None, "clocks": False, "owner": "999999999:1", **entry}
        self.journal.write_text(json.dumps({"boot_id": "boot-1", "devices": {FIRST: entry}}))


@pytest.fixture(params=["memory", "nvml"])
def kind(request):
    return request.param


@pytest.fixture
def node(kind, tmp_path):
    return Node(kind, tmp_path)


def test_devices_tell_their_limits_and_clocks(node):
    control: PowerControl = node.open()
    assert control.name == node.kind
    first, second = control.devices()
    assert first == PowerDevice(FIRST, 0, "H200", 650, 700, 200, 700, (345, 1980))
    assert (second.id, second.clocks_mhz) == (SECOND, None)


def test_leaving_gives_back_what_was_before_and_nothing_else(node):
    with node.open() as control:
        control.set_limit(FIRST, 300)
        control.set_limit("0", 250)  # by index; what was before is what was before the first change
        control.lock_clocks(FIRST, 345, 1200)
        assert (node.limit_w(), node.locked_mhz()) == (250, (345, 1200))
        assert node.limit_w(SECOND) == 70
    assert (node.limit_w(), node.locked_mhz()) == (650, None)
    assert not node.journal.exists()


def cap_and(node: Node, then: Callable[[], object]) -> None:
    with node.open() as control:
        control.set_limit(FIRST, 300)
        assert node.limit_w() == 300
        then()


def test_an_error_gives_back_too(node):
    with pytest.raises(ZeroDivisionError):
        cap_and(node, lambda: 1 / 0)
    assert node.limit_w() == 650


def test_sigterm_gives_back(node):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as leaving:
        cap_and(node, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert leaving.value.code == 143
    assert node.limit_w() == 650
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_a_killed_owner_left_is_given_back_at_the_next_start(node):
    node.open().set_limit(FIRST, 300)
    node.open().lock_clocks(FIRST, 345, 1200)
    node.entry_of_killed_owner(limit_w=650, clocks=True)
    with node.open():
        assert (node.limit_w(), node.locked_mhz()) == (650, None)
        assert not node.journal.exists()


def test_the_journal_is_there_before_the_device_is_changed(node, monkeypatch):
    control = node.open()
    seen = []
    hardware = control._hardware
    monkeypatch.setattr(hardware, "set_limit", lambda *_: seen.append(json.loads(node.journal.read_text())))
    control.set_limit(FIRST, 300)
    assert seen[0]["devices"] == {FIRST: {"limit_w": 650, "clocks": False, "owner": None}}


def test_giving_back_twice_is_giving_back_once(node):
    control = node.open()
    control.set_limit(FIRST, 300)
    assert control.restore() == [FIRST]
    control.set_limit(SECOND, 60)
    assert control.restore() == [SECOND]
    assert control.restore() == []
    assert node.limit_w() == 650


def test_a_change_by_hand_stays_until_a_person_gives_it_back(node):
    node.open().set_limit(FIRST, 300)
    node.open().set_limit(FIRST, 350)
    with node.open() as control:
        assert node.limit_w() == 350
        with pytest.raises(NotAllowedError, match=r"was limited by hand.*eco-ray power restore"):
            control.set_limit(FIRST, 200)
    assert node.limit_w() == 350
    assert node.open().restore() == [FIRST]
    assert node.limit_w() == 650


def test_what_a_running_owner_holds_is_not_given_back_by_others(node):
    with node.open() as control:
        control.set_limit(FIRST, 300)
        by_hand = node.open()
        assert by_hand.restore() == []
        with pytest.raises(NotAllowedError, match=f"was limited by process {os.getpid()}"):
            by_hand.set_limit(FIRST, 400)
        assert node.limit_w() == 300


def test_journal_of_another_boot_is_dropped_and_touches_nothing(node):
    node.entry_of_killed_owner(limit_w=200)
    with node.open(boot_id="boot-2"):
        assert node.limit_w() == 650
    assert not node.journal.exists()


@pytest.mark.parametrize("watts", [199.9, 700.1, 0, -5, 1e9, math.nan, math.inf, -math.inf])
def test_watts_outside_the_range_are_refused_with_the_range(node, watts):
    with pytest.raises(UsageError, match=r"Power \S+ W is outside \[200, 700\] W of 'H200'.*its default is 700 W"):
        node.open().set_limit(FIRST, watts)
    assert node.limit_w() == 650
    assert not node.journal.exists()


@pytest.mark.parametrize(("low", "high"), [(100, 1200), (345, 3000), (1200, 345), (-1, -1)])
def test_clocks_outside_the_range_are_refused_with_the_range(node, low, high):
    with pytest.raises(UsageError, match=r"Clocks .* MHz are outside \[345, 1980\] MHz of 'H200'"):
        node.open().lock_clocks(FIRST, low, high)
    assert node.locked_mhz() is None
    assert not node.journal.exists()


def test_device_that_cannot_lock_its_clocks_says_so(node):
    with pytest.raises(EcoRayError, match=r"clocks of 'T4' .* cannot be locked: limit its power"):
        node.open().lock_clocks(SECOND, 345, 1200)


def test_unknown_device_names_the_known(node):
    with pytest.raises(NotFoundError, match=r"no GPU 'GPU-x'.*0 \(GPU-a\), 1 \(GPU-b\)"):
        node.open().set_limit("GPU-x", 300)


def test_without_privilege_it_is_refused_and_leaves_no_journal(kind, tmp_path):
    node = Node(kind, tmp_path, allowed=False)
    with node.open() as control:
        with pytest.raises(NotAllowedError, match=r"may only be set by root.*run this as root"):
            control.set_limit(FIRST, 300)
        with pytest.raises(NotAllowedError, match="root"):
            control.lock_clocks(FIRST, 345, 1200)
        assert not node.journal.exists()
    assert node.limit_w() == 650


def test_device_that_is_gone_stays_in_the_journal_for_the_next_try(node):
    node.open().set_limit(FIRST, 300)
    node.open().set_limit(SECOND, 60)
    away = Node(node.kind, node.journal.parent)
    if node.kind == "nvml":
        away.driver.gpus[0]["lost"] = True
    else:
        del away.driver._devices[FIRST]
    with pytest.raises(EcoRayError, match=r"1 device could not be given back.*eco-ray power restore"):
        away.open().restore()
    assert away.limit_w(SECOND) == 70
    assert node.open().restore() == [FIRST]
    assert node.limit_w() == 650


def test_start_that_cannot_undo_a_crash_says_so_and_holds_nothing(kind, tmp_path):
    node = Node(kind, tmp_path, allowed=False)
    node.entry_of_killed_owner(limit_w=650)
    with pytest.raises(EcoRayError, match=r"could not be given back, .* may only be set by root"), node.open():
        pass
    assert node.journal.exists()
    assert getattr(node.driver, "opened", 0) == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"boot_id": "boot-1"}', b'{"boot_id": 1, "devices": {}}'])
def test_damaged_journal_says_what_to_do(node, content):
    node.journal.write_bytes(content)
    with pytest.raises(EcoRayError, match=r"power-journal.json is damaged .*nvidia-smi"):
        node.open().set_limit(FIRST, 300)
    assert node.limit_w() == 650


@pytest.mark.parametrize("limit_w", ["NaN", "-1", '"much"', "1e999"])
def test_journal_with_an_impossible_value_is_damaged(node, limit_w):
    devices = f'{{"{FIRST}": {{"limit_w": {limit_w}, "clocks": false, "owner": null}}}}'
    node.journal.write_text(f'{{"boot_id": "boot-1", "devices": {devices}}}')
    with pytest.raises(EcoRayError, match="is damaged"):
        node.open().restore()
    assert node.limit_w() == 650


def test_folder_that_takes_no_journal_means_no_change(node):
    node.journal.parent.joinpath("file").write_text("")
    node.journal = node.journal.parent / "file" / "power-journal.json"
    with pytest.raises(NotAllowedError, match=r"without one nothing is changed"):
        node.open().set_limit(FIRST, 300)
    assert node.limit_w() == 650


def test_a_device_that_is_gone_keeps_no_other_from_use(tmp_path):
    """Of a killed owner; it stays in the journal until it is there again."""
    journal = tmp_path / "journal.json"
    first, second = (PowerDevice(f"GPU-{n}", n, "x", 300.0, 300.0, 100.0, 400.0, None) for n in (0, 1))
    killed = JournalledControl(MemoryHardware(first, second), journal)
    killed._owner = "999999:1"
    killed.set_limit("0", 200.0)
    left = MemoryHardware(second)
    for _ in range(2):
        with JournalledControl(left, journal) as control:
            control.set_limit("1", 150.0)
            assert left.devices()[0].limit_w == 150.0
        assert left.devices()[0].limit_w == 300.0
    with pytest.raises(EcoRayError, match="GPU-0"):
        JournalledControl(left, journal).restore()
    back = MemoryHardware(replace(first, limit_w=200.0), second)
    assert list(JournalledControl(back, journal).restore()) == ["GPU-0"]
    assert back.devices()[0].limit_w == 300.0
    assert not journal.exists()


def test_an_owner_is_alive_as_long_as_its_lease_is_held_whatever_its_process_id_means(tmp_path):
    """In a container of its own the owner is process 1."""
    journal = tmp_path / "journal.json"
    lease = Lease(journal)
    assert is_alive(journal, lease.owner)
    os.close(lease._file)  # as the kernel does when the process is killed
    assert not is_alive(journal, lease.owner)
    assert list(tmp_path.iterdir()) == []
