"""The published SDK in an environment of its own, and daemons that it is driven against."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.guests import MakeGuestDaemon

SDK = "wrenn==0.3.0"
PYTHON = "3.13"
"""The oldest Python that the SDK takes."""

HERE = Path(__file__).parent
INSTALL_SECONDS = 300.0
DRIVE_SECONDS = 240.0
PORTS = {"ANVIL_CAPSULES_PROXY_DOMAIN": "localhost"}
SANDBOXES = """
[web]
requests_per_minute = 100000000
[drivers.microvm]
enabled = false
[drivers.sandbox]
slots = 3
"""

Drive = Callable[..., frozenset[str]]


def find_python() -> str | None:
    """Return a Python that the SDK runs on; None where there is none."""
    if sys.version_info[:2] >= (3, 13):
        return sys.executable
    if uv := shutil.which("uv"):
        found = subprocess.run([uv, "python", "find", "--no-python-downloads", PYTHON], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip()
    beside = Path(sys.base_prefix).parent  # where a version manager keeps this Python it keeps others
    candidates = [*map(str, sorted(beside.glob(f"{PYTHON}*/bin/python"))), shutil.which(f"python{PYTHON}")]
    return next((each for each in candidates if each), None)


@pytest.fixture(scope="session")
def sdk_python() -> Path:
    """The Python of an environment in which the SDK is installed, kept for the next run."""
    python = find_python()
    if python is None:
        pytest.skip(f"{SDK} needs Python {PYTHON}: apt-get install python{PYTHON}-venv, or uv python install {PYTHON}")
    cache = Path(os.environ.get("ANVIL_TEST_CACHE") or Path.home() / ".cache" / "anvild")
    whole = cache / f"{SDK.replace('==', '-')}-python{PYTHON}"
    if _runs(whole / "bin/python"):
        return whole / "bin/python"
    shutil.rmtree(whole, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="sdk-", dir=cache))
    for command in _installation(python, made):
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        if done.returncode:
            shutil.rmtree(made)
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"pip install {SDK} does not work here: {last}")
    try:
        made.rename(whole)
    except OSError:  # another run has made it meanwhile
        shutil.rmtree(made)
    return whole / "bin/python"


def _installation(python: str, folder: Path) -> list[list[str]]:
    """The commands that make the environment."""
    inner = str(folder / "bin/python")
    if uv := shutil.which("uv"):
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", inner, SDK]
        return [[uv, "venv", "--quiet", "--allow-existing", "--python", python, str(folder)], install]
    return [[python, "-m", "venv", str(folder)], [inner, "-m", "pip", "install", "--quiet", SDK]]


def _runs(python: Path) -> bool:
    """Whether an environment still works: the Python that it was made of may have gone."""
    tried = [python, "-W", "ignore", "-c", "import wrenn"]
    return python.exists() and subprocess.run(tried, check=False, capture_output=True).returncode == 0


def driver_of(daemon: Daemon, sdk_python: Path) -> Drive:
    """Return how programs with the SDK are run against a daemon."""

    def drive(kind: str, *words: str) -> frozenset[str]:
        """Run a program with one of the SDK's clients, and return the names of the public methods that it called."""
        environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        done = subprocess.run(
            [sdk_python, "-I", "-B", HERE / "start.py", kind, *words],
            capture_output=True,
            text=True,
            timeout=DRIVE_SECONDS,
            env={
                **environ,
                "WRENN_BASE_URL": daemon.url,
                "WRENN_API_KEY": daemon.keys["api_key"],
                "WRENN_PROXY_DOMAIN": f"localhost:{daemon.url.rpartition(':')[2]}",
            },
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{daemon.tail()}"
        return frozenset(json.loads(done.stdout))

    return drive


@pytest.fixture(scope="session")
def sandboxes(daemon_factory: Any, sdk_python: Path) -> Drive:
    """Drives the SDK against a daemon whose capsules are namespace sandboxes."""
    daemon = daemon_factory(SANDBOXES, environ=PORTS)
    daemon.bootstrap()
    daemon.start()
    daemon.wait_for_driver("sandbox")
    return driver_of(daemon, sdk_python)


@pytest.fixture(scope="session")
def machines(guest_daemon_factory: MakeGuestDaemon, sdk_python: Path) -> Drive:
    """Drives the SDK against a daemon whose capsules are machines."""
    return driver_of(with_ports(guest_daemon_factory()), sdk_python)


@pytest.fixture(scope="session")
def code_runners(guest_daemon_factory: MakeGuestDaemon, sdk_python: Path) -> Drive:
    """Drives the SDK against a daemon that has the image of the code runner."""
    return driver_of(with_ports(guest_daemon_factory("code-runner-beta", cache="code-runner")), sdk_python)


def with_ports(daemon: Daemon) -> Daemon:
    """Start a daemon of guests that serves their ports."""
    daemon.environ = PORTS
    daemon.start()
    daemon.wait_for_driver("microvm")
    return daemon
