"""A daemon that makes guests in QEMU, from an image that is built once a machine."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.daemon import Daemon

TOOLS = ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "busybox", "mke2fs")
IMAGE = "minimal"
BUILD_SECONDS = 900.0
CONFIG = """
[web]
requests_per_minute = 100000000
[capsules]
network_private = ["127.0.0.1/32"]
[drivers.sandbox]
enabled = false
"""

MakeGuestDaemon = Callable[..., Daemon]


def skip_without_guests() -> None:
    """Skip the test where no guests can be made."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if sys.platform != "linux" or missing:
        packages = "apt-get install qemu-system-x86 qemu-utils mmdebstrap busybox-static e2fsprogs lz4"
        pytest.skip(f"guests need Linux and: {packages} (missing here: {', '.join(missing) or 'Linux'})")


def lend_images(data_dir: Path, cache: str = "") -> None:
    """Let a data directory share the cache of images with the tests of the driver, or a part of it."""
    shared = Path(os.environ.get("ANVIL_TEST_CACHE") or Path.home() / ".cache" / "anvild") / cache
    shared.mkdir(parents=True, exist_ok=True)
    linked = data_dir / "cache" / "microvm"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(shared)


@pytest.fixture(scope="session")
def guest_daemon_factory(daemon_factory: Any) -> MakeGuestDaemon:
    """Make daemons with a first user and the image ``minimal``, or another one, not started. They share the cache of
    images with the tests of the driver, where a large image has a ``cache`` of its own below the one that all share."""
    skip_without_guests()

    def make(image: str = IMAGE, cache: str = "") -> Daemon:
        daemon: Daemon = daemon_factory(CONFIG)
        lend_images(daemon.data_dir, cache)
        daemon.anvil("image", "build", image, "--data-dir", str(daemon.data_dir), check=True, timeout=BUILD_SECONDS)
        daemon.bootstrap()
        return daemon

    return make


@pytest.fixture(scope="module")
def guest_daemon(guest_daemon_factory: MakeGuestDaemon) -> Daemon:
    """A daemon whose driver is ready, for the tests of one module."""
    daemon = guest_daemon_factory().start()
    daemon.wait_for_driver("microvm")
    return daemon


def make_guest(client: httpx2.Client, name: str = IMAGE) -> str:
    """Make a guest by hand and return its id."""
    made = client.post("/api/v1/devices/made", json={"driver": "microvm", "template": IMAGE, "name": name})
    assert made.status_code == 201, made.text
    identity: str = made.json()["device"]["id"]
    return identity


def guest_says(client: httpx2.Client, device: str, line: str) -> str:
    """Run a line of shell in a guest by hand and return what it printed; it must succeed."""
    done = client.post(f"/api/v1/devices/{device}/exec", json={"argv": ["sh", "-c", line]})
    assert done.status_code == 200, done.text
    answer = [json.loads(part) for part in done.text.splitlines()]
    assert answer[-1] == {"exit": {"code": 0, "signal": None}}, done.text
    return b"".join(base64.b64decode(part["data"]) for part in answer[:-1] if part["stream"] == "stdout").decode()


def guest_processes(data_dir: Path) -> list[int]:
    """The processes that work below a data directory: every guest's QEMU does."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                folder = (entry / "cwd").readlink()
            except OSError:
                continue  # it has just ended
            if folder.is_relative_to(data_dir.resolve()):
                found.append(int(entry.name))
    return found
