"""``anvild`` where it cannot serve, and what it says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

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


def test_a_data_directory_in_use(lab: Daemon) -> None:
    done = serve("--data-dir", lab.data_dir, "--listen", "127.0.0.1:0")
    assert done.returncode == 6
    assert str(lab.data_dir) in json.loads(done.stderr.splitlines()[-1])["reason"]


def test_a_port_in_use(lab: Daemon, tmp_path: Path) -> None:
    port = lab.url.removeprefix("http://")
    done = serve("--data-dir", tmp_path / "data", "--listen", port)
    assert done.returncode == 6
    assert port in json.loads(done.stderr.splitlines()[-1])["reason"]


def test_the_daemon_of_this_machine_is_found(
    anvil: Callable[..., subprocess.CompletedProcess[str]], lab: Daemon
) -> None:
    done = anvil("runs", ANVIL_URL="", ANVIL_DATA_DIR=str(lab.data_dir))
    assert done.returncode == 0, done.stderr


def test_version_and_check() -> None:
    shown = subprocess.run([BIN / "anvild", "version"], capture_output=True, text=True, check=True).stdout
    assert shown.strip()
    assert subprocess.run([BIN / "anvild", "--version"], capture_output=True, text=True, check=True).stdout == shown
