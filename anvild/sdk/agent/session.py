"""The verbs of exec, files and ports for sessions of devices that have a guest agent."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence

import msgspec
import trio

from ..apps import Ports
from ..capabilities import Exec, Files
from ..driver import Session
from ..errors import DriverFault, InvalidArgument
from ..values import Command, DeviceFact, Entry, EntryType, ProcessInfo, check_absolute
from .client import AgentClient, AgentStream, checked
from .connection import AgentConnection, open_connection
from .process import AgentProcess, begin
from .protocol import Close, Packed


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    path: str
    type: EntryType
    size: int
    mode: int
    modified: float
    owner: str
    group: str
    target: str | None

    def told(self) -> Entry:
        return Entry(name=posixpath.basename(self.path.rstrip("/")) or "/", **msgspec.structs.asdict(self))


class _Process(msgspec.Struct, frozen=True, array_like=True):
    pid: int
    parent: int
    command: str
    user: str
    tag: str | None


class _Size(msgspec.Struct, frozen=True):
    size: int


class AgentFile(trio.abc.ReceiveStream):
    """A file of a guest that is being read."""

    def __init__(self, stream: AgentStream, size: int) -> None:
        self.size = size
        self._stream = stream
        self._rest = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._rest:
            received = await self._stream.receive()
            self._rest = b"" if received is None else received[1]
        if max_bytes is None or len(self._rest) <= max_bytes:
            data, self._rest = self._rest, b""
        else:
            data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return data

    async def aclose(self) -> None:
        self._stream.close(Close.UNDO)
        await trio.lowlevel.checkpoint()


class AgentSession(Session, Exec, Files, Ports):
    """A session whose exec, files and ports are those of a guest agent. A driver adds what else its devices can do.

    File names that are no UTF-8 are given as Python gives them: each odd byte as a lone surrogate.
    """

    def __init__(self, device: DeviceFact, agent: AgentClient) -> None:
        self.device = device
        self.agent = agent

    async def start(self, command: Command) -> AgentProcess:
        _check_text((*command.argv, *command.env, *command.env.values()))
        size = command.terminal
        stream = self.agent.open(
            "exec",
            argv=command.argv,
            env=command.env,
            cwd=None if command.cwd is None else check_absolute(command.cwd),
            user=command.user,
            tag=command.tag,
            terminal=None if size is None else [size.columns, size.rows],
            stdin=command.stdin,
        )
        return await begin(stream, tag=command.tag, terminal=size is not None, stdin=command.stdin)

    async def attach(self, tag: str, *, replay: bool = False) -> AgentProcess:
        """Take a tagged process up again; ``replay`` begins with what earlier readers have already had, as far as it
        is kept, so that a terminal can be drawn anew."""
        stream = self.agent.open("attach", tag=tag, replay=replay)
        return await begin(stream, tag=tag, undo=Close.RELEASE)

    async def processes(self) -> Sequence[ProcessInfo]:
        found = await self.agent.collect("processes", _Process)
        return [ProcessInfo(**msgspec.structs.asdict(one)) for one in found]

    async def kill(self, pid: int, number: int = 9) -> None:
        await self.agent.call("kill", pid=pid, signal=number)

    async def read(self, path: str) -> AgentFile:
        stream = self.agent.open("read", path=check_absolute(path))
        try:
            return AgentFile(stream, checked(await stream.answer(), _Size).size)
        except BaseException:
            stream.close(Close.UNDO)
            raise

    async def write(
        self, path: str, source: AsyncIterable[bytes], *, mode: int = 0o644, user: str | None = None
    ) -> int:
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(source, AsyncGenerator):
                await stack.enter_async_context(contextlib.aclosing(source))
            request: dict[str, Packed] = {"path": check_absolute(path), "mode": mode, "user": user}
            stream = stack.enter_context(self.agent.stream("write", **request))
            await stream.answer()
            async for chunk in source:
                await stream.send(chunk)
            stream.send_eof()
            return checked(await stream.end(), _Size).size

    async def list(self, path: str, *, depth: int = 1) -> Sequence[Entry]:
        if depth < 1:
            raise InvalidArgument(f"the depth of a listing is at least 1, not {depth}")
        found = await self.agent.collect("list", _Entry, path=check_absolute(path), depth=depth)
        return [entry.told() for entry in sorted(found, key=lambda entry: entry.path)]

    async def stat(self, path: str) -> Entry:
        return await self._one("stat", path=check_absolute(path))

    async def mkdir(self, path: str, *, mode: int = 0o755, user: str | None = None) -> Entry:
        return await self._one("mkdir", path=check_absolute(path), mode=mode, user=user)

    async def remove(self, path: str) -> None:
        await self.agent.call("remove", path=check_absolute(path))

    async def connect_port(self, port: int) -> AgentConnection:
        return await open_connection(self.agent, port)

    async def _one(self, verb: str, **request: Packed) -> Entry:
        found = await self.agent.collect(verb, _Entry, **request)
        if len(found) != 1:
            raise DriverFault(f"the guest agent answered {verb} with {len(found)} entries")
        return found[0].told()


def _check_text(words: Iterable[str]) -> None:
    for word in words:
        if "\0" in word:
            raise InvalidArgument(f"{word!r} holds a NUL character, which no program can be given")
