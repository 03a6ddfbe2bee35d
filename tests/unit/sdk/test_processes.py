"""Processes known again beyond doubt."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from anvild.sdk.processes import ProcessIdentity

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in Linux's /proc")


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child.pid
        child.kill()


def test_a_process_is_known_until_its_end(sleeper: int) -> None:
    identity = ProcessIdentity.of(sleeper)
    assert identity == ProcessIdentity.of(sleeper)
    assert identity.alive()
    descriptor = identity.open()
    identity.end(10)
    assert select.select([descriptor], [], [], 0)[0]
    os.close(descriptor)
    assert not identity.alive(), "it has ended, though nobody has taken its exit status"
    with pytest.raises(ProcessLookupError):
        ProcessIdentity.of(sleeper)
    identity.end(10)
    identity.reap()
    identity.reap()
    assert not Path(f"/proc/{sleeper}").exists()


@pytest.mark.parametrize("other", [{"boot": "another"}, {"started": 1}])
def test_another_process_with_the_same_number_is_left_alone(sleeper: int, other: dict[str, object]) -> None:
    identity = ProcessIdentity.of(sleeper)
    stranger = msgspec.structs.replace(identity, **other)
    assert not stranger.alive()
    stranger.end(10)
    stranger.reap()
    assert identity.alive()


def test_a_record_without_a_boot_is_of_any(sleeper: int) -> None:
    identity = ProcessIdentity.of(sleeper)
    old = msgspec.convert({"pid": identity.pid, "started": identity.started}, ProcessIdentity)
    assert old.alive()


def test_a_number_that_is_a_thread_s_by_now() -> None:
    numbers: list[int] = []
    known, over = threading.Event(), threading.Event()

    def wait() -> None:
        numbers.append(threading.get_native_id())
        known.set()
        over.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    known.wait()
    try:
        assert not ProcessIdentity(numbers[0], 1).alive()
    finally:
        over.set()
        thread.join()
