"""The wall clock jumps by a day, both ways: nothing that is held or runs ends early."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import EMAIL, PASSWORD, Daemon

from .conftest import CONFIG, LEDGER

LIBRARIES = [str(path) for path in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")]


@pytest.mark.skipif(sys.platform != "linux", reason="the clock of one process is moved by a Linux library")
def test_jumps_of_a_day_expire_nothing(tmp_path: Path, daemon_factory: Any) -> None:
    assert LIBRARIES, "libfaketime is not installed: make setup names what is missing"
    shift = tmp_path / "shift"
    shift.write_text("+0")
    daemon: Daemon = daemon_factory(
        CONFIG,
        environ={
            "LD_PRELOAD": LIBRARIES[0],
            "FAKETIME_TIMESTAMP_FILE": str(shift),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
    )
    (daemon.data_dir / "pipelines").mkdir(parents=True)
    (daemon.data_dir / "pipelines" / "ledger.toml").write_text(LEDGER)
    daemon.bootstrap()
    daemon.start()
    daemon.wait_for_driver("sandbox")
    with daemon.client() as client:
        made = client.post("/api/v1/devices/made", json={"driver": "sandbox", "template": "host"})
        assert made.status_code == 201, made.text
        device = made.json()["device"]["id"]
        for jump in ("+86400", "-86400", "+0"):
            run = client.post("/api/v1/runs", json={"pipeline": "ledger"}).json()["run"]["id"]
            shift.write_text(jump)
            answer = client.get("/readyz")
            assert answer.status_code == 200, answer.text
            assert daemon.wait_for(run)["run"]["status"] == "passed", f"jump {jump}\n{daemon.tail()}"
            done = client.post(f"/api/v1/devices/{device}/exec", json={"argv": ["true"]})
            assert done.status_code == 200, f"jump {jump}: {done.text}"
            assert '"code":0' in done.text.replace(" ", "")
        login = client.post("/api/v1/auth/session", json={"email": EMAIL, "password": PASSWORD})
        assert login.status_code in (200, 201, 204), login.text
        shift.write_text("+86400")
        daemon.kill()
        daemon.start()
    daemon.wait_for_driver("sandbox")
    with daemon.client() as client:
        done = client.post(f"/api/v1/devices/{device}/exec", json={"argv": ["true"]})
        assert done.status_code == 200, f"after a restart a day later: {done.text}"
        assert client.delete(f"/api/v1/devices/{device}").status_code == 204
    assert daemon.stop() == 0
