"""``anvild`` where it cannot serve, and what it says."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.daemon import BIN, Daemon


def serve(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "anvild", "serve", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_wrong_configuration(tmp_path: Path) -> None:
    config = tmp_path / "anvild.toml"
    config.write_text("[web]\nmax_body = 1\n")
    done = serve("--config", config, "--data-dir", tmp_path / "data")
    last = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, done.stdout) == (2, "")
    assert (last["event"], last["level"]) == ("cannot_serve", "error")
    assert "web.max_body" in last["reason"]
    assert not (tmp_path / "data").exists()


def test_a_driver_with_the_name_of_the_helpers_own(tmp_path: Path) -> None:
    drivers = tmp_path / "conf.d/drivers"
    drivers.mkdir(parents=True)
    (drivers / "lamp.py").write_text(
        "from anvild.sdk import Driver, hookimpl\n\nANVIL_API = '1.0'\n\n\nclass Lamp(Driver):\n    name = 'helper'\n"
        "\n\n@hookimpl\ndef anvil_drivers():\n    return [Lamp]\n"
    )
    config = tmp_path / "anvild.toml"
    config.touch()
    done = serve("--config", config, "--data-dir", tmp_path / "data", "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert "drivers.helper" in json.loads(done.stderr.splitlines()[-1])["reason"]


def test_a_data_directory_in_use(lab: Daemon) -> None:
    done = serve("--data-dir", lab.data_dir, "--listen", "127.0.0.1:0")
    assert done.returncode == 6
    assert str(lab.data_dir) in json.loads(done.stderr.splitlines()[-1])["reason"]


def test_a_port_in_use(lab: Daemon, tmp_path: Path) -> None:
    port = lab.url.removeprefix("http://")
    done = serve("--data-dir", tmp_path / "data", "--listen", port)
    assert done.returncode == 6
    assert port in json.loads(done.stderr.splitlines()[-1])["reason"]


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd is not installed")
def test_a_port_that_systemd_holds(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", BIN / "anvild", "serve", "--data-dir", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.readline()  # it listens
        assert httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=60).status_code == 200
        assert json.loads(process.stdout.readline())["url"] == f"http://127.0.0.1:{port}"
        process.terminate()
        assert process.wait(60) == 0


def test_systemd_is_told(daemon_factory: Callable[..., Daemon], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3600000000"}
        service = daemon_factory("[drivers.microvm]\nenabled = false\n", environ=environ).start()
        told = {systemd.recv(4096).split(b"\n")[0] for _ in range(2)}
        assert told == {b"READY=1", b"WATCHDOG=1"}
        assert service.process is not None
        service.process.send_signal(signal.SIGHUP)
        assert systemd.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert systemd.recv(4096).startswith(b"READY=1")
        assert service.stop() == 0
        assert systemd.recv(4096).startswith(b"STOPPING=1")


def test_the_daemon_of_this_machine_is_found(
    anvil: Callable[..., subprocess.CompletedProcess[str]], lab: Daemon
) -> None:
    done = anvil("runs", ANVIL_URL="", ANVIL_DATA_DIR=str(lab.data_dir))
    assert done.returncode == 0, done.stderr


def test_version_and_check() -> None:
    shown = subprocess.run([BIN / "anvild", "version"], capture_output=True, text=True, check=True).stdout
    assert shown.strip()
    assert subprocess.run([BIN / "anvild", "--version"], capture_output=True, text=True, check=True).stdout == shown
