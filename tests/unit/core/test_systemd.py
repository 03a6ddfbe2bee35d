"""The messages to the service manager, received on a real datagram socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from anvild.core.systemd import Systemd, inherited_sockets


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(5)
        yield path, sock


async def test_ready_carries_the_status(listener: tuple[str, socket.socket]) -> None:
    path, sock = listener
    await Systemd(path).ready("serving http://127.0.0.1:1\nand more")
    assert sock.recv(4096) == b"READY=1\nSTATUS=serving http://127.0.0.1:1 and more"


async def test_reload_and_stop(listener: tuple[str, socket.socket]) -> None:
    path, sock = listener
    systemd = Systemd(path)
    await systemd.reloading()
    await systemd.status("half way")
    await systemd.stopping()
    begun = dict(line.split("=") for line in sock.recv(4096).decode().splitlines())
    assert begun["RELOADING"] == "1"
    assert int(begun["MONOTONIC_USEC"]) > 0
    assert sock.recv(4096) == b"STATUS=half way"
    assert sock.recv(4096) == b"STOPPING=1\nSTATUS=stopping"


async def test_an_abstract_address() -> None:
    name = f"anvild-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.settimeout(5)
        await Systemd(f"@{name}").status("here")
        assert sock.recv(4096) == b"STATUS=here"


async def test_nobody_listens(tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "gone"))
    await systemd.ready("serving")
    assert systemd.address is None
    await systemd.ready("serving")


async def test_the_watchdog_is_petted_at_half_its_period(
    listener: tuple[str, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    path, sock = listener
    with trio.move_on_after(25):
        await Systemd(path, watchdog=20).keep_alive()
    assert [sock.recv(64) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(64)


async def test_no_watchdog_no_messages() -> None:
    await Systemd("/nowhere").keep_alive()


def test_the_environment_is_read() -> None:
    mine = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    assert (Systemd.from_environ(mine).address, Systemd.from_environ(mine).watchdog) == ("/n", 30.0)
    assert Systemd.from_environ({**mine, "WATCHDOG_PID": "1"}).watchdog is None
    assert Systemd.from_environ({}).address is None
    assert inherited_sockets({}) == []
    assert inherited_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []


PROGRAM = """
import os, sys
from anvild.core.systemd import inherited_sockets
environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
[sock] = inherited_sockets(environ)
assert not os.get_inheritable(sock.fileno())
print(sock.getsockname()[1])
"""


def test_an_inherited_socket_is_taken_over() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        shell = f'exec {sys.executable} -c "$0" 3<&{sock.fileno()}'
        done = subprocess.run(
            ["/bin/bash", "-c", shell, PROGRAM], pass_fds=[sock.fileno()], capture_output=True, check=True, text=True
        )
        assert int(done.stdout) == sock.getsockname()[1]
