"""QMP, the machine protocol of QEMU: JSON lines over a unix socket, with events and passed file descriptors."""

from __future__ import annotations

import array
import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import msgspec
import trio

from anvild.sdk import AnvilError, DeadlineExceeded, DeviceLost, DriverFault

__all__ = ["Event", "Qmp", "QmpError"]

T = TypeVar("T")

ABSENT = msgspec.Raw()

COMMAND_SECONDS = 10.0
LINE_LIMIT = 4 * 2**20
RECEIVE_SIZE = 65536
EVENT_BUFFER = 256


class Event(msgspec.Struct, frozen=True):
    """Something that QEMU tells unasked."""

    event: str
    data: dict[str, Any] = {}


class Failure(msgspec.Struct, frozen=True):
    """Why QEMU refused a command."""

    desc: str
    error_class: str = msgspec.field(name="class", default="")


class Message(msgspec.Struct, frozen=True):
    """One line from QEMU: a greeting, an answer, a refusal or an event."""

    QMP: msgspec.Raw = ABSENT
    id: int | None = None
    result: msgspec.Raw = msgspec.field(name="return", default=ABSENT)
    error: Failure | None = None
    event: str | None = None
    data: dict[str, Any] = {}


class QmpError(DriverFault):
    """QEMU refused a command; the message is its own."""


class _Answer:
    """Where the answer of one command is put."""

    def __init__(self) -> None:
        self.ready = trio.Event()
        self.message: Message | None = None


class Qmp:
    """One connection to one QEMU. :meth:`run` must be running for commands to be answered.

    When the connection ends, every waiting and later command raises DeviceLost.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._listeners: dict[trio.MemorySendChannel[Event], tuple[str, ...]] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Answer] = {}
        self._sending = trio.Lock()
        self._ended = False
        self._why = "it closed its monitor"
        self._decoder = msgspec.json.Decoder(Message)
        self._greeted = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Negotiate and take in answers and events until the connection ends. ``started`` means: ready for commands."""
        refusal: AnvilError | None = None
        ready = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, nursery.cancel_scope)
                await self._greeted.wait()
                try:
                    await self.execute("qmp_capabilities")
                except AnvilError as error:
                    refusal = error
                    nursery.cancel_scope.cancel()
                else:
                    ready = True
                    task_status.started()
        finally:
            self._end()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)
        if not ready:
            raise refusal if refusal is not None else DeviceLost(f"QEMU was not ready: {self._why}")

    @contextmanager
    def listen(self, *names: str) -> Iterator[trio.MemoryReceiveChannel[Event]]:
        """Receive the events of these names from now on. The channel ends when the connection ends. A listener that
        does not take its events in time loses the newest."""
        send, receive = trio.open_memory_channel[Event](EVENT_BUFFER)
        self._listeners[send] = names
        if self._ended:
            send.close()
        try:
            yield receive
        finally:
            self._listeners.pop(send, None)
            send.close()
            receive.close()

    def _tell(self, event: Event) -> None:
        for channel, names in self._listeners.items():
            if event.event in names:
                with suppress(trio.WouldBlock):
                    channel.send_nowait(event)

    async def execute(
        self, command: str, *, deadline: float = COMMAND_SECONDS, fd: int | None = None, **arguments: object
    ) -> None:
        """Run a command; ``deadline`` is in seconds. Names in ``arguments`` are written with ``_`` for ``-``. ``fd``
        is passed along (for ``getfd``).

        Raises QmpError when QEMU refuses, DeviceLost when the connection has ended, DeadlineExceeded. Cancelling
        leaves the command running inside QEMU.
        """
        await self._call(command, deadline, fd, arguments)

    async def query(
        self, answer: type[T], command: str, *, deadline: float = COMMAND_SECONDS, **arguments: object
    ) -> T:
        """Run a command and return what it answers as an ``answer``. Raises as :meth:`execute`, and DriverFault for
        an answer of another form."""
        raw = await self._call(command, deadline, None, arguments)
        try:
            return msgspec.json.decode(raw, type=answer)
        except msgspec.DecodeError as error:
            raise DriverFault(f"QEMU answered {command} in an unknown form: {error}") from error

    async def _call(self, command: str, deadline: float, fd: int | None, arguments: dict[str, object]) -> bytes:
        number = next(self._numbers)
        line = msgspec.json.encode(
            {"execute": command, "id": number, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}
        )
        waiting = self._waiting[number] = _Answer()
        try:
            with trio.fail_after(deadline):
                await self._send(line + b"\n", fd)
                await waiting.ready.wait()
        except trio.TooSlowError:
            raise DeadlineExceeded(f"QEMU did not answer {command} within {deadline:g} s") from None
        finally:
            del self._waiting[number]
        message = waiting.message
        if message is None:
            raise DeviceLost(f"QEMU went away during {command}: {self._why}")
        if message.error is not None:
            raise QmpError(f"QEMU refused {command}: {message.error.desc}")
        return bytes(message.result)

    async def _send(self, line: bytes, fd: int | None) -> None:
        """Send one line; a cancelled half line would garble the next one, so that ends the connection."""
        if self._ended:
            raise DeviceLost(f"the connection to QEMU has ended: {self._why}")
        ancillary = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        async with self._sending:
            sent = 0
            try:
                while sent < len(line):
                    sent += await self._stream.socket.sendmsg([line[sent:]], ancillary if sent == 0 else [])
            except (OSError, trio.ClosedResourceError) as error:
                raise DeviceLost(f"the connection to QEMU has ended: {error}") from error
            finally:
                if 0 < sent < len(line):
                    self._end()

    async def _receive(self, scope: trio.CancelScope) -> None:
        pending = bytearray()
        try:
            while chunk := await self._stream.receive_some(RECEIVE_SIZE):
                pending += chunk
                if len(pending) > LINE_LIMIT:
                    break
                *lines, rest = pending.split(b"\n")
                pending = bytearray(rest)
                for line in lines:
                    if line.strip():
                        self._take(self._decoder.decode(line))
        except (trio.BrokenResourceError, trio.ClosedResourceError, msgspec.DecodeError) as error:
            self._why = str(error)
        finally:
            self._end()
            scope.cancel()

    def _take(self, message: Message) -> None:
        if bytes(message.QMP):
            self._greeted.set()
        elif message.event is not None:
            self._tell(Event(message.event, message.data))
        elif message.id in self._waiting:
            self._waiting[message.id].message = message
            self._waiting[message.id].ready.set()

    def _end(self) -> None:
        self._ended = True
        for channel in self._listeners:
            channel.close()
        for waiting in self._waiting.values():
            waiting.ready.set()
