"""Unix sockets whose paths are longer than an address."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from anvild.sdk.sockets import connect_unix, listen_unix

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="addresses go by Linux's /proc")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_socket_with_a_long_path(tmp_path: Path) -> None:
    path = tmp_path / ("y" * 90) / "agent.sock"
    path.parent.mkdir()
    path.touch()
    before = open_files()
    with listen_unix(path) as listener:
        assert path.stat().st_mode & 0o777 == 0o600, "for its owner alone"
        async with await connect_unix(path) as here:
            there, _ = listener.accept()
            with there:
                await here.send_all(b"hello")
                assert there.recv(5) == b"hello"
    assert open_files() == before


async def test_nobody_listens(tmp_path: Path) -> None:
    before = open_files()
    with pytest.raises(FileNotFoundError):
        await connect_unix(tmp_path / "missing.sock")
    with pytest.raises(FileNotFoundError):
        listen_unix(tmp_path / "missing" / "agent.sock")
    assert open_files() == before
