"""The units, users and directories, judged by systemd's own tools. None of them needs a running systemd."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
PROGRAM = Path(sys.executable).with_name("anvild")
EXPOSURE_AT_MOST = 36
"""Tenths of systemd's exposure level. What stays open, and for whom, stands at the end of the unit."""

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(PACKAGING / "systemd/anvild.service")
    return parser


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as installed, with the program of this environment in the place of the package's."""
    for source in (PACKAGING / "systemd").iterdir():
        text = source.read_text().replace("/usr/bin/anvild", str(PROGRAM))
        (tmp_path / source.name).write_text(text)
    return tmp_path


@needs_analyze
def test_systemd_finds_no_fault(units: Path) -> None:
    output = run("systemd-analyze", "verify", "--recursive-errors=no", *sorted(units.iterdir()))
    assert "anvild" not in output, output


@needs_analyze
def test_systemd_does_find_a_fault(units: Path) -> None:
    service = units / "anvild.service"
    service.write_text(service.read_text().replace("Type=notify", "Type=notfy"))
    with pytest.raises(AssertionError, match="notfy"):
        run("systemd-analyze", "verify", "--recursive-errors=no", service)


@needs_analyze
def test_the_exposure_stays_where_it_is(units: Path) -> None:
    run(
        "systemd-analyze",
        "security",
        "--no-pager",
        "--offline=true",
        f"--threshold={EXPOSURE_AT_MOST}",
        units / "anvild.service",
    )


def test_guests_outlive_a_restart() -> None:
    service = unit()["Service"]
    assert service["KillMode"] == "process"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert service["RemoveIPC"] == "no"
    assert set(service["Delegate"].split()) == {"cpu", "io", "memory", "pids"}


def test_the_unit_keeps_the_start_up_contract() -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert float(service["WatchdogSec"]) >= 10
    assert service["ExecReload"].endswith("kill -HUP $MAINPID")
    assert (service["User"], service["StateDirectory"]) == ("anvild", "anvild")
    assert service["Environment"] == "ANVIL_DATA_DIR=/var/lib/anvild"


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_user_is_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    output = run("systemd-sysusers", "--dry-run", f"--root={tmp_path}", PACKAGING / "sysusers.d/anvild.conf")
    assert "Creating user 'anvild'" in output
    assert "Creating group 'kvm'" in output


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd-tmpfiles is not installed")
def test_the_configuration_directory_is_private(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (etc / "group").write_text("root:x:0:\nanvild:x:0:\n")
    run("systemd-tmpfiles", "--create", f"--root={tmp_path}", PACKAGING / "tmpfiles.d/anvild.conf")
    for directory in (etc / "anvild", etc / "anvild/conf.d"):
        assert directory.stat().st_mode & 0o7777 == 0o750
