# ruff: noqa: ASYNC240 - a test may touch small files while nothing else waits for its loop
"""What the driver does with its host: accelerator, processes, files."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import pytest
import trio

from anvild.sdk import Unavailable
from anvild.sdk.processes import ProcessIdentity
from anvild_microvm import accelerator
from anvild_microvm.accelerator import Probe, choose_accelerator, judge, obstacle
from anvild_microvm.files import allocated, copy_sparse, link, new_sparse, remove_tree, scratch, write_atomic
from anvild_microvm.measure import private_memory
from anvild_microvm.process import (
    Account,
    Hypervisor,
    end_processes,
    guest_account,
    processes_in,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="guests run on Linux hosts")

OWN = Account("me", os.geteuid(), os.getegid(), True)


# the accelerator


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (Probe(0.8, None), None),
        (Probe(19.9, None), None),
        (Probe(300.0, None), "15× too slowly"),
        (Probe(0.1, "it gave a wrong result"), "wrong result"),
        (None, "did not finish the probe within 2 s"),
    ],
)
def test_the_probe_is_judged_by_speed_and_result(probe: Probe | None, words: str | None) -> None:
    verdict = judge(probe)
    assert verdict is None if words is None else words in (verdict or "")


def test_cheap_signs_spare_the_probe(tmp_path: Path) -> None:
    kvm, cpuinfo = tmp_path / "kvm", tmp_path / "cpuinfo"
    assert obstacle(kvm, cpuinfo) == "the host has no /dev/kvm"
    kvm.touch()
    cpuinfo.write_text("flags\t\t: fpu sse2\n")
    assert "neither vmx nor svm" in (obstacle(kvm, cpuinfo) or "")
    cpuinfo.write_text("flags\t\t: fpu vmx sse2\n")
    assert obstacle(kvm, cpuinfo) is None


@pytest.fixture
def probe_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "probe.py"
    monkeypatch.setattr(accelerator, "PROBE", program)
    monkeypatch.setattr(accelerator, "obstacle", lambda: None)
    return program


async def test_a_probe_that_passes_gives_kvm(probe_program: Path) -> None:
    probe_program.write_text('print(\'{"milliseconds": 0.9, "fault": null}\')')
    assert (await choose_accelerator("auto")).name == "kvm"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ('print(\'{"milliseconds": 400.0, "fault": null}\')', "20× too slowly"),
        ("print('no json')", "fails the probe"),
        ("import os; os.abort()", "fails the probe"),
    ],
)
async def test_a_probe_that_fails_gives_emulation_and_never_kvm(probe_program: Path, program: str, words: str) -> None:
    probe_program.write_text(program)
    chosen = await choose_accelerator("auto")
    assert chosen.name == "tcg"
    assert words in chosen.reason
    forced = await choose_accelerator("kvm")
    assert not forced.wanted, "the setting cannot force a guest onto a bad KVM"


async def test_a_probe_that_hangs_is_ended(
    probe_program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "PROBE_SECONDS", 0.3)
    note = tmp_path / "pid"
    probe_program.write_text(f"import os,time\nopen({str(note)!r},'w').write(str(os.getpid()))\ntime.sleep(60)")
    chosen = await choose_accelerator("auto")
    assert "did not finish" in chosen.reason
    if note.exists():
        with pytest.raises(ProcessLookupError):
            ProcessIdentity.of(int(note.read_text()))


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="this host has no /dev/kvm")
async def test_the_real_probe_comes_to_a_verdict() -> None:
    probe = await accelerator.run_probe()
    assert probe is None or probe.fault is not None or probe.milliseconds > 0


# processes


async def test_a_process_is_known_again_and_ended(tmp_path: Path) -> None:
    hypervisor = Hypervisor.spawn(["sleep", "60"], folder=tmp_path, account=OWN, inherit=(), log=tmp_path / "log")
    assert processes_in(tmp_path) == [hypervisor.identity]
    again = Hypervisor.adopt(hypervisor.identity)
    assert again is not None
    assert Hypervisor.adopt(ProcessIdentity(hypervisor.pid, hypervisor.identity.started + 1)) is None, "another one"
    await again.kill()
    again.close()
    assert Hypervisor.adopt(hypervisor.identity) is None
    hypervisor.close()
    hypervisor.close()


async def test_whatever_stands_in_a_folder_is_ended(tmp_path: Path) -> None:
    one = Hypervisor.spawn(["sleep", "60"], folder=tmp_path, account=OWN, inherit=(), log=tmp_path / "log")
    one.close()
    await end_processes(tmp_path)
    assert processes_in(tmp_path) == []


async def test_its_own_end_is_noticed(tmp_path: Path) -> None:
    one = Hypervisor.spawn(["true"], folder=tmp_path, account=OWN, inherit=(), log=tmp_path / "log")
    with trio.fail_after(60):
        await one.wait()
    one.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a process as another user")
async def test_root_starts_guests_as_somebody_else(tmp_path: Path) -> None:
    account = guest_account(None)
    assert account.uid != 0
    one = Hypervisor.spawn(["sleep", "60"], folder=tmp_path, account=account, inherit=(), log=tmp_path / "log")
    status = Path(f"/proc/{one.pid}/status").read_text()
    assert f"Uid:\t{account.uid}\t{account.uid}" in status
    assert "Groups:\t \n" in status or "Groups:\t\n" in status
    await one.kill()
    one.close()


def test_a_user_that_is_not_there_is_named() -> None:
    with pytest.raises(Unavailable, match="no-such-user"):
        guest_account("no-such-user")


# files


def test_holes_stay_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    new_sparse(source, 64 * 2**20)
    with source.open("r+b") as file:
        for offset in (0, 10 * 2**20, 64 * 2**20 - 4096):
            file.seek(offset)
            file.write(os.urandom(4096))
    copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert allocated(target) <= allocated(source) + 2**20


def test_a_link_replaces_and_counts(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("new")
    two.write_text("old")
    link(one, two)
    assert two.samefile(one)


def test_an_atomic_write_leaves_the_old_content_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


async def test_a_scratch_folder_vanishes_even_when_cancelled(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with scratch(tmp_path) as work:
            (work / "file").touch()
            scope.cancel()
            await trio.sleep_forever()
    assert list(tmp_path.iterdir()) == []
    remove_tree(tmp_path / "missing")


# what guests use


def test_memory_that_is_shared_with_no_other_process_is_counted() -> None:
    with mmap.mmap(-1, 2**24, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        before = private_memory(os.getpid())
        for page in range(0, 2**24, mmap.PAGESIZE):
            memory[page] = 1
        assert private_memory(os.getpid()) - before > 2**23
