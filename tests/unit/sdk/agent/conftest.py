"""A guest agent as a real child process, and connections to it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from anvild.sdk import DeviceFact, DeviceStatus
from anvild.sdk.agent import AgentSession, connect_agent, guest_archive

DEVICE = DeviceFact(identity="guest", platform="linux", name="guest", status=DeviceStatus.READY)


class Guest:
    """A running agent that listens on a unix socket."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.path = str(folder / "agent.sock")
        self.listener.bind(self.path)
        self.listener.listen(8)
        number = self.listener.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), "listen", str(number)], pass_fds=[number]
        )

    def memory(self) -> int:
        """The agent's resident bytes at their highest."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the agent has ended")

    async def channel(self) -> trio.SocketStream:
        peer = trio.socket.socket(trio.socket.AF_UNIX)
        await peer.connect(self.path)
        return trio.SocketStream(peer)

    def session(self) -> AbstractAsyncContextManager[AgentSession]:
        return self._session()

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[AgentSession]:
        async with connect_agent(await self.channel()) as agent:
            yield AgentSession(DEVICE, agent)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.close()


@pytest.fixture(scope="session")
def agent_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent as it is put into a device."""
    file = tmp_path_factory.mktemp("agent") / "agent.pyz"
    file.write_bytes(guest_archive())
    return file


@pytest.fixture
def guest(tmp_path: Path, agent_file: Path) -> Iterator[Guest]:
    running = Guest(tmp_path, agent_file)
    yield running
    running.close()


@pytest.fixture
async def session(guest: Guest) -> AsyncIterator[AgentSession]:
    async with guest.session() as opened:
        yield opened
