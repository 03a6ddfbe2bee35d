"""A session on a guest: exec, files and ports by the agent inside, power, pause and measurement by QEMU."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from anvild.sdk import Command, DeviceFact, Measure, Pause, Power, Sample
from anvild.sdk.agent import AgentClient, AgentConnection, AgentProcess, AgentSession

from .capsule import Capsule
from .measure import Meter

__all__ = ["MicrovmSession", "open_session"]

CLEAN_UP_SECONDS = 5.0


class MicrovmSession(AgentSession, Power, Pause, Measure):
    """A session on one guest. Several may be open; all share the one connection to the agent."""

    def __init__(self, device: DeviceFact, agent: AgentClient, capsule: Capsule) -> None:
        self._capsule = capsule
        super().__init__(device, agent)
        self._meter = Meter()
        self._begun: weakref.WeakSet[AgentProcess | AgentConnection] = weakref.WeakSet()

    @property
    def agent(self) -> AgentClient:
        """What the verbs of exec, files and ports go to. Raises WrongState while the guest is frozen."""
        self._capsule.refuse_frozen()
        return self._agent

    @agent.setter
    def agent(self, agent: AgentClient) -> None:
        self._agent = agent

    async def start(self, command: Command) -> AgentProcess:
        process = await super().start(command)
        if command.tag is None:
            self._begun.add(process)
        return process

    async def connect_port(self, port: int) -> AgentConnection:
        connection = await super().connect_port(port)
        self._begun.add(connection)
        return connection

    async def reboot(self) -> None:
        await self._capsule.reboot()
        self.agent = await self._capsule.agent()

    async def freeze(self) -> None:
        await self._capsule.freeze()

    async def thaw(self) -> None:
        await self._capsule.thaw()
        self.agent = await self._capsule.agent()

    async def sample(self) -> Sample:
        return await self._meter.sample(self._capsule.guest, self._capsule.folder / self._capsule.record.active)

    async def close(self) -> None:
        """End the processes without a tag that the session has started, and its connections."""
        with trio.move_on_after(CLEAN_UP_SECONDS, shield=True):
            for begun in list(self._begun):
                await begun.aclose()


@asynccontextmanager
async def open_session(capsule: Capsule) -> AsyncIterator[MicrovmSession]:
    """Open a session. Raises WrongState, DeviceLost, Unavailable."""
    session = MicrovmSession(capsule.fact, await capsule.agent(), capsule)
    try:
        yield session
    finally:
        await session.close()
