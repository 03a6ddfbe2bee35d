"""Control groups on hosts of either layout, in folders that look like theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from anvild_sandbox.cgroups import Group, Layout, Limits, Usage

LIMITS = Limits(vcpus=2, memory=2**28, processes=99)


def fill(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_version_2(tmp_path: Path) -> None:
    layout = Layout(second=tmp_path, second_controllers=frozenset({"memory", "cpu", "pids", "io"}))
    assert layout.missing == ()
    assert layout.can_freeze
    group = Group(layout, "box")
    group.create(LIMITS)
    group.add(7)
    folder = tmp_path / "box"
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found == {
        "memory.max": str(2**28),
        "memory.swap.max": "0",
        "cpu.max": "200000 100000",
        "pids.max": "99",
        "cgroup.procs": "7",
    }
    fill(folder, memory__current="5000", memory__stat="anon 1\ninactive_file 1000\n", cpu__stat="usage_usec 2500000\n")
    fill(folder, io__stat="8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n")
    assert group.usage() == Usage(cpu=2.5, memory=4000, read=11, written=22)
    assert group.processes() == [7]
    fill(folder, cgroup__freeze="0", cgroup__events="populated 1\nfrozen 1\n")
    assert not group.frozen()
    group.freeze()
    assert group.frozen()


def test_version_2_without_controllers_still_freezes(tmp_path: Path) -> None:
    layout = Layout(second=tmp_path)
    assert layout.missing == ("memory", "cpu", "pids")
    assert layout.can_freeze
    Group(layout, "box").create(LIMITS)
    assert list((tmp_path / "box").iterdir()) == []


def test_version_1(tmp_path: Path) -> None:
    names = ("memory", "cpu", "cpuacct", "pids", "blkio", "freezer")
    for name in names:
        (tmp_path / name).mkdir()
    layout = Layout(first={name: tmp_path / name for name in names})
    assert layout.missing == ()
    group = Group(layout, "box")
    group.create(LIMITS)
    assert (tmp_path / "memory/box/memory.limit_in_bytes").read_text() == str(2**28)
    assert (tmp_path / "cpu/box/cpu.cfs_quota_us").read_text() == "200000"
    assert (tmp_path / "pids/box/pids.max").read_text() == "99"
    fill(tmp_path / "memory/box", memory__usage_in_bytes="900", memory__stat="total_inactive_file 100\n")
    fill(tmp_path / "cpuacct/box", cpuacct__usage="1500000000")
    fill(tmp_path / "blkio/box", blkio__throttle__io_service_bytes="8:0 Read 5\n8:0 Write 6\n8:0 Sync 9\nTotal 11\n")
    assert group.usage() == Usage(cpu=1.5, memory=800, read=5, written=6)
    fill(tmp_path / "freezer/box", freezer__state="THAWED")
    group.freeze()
    assert group.frozen()
    group.thaw()
    assert not group.frozen()


def test_no_groups_at_all() -> None:
    layout = Layout()
    assert not layout.can_freeze
    group = Group(layout, "box")
    group.create(LIMITS)
    assert group.usage() == Usage(cpu=0.0, memory=0, read=0, written=0)
    assert group.processes() == []
    group.remove()


def test_a_freezer_that_does_not_obey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anvild_sandbox.cgroups.FREEZE_SECONDS", 0.02)
    group = Group(Layout(second=tmp_path), "box")
    group.create(LIMITS)
    fill(tmp_path / "box", cgroup__events="frozen 0\n")
    with pytest.raises(TimeoutError):
        group.freeze()
