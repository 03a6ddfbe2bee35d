"""Control groups on hosts of every layout, in folders that look like theirs, and on this very host."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anvild.sdk.cgroups import Group, Layout, Limits, Usage, find_layout

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")

LIMITS = Limits(memory=2**28, processors=1.5, processes=99)


def fill(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


# a group in a layout


def test_version_2(tmp_path: Path) -> None:
    layout = Layout(second=tmp_path, second_controllers=frozenset({"memory", "cpu", "pids", "io"}))
    assert layout.missing == {}
    assert layout.can_freeze
    group = Group(layout, "box")
    group.create(LIMITS)
    group.add(7)
    folder = tmp_path / "box"
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found == {
        "memory.max": str(2**28),
        "memory.swap.max": "0",
        "cpu.max": "150000 100000",
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
    assert tuple(layout.missing) == ("memory", "cpu", "pids")
    assert layout.can_freeze
    Group(layout, "box").create(LIMITS)
    assert list((tmp_path / "box").iterdir()) == []


def test_version_1(tmp_path: Path) -> None:
    names = ("memory", "cpu", "cpuacct", "pids", "blkio", "freezer")
    for name in names:
        (tmp_path / name).mkdir()
    layout = Layout(first={name: tmp_path / name for name in names})
    assert layout.missing == {}
    group = Group(layout, "box")
    group.create(LIMITS)
    assert (tmp_path / "memory/box/memory.limit_in_bytes").read_text() == str(2**28)
    assert (tmp_path / "cpu/box/cpu.cfs_quota_us").read_text() == "150000"
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


def test_a_hybrid_host_limits_in_one_version_and_freezes_in_the_other(tmp_path: Path) -> None:
    for name in ("memory", "unified"):
        (tmp_path / name).mkdir()
    layout = Layout(first={"memory": tmp_path / "memory"}, second=tmp_path / "unified")
    group = Group(layout, "box")
    group.create(LIMITS)
    assert (tmp_path / "memory/box/memory.limit_in_bytes").read_text() == str(2**28)
    fill(tmp_path / "unified/box", cgroup__events="frozen 1\n")
    group.freeze()
    assert group.frozen()


def test_no_groups_at_all() -> None:
    layout = Layout()
    assert not layout.can_freeze
    group = Group(layout, "box")
    group.create(LIMITS)
    assert group.place(7, LIMITS).missing[0] == "memory: the host offers no such controller here"
    assert group.usage() == Usage(cpu=0.0, memory=0, read=0, written=0)
    assert group.processes() == []
    group.remove()


def test_a_freezer_that_does_not_obey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anvild.sdk.cgroups.FREEZE_SECONDS", 0.02)
    group = Group(Layout(second=tmp_path), "box")
    group.create(LIMITS)
    fill(tmp_path / "box", cgroup__events="frozen 0\n")
    with pytest.raises(TimeoutError):
        group.freeze()


def test_a_limit_that_the_host_refuses_is_an_error_or_told_in_words(tmp_path: Path) -> None:
    for name in ("memory", "cpu"):
        (tmp_path / name).mkdir()
    group = Group(Layout(first={"memory": tmp_path / "memory", "cpu": tmp_path / "cpu"}), "box")
    (tmp_path / "cpu/box/cpu.cfs_quota_us").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        group.create(LIMITS)
    placed = group.place(42, LIMITS)
    assert placed.missing == ("pids: the host offers no such controller here", "cpu: Is a directory")
    assert placed.folders == (str(tmp_path / "memory/box"), str(tmp_path / "cpu/box"))
    assert (tmp_path / "memory/box/cgroup.procs").read_text() == "42"


def test_swap_that_the_kernel_does_not_count_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "box/memory.swap.max").mkdir(parents=True)
    group = Group(Layout(second=tmp_path, second_controllers=frozenset({"memory"})), "box")
    group.create(LIMITS)
    assert (tmp_path / "box/memory.max").read_text() == str(2**28)


def test_groups_of_an_earlier_daemon_go_with_the_group(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there/box"
    for folder in (here, there):
        folder.mkdir(parents=True)
    group = Group(Layout(second=here), "box")
    group.create(LIMITS)
    group.remove([str(there), str(tmp_path / "missing")])
    assert list(here.iterdir()) == []
    assert not there.exists()


def test_a_folder_that_stays_is_told_and_holds_up_no_other(tmp_path: Path) -> None:
    group = Group(Layout(second=tmp_path / "own"), "box")
    (tmp_path / "own/box/inner").mkdir(parents=True)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(OSError) as failure:  # noqa: PT011 - the number says it
        group.remove([other])
    assert failure.value.errno == errno.ENOTEMPTY
    assert not other.exists()


# where groups can be made


def host(root: Path, mounts: dict[str, str], own: str, mount_root: str = "/") -> Path:
    """Make what a process learns of its host: mount points by controller, version 2 under the empty name."""
    proc = root / "proc"
    (proc / "self").mkdir(parents=True)
    lines = ["22 1 0:20 / /proc rw shared:5 - proc proc rw"]
    for name, place in mounts.items():
        kind, options = ("cgroup", f"rw,{name}") if name else ("cgroup2", "rw,nsdelegate")
        lines.append(f"30 22 0:29 {mount_root} {root / place} rw,relatime shared:9 - {kind} {kind} {options}")
    (proc / "self/mountinfo").write_text("\n".join(lines) + "\n")
    (proc / "self/cgroup").write_text(own)
    return proc


def base(folder: Path, offered: str = "", enabled: str = "") -> Path:
    """Make a group of version 2."""
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text(offered)
    (folder / "cgroup.subtree_control").write_text(enabled)
    return folder


def test_version_1_by_controller(tmp_path: Path) -> None:
    proc = host(
        tmp_path,
        {name: name for name in ("memory", "cpu", "name=systemd")},
        "4:memory:/lab\n3:cpu:/\n2:pids:/\n1:name=systemd:/\n",
    )
    for name in ("memory/lab", "cpu"):
        (tmp_path / name).mkdir(parents=True)
    layout = find_layout("ours", proc)
    assert layout.first == {"memory": tmp_path / "memory/lab/ours", "cpu": tmp_path / "cpu/ours"}
    assert layout.second is None
    assert layout.missing == {"pids": "the host offers no such controller here"}
    layout.tidy()
    assert not (tmp_path / "cpu/ours").exists()


@pytest.mark.parametrize("own", ["/lab.slice/daemon", "/lab.service/daemon", "/lab.service/main", "/lab.slice"])
def test_version_2_beside_the_leaf_of_the_daemon(tmp_path: Path, own: str) -> None:
    group = base(tmp_path / "all" / own.split("/")[1], "cpuset cpu io memory pids", "memory pids cpu io")
    (tmp_path / f"all{own}").mkdir(exist_ok=True)
    base(group / "ours", "cpu io memory pids", "memory pids cpu io")
    layout = find_layout("ours", host(tmp_path, {"": "all"}, f"0::{own}\n"))
    assert layout.second == group / "ours"
    assert layout.second_controllers == {"cpu", "io", "memory", "pids"}
    assert layout.missing == {}


def test_version_2_hands_down_what_is_offered_and_says_what_is_refused(tmp_path: Path) -> None:
    group = base(tmp_path / "all", "memory pids", "memory")
    base(group / "ours", "memory", "memory")
    (group / "ours/cgroup.subtree_control").chmod(0o600)
    (group / "cgroup.subtree_control").unlink()
    (group / "cgroup.subtree_control").mkdir()
    layout = find_layout("ours", host(tmp_path, {"": "all"}, "0::/\n"))
    assert layout.second_controllers == frozenset()
    assert layout.missing == {
        "memory": f"{group} does not hand it down: Is a directory",
        "cpu": "the host offers no such controller here",
        "pids": f"{group} does not hand it down: Is a directory",
    }


def test_a_mount_that_shows_a_part_of_the_hierarchy(tmp_path: Path) -> None:
    """As in a container without a namespace for control groups."""
    (tmp_path / "memory/inner").mkdir(parents=True)
    proc = host(tmp_path, {"memory": "memory"}, "4:memory:/box/17/inner\n", mount_root="/box/17")
    assert find_layout("ours", proc).first == {"memory": tmp_path / "memory/inner/ours"}


def test_a_hierarchy_without_the_daemon_s_group_is_left_out_in_words(tmp_path: Path) -> None:
    proc = host(tmp_path, {"memory": "memory", "": "all"}, "4:memory:/\n0::/gone\n")
    layout = find_layout("ours", proc)
    assert layout.folders == ()
    assert layout.missing == {
        "memory": f"no group can be made in {tmp_path}/memory: No such file or directory",
        "cpu": f"no group can be made in {tmp_path}/all/gone: No such file or directory",
        "pids": f"no group can be made in {tmp_path}/all/gone: No such file or directory",
    }


def test_folders_that_another_process_has_tidied_away_come_back(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    layout = find_layout("ours", host(tmp_path, {"cpu": "cpu"}, "3:cpu:/\n"))
    layout.tidy()
    Group(layout, "box").create(LIMITS)
    assert (tmp_path / "cpu/ours/box/cpu.cfs_quota_us").read_text() == "150000"


# this host


def test_a_real_process_is_put_into_real_groups_and_they_vanish() -> None:
    layout = find_layout(f"anvil-test-{os.getpid()}")
    group = Group(layout, "sleeper")
    with subprocess.Popen(["sleep", "60"]) as child:
        placed = group.place(child.pid, Limits(memory=2**26, processors=0.5, processes=16))
        try:
            if not placed.folders:
                pytest.skip(f"no control group can be made here: {'; '.join(placed.missing)}")
            for folder in placed.folders:
                assert str(child.pid) in Path(folder, "cgroup.procs").read_text().split()
        finally:
            child.kill()
            child.wait()
            group.remove(placed.folders)
            layout.tidy()
    assert not any(folder.exists() for folder in (*map(Path, placed.folders), *layout.folders))
