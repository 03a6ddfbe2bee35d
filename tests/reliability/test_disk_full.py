"""A full disk: writes are refused with 507, reading and cancelling work, and space brings everything back."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon

from .conftest import CONFIG, LEDGER

SIZE = 48 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB. Needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "anvild-test", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_said_and_survived(small_disk: Path, daemon_factory: Any) -> None:
    daemon: Daemon = daemon_factory(CONFIG.replace("[drivers.sandbox]", "[drivers.sandbox]\nenabled = false"))
    daemon.data_dir = small_disk / "data"
    daemon.log_path = small_disk.with_name("anvild.log")
    (daemon.data_dir / "pipelines").mkdir(parents=True)
    (daemon.data_dir / "pipelines" / "ledger.toml").write_text(LEDGER)
    daemon.bootstrap()
    daemon.start()
    ballast = small_disk / "ballast"
    with daemon.client() as client:
        # No driver makes a device here, so this one stays queued until it is cancelled.
        waiting = client.post("/api/v1/runs", json={"pipeline": "ledger"}).json()["run"]["id"]
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**20))
        refused = None
        for _ in range(2000):  # the log's own pages take some writes before they need new space
            answer = client.post("/api/v1/runs", json={"pipeline": "ledger", "metadata": {"text": "x" * 20_000}})
            if answer.status_code != 202:
                refused = answer
                break
        assert refused is not None
        assert refused.status_code == 507, refused.text
        assert refused.json()["error"]["code"] == "storage_full"
        assert client.get("/api/v1/runs").status_code == 200
        assert client.get("/healthz").status_code == 200
        ballast.unlink()
        answer = client.post("/api/v1/runs", json={"pipeline": "ledger"})
        assert answer.status_code == 202, answer.text
        cancelled = client.post(f"/api/v1/runs/{waiting}/cancel")
        assert cancelled.status_code in (200, 202), cancelled.text
        assert client.get(f"/api/v1/runs/{waiting}").json()["run"]["status"] == "cancelled"
    assert daemon.stop() == 0
