"""Fixtures that run the real daemon: the installed executables, on loopback, in a directory of their own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

BIN = Path(sys.executable).parent
EMAIL = "operator@example.org"
PASSWORD = "correct horse battery"
READY_SECONDS = 60.0

PHONES = ("android", "ios", "macos")
WITHOUT = "[drivers.{}]\nenabled = false\n"
"""A test that wants phones says so; the others need not start an adb server each."""


def environment() -> dict[str, str]:
    """The environment of the executables: an installed daemon keeps its compiled modules, so ours does too."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass
class Daemon:
    """One daemon that a test can start, stop and kill, over one data directory."""

    data_dir: Path
    config: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    wrapper: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    log_path: Path | None = None

    @property
    def log(self) -> Path:
        return self.log_path or self.data_dir.with_name(self.data_dir.name + ".log")

    def command(self, *args: str) -> list[str]:
        return [str(BIN / "anvild"), *args]

    def bootstrap(self, team: str = "Lab") -> dict[str, str]:
        """Make the first user; returns ids and keys."""
        done = self.anvil(
            "bootstrap",
            "--data-dir",
            str(self.data_dir),
            "--email",
            EMAIL,
            "--password",
            PASSWORD,
            "--team",
            team,
            "--json",
            check=True,
        )
        self.keys = json.loads(done.stdout)
        return self.keys

    def anvil(self, *args: str, check: bool = False, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the client against this daemon."""
        environ = {
            **environment(),
            **self.environ,
            "ANVIL_URL": self.url,
            "ANVIL_API_KEY": self.keys.get("live_key", ""),
        }
        done = subprocess.run(
            [str(BIN / "anvil"), *args], capture_output=True, text=True, timeout=timeout, env=environ, check=False
        )
        if check:
            assert done.returncode == 0, f"anvil {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self) -> Daemon:
        """Start and wait for the ready line. Raises AssertionError with the log when it does not come."""
        assert self.process is None
        self.data_dir.mkdir(parents=True, exist_ok=True)
        config = self.data_dir.with_name(self.data_dir.name + ".toml")
        config.write_text(self.config + "".join(WITHOUT.format(name) for name in PHONES if name not in self.config))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.wrapper,
                    *self.command(
                        "serve", "--config", str(config), "--data-dir", str(self.data_dir), "--listen", "127.0.0.1:0"
                    ),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**environment(), **self.environ},
            )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], READY_SECONDS)
        line = self.process.stdout.readline() if ready else b""
        assert line, f"the daemon did not become ready:\n{self.tail()}"
        message = json.loads(line)
        assert message["event"] == "ready"
        self.url = message["url"]
        return self

    def tail(self, size: int = 8000) -> str:
        return self.log.read_bytes()[-size:].decode(errors="replace") if self.log.exists() else ""

    def stop(self, timeout: float = 30) -> int:
        """End it gracefully and return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout)
        self._forget()
        return status

    def tidy(self) -> None:
        """Cancel what runs and destroy what was made: devices outlive the daemon, and shall not outlive a test."""
        with self.client() as client:
            for run in client.get("/api/v1/runs").json()["runs"]:
                if run["status"] in ("queued", "running"):
                    client.post(f"/api/v1/runs/{run['id']}/cancel")
                    self.wait_for(run["id"])
            for device in client.get("/api/v1/devices").json()["devices"]:
                client.delete(f"/api/v1/devices/{device['id']}")

    def kill(self) -> None:
        """Kill it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._forget()

    def _forget(self) -> None:
        assert self.process is not None
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    def client(self, **options: Any) -> httpx2.Client:
        """An HTTP client with the live key."""
        return httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.keys['live_key']}"}, timeout=30, **options
        )

    def wait_for(self, run_id: str, timeout: float = 60) -> dict[str, Any]:
        """Wait until a run has ended. A real daemon has a real clock, so this looks again and again."""
        until = time.monotonic() + timeout
        with self.client() as client:
            while True:
                answer = client.get(f"/api/v1/runs/{run_id}")
                answer.raise_for_status()
                found: dict[str, Any] = answer.json()
                if found["run"]["status"] in ("passed", "failed", "cancelled"):
                    return found
                assert time.monotonic() < until, f"run {run_id} is still {found['run']}\n{self.tail()}"
                time.sleep(0.05)

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """All events of an ended run; its stream closes after the last one."""
        found = []
        with self.client() as client, client.stream("GET", f"/api/v1/runs/{run_id}/events") as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    found.append(json.loads(line.removeprefix("data:")))
        return found

    def wait_for_driver(self, name: str, timeout: float = 60) -> None:
        """Wait until a driver can serve: drivers get ready behind the port."""
        until = time.monotonic() + timeout
        with self.client() as client:
            while True:
                found = {each["name"]: each for each in client.get("/api/v1/drivers").json()["drivers"]}
                if found[name]["health"] in ("healthy", "degraded"):
                    return
                assert time.monotonic() < until, f"{found[name]}\n{self.tail()}"
                time.sleep(0.05)


@pytest.fixture(scope="session")
def daemon_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Make daemons; each is ended at the end, whatever its test did."""
    with ExitStack() as stack:

        def make(config: str = "", **options: Any) -> Daemon:
            daemon = Daemon(tmp_path_factory.mktemp("daemon") / "data", config, **options)
            stack.callback(_end, daemon)
            return daemon

        yield make


def _end(daemon: Daemon) -> None:
    if daemon.process is None:
        return
    try:
        daemon.tidy()
        daemon.stop()
    finally:
        if daemon.process is not None:
            daemon.kill()


@pytest.fixture(scope="session")
def daemon(daemon_factory: Any) -> Daemon:
    """One running daemon with a first user, shared by the tests of a session."""
    made: Daemon = daemon_factory()
    made.bootstrap()
    return made.start()
