"""``make demo``: its steps are the real commands; here without and with a hypervisor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon import environment
from tests.guests import MakeGuestDaemon


def demo(directory: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anvild.cli.demo"],
        env={**environment(), "ANVIL_DEMO_DIR": str(directory), **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def path_without_hypervisor(tmp_path: Path) -> str:
    """Every program of this machine but QEMU."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in os.get_exec_path():
        for program in Path(place).glob("*"):
            link = folder / program.name
            if not program.name.startswith("qemu") and not link.is_symlink():
                link.symlink_to(program)
    return str(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="sandboxes are made of Linux namespaces")
def test_without_a_hypervisor_a_sandbox_carries_the_guest(tmp_path: Path, path_without_hypervisor: str) -> None:
    done = demo(tmp_path / "demo", PATH=path_without_hypervisor)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the guest is a namespace sandbox" in done.stdout
    assert "12 of 12 steps passed" in done.stdout
    assert "the copy says: 6 x 7 = 42" in done.stdout
    assert "stopped cleanly" in done.stdout
    reports = [path.read_text() for path in (tmp_path / "demo" / "artifacts").rglob("report.html")]
    assert any("smoke: passed" in report for report in reports)
    assert any("app-tests: failed" in report for report in reports), "one test of the phone's app fails"


def test_with_a_hypervisor_a_real_guest_boots(tmp_path: Path, guest_daemon_factory: MakeGuestDaemon) -> None:
    shared = guest_daemon_factory().data_dir / "cache" / "microvm"
    cache = tmp_path / "demo" / "data" / "cache"
    cache.mkdir(parents=True)
    (cache / "microvm").symlink_to(shared.resolve())
    done = demo(tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 steps passed" in done.stdout
    assert "the copy says: 6 x 7 = 42" in done.stdout
    assert "microvm" in done.stdout


def test_a_failure_is_told_in_one_sentence(tmp_path: Path) -> None:
    """Without a driver there is nothing to build an image with: the first step fails, and the demo says which."""
    done = demo(tmp_path / "demo", ANVIL_PLUGINS_ALLOW="commands")
    assert done.returncode == 1
    assert "The demo failed: anvil image build ended with status" in done.stdout
