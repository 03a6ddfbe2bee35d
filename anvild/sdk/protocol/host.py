"""The host's side of a connection: a driver that is elsewhere, used as one that is here."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import Any, NoReturn

import msgspec
import trio

from ..driver import Driver, Report, Session
from ..errors import AnvilError, DeadlineExceeded, DriverFault, Unavailable
from ..values import Description, DeviceFact, Lease, Recovery
from ..verbs import Capability
from .calls import Caller
from .codec import decode
from .desk import Desk, Handler
from .messages import (
    CloseSession,
    ErrorObject,
    Initialize,
    Initialized,
    LogLine,
    Nothing,
    OpenedSession,
    OpenSession,
    SessionEnded,
    Version,
)
from .methods import DRIVER, Method, Scope, find_capability, methods_of
from .outbox import Traffic
from .peer import Peer
from .statistics import Statistics
from .streams import ItemInlet
from .transports import Transport
from .version import protocol_incompatibility
from .wire_errors import rebuilt

__all__ = ["RemoteDriver", "RemoteSession", "connect_driver"]

INITIALIZE_SECONDS = 30.0
OPEN_SECONDS = 60.0
CLOSE_SECONDS = 30.0

_INITIALIZED = msgspec.json.Decoder(Initialized)
_OPENED = msgspec.json.Decoder(OpenedSession)
_ENDED = msgspec.json.Decoder(SessionEnded)
_VERSION = msgspec.json.Decoder(Version)
_LOG_LINE = msgspec.json.Decoder(LogLine)


class RemoteSession(Session):
    """A session on the other side. Its class also inherits the capabilities that the session there offers."""

    def __init__(self, opened: OpenedSession, caller: Caller) -> None:
        self.device = opened.device
        self._owner = {"session": opened.session}
        self._caller = caller
        self._scope = trio.CancelScope()
        self._ended: ErrorObject | None = None

    def _end(self, error: ErrorObject) -> None:
        """The session has ended on the other side: the block that uses it is cancelled, and raises this error."""
        self._ended = error
        self._scope.cancel()

    async def _call(self, method: Method, args: tuple[Any, ...], kw: dict[str, Any]) -> Any:
        if self._ended is not None:
            raise rebuilt(self._ended)
        return await self._caller.call(method, self._owner, args, kw)


class RemoteDriver(Driver):
    """A driver on the other side. Its class also inherits the capabilities that the driver there offers itself.

    Made by :func:`connect_driver`. ``hello`` is what the driver said of itself in the handshake.
    """

    def __init__(self, peer: Peer, hello: Initialized, sessions: dict[int, RemoteSession]) -> None:
        # The driver's context is on the other side.
        self.hello = hello
        self._peer = peer
        self._caller = Caller(peer)
        self._sessions = sessions

    async def start(self) -> None:
        await self._call(DRIVER["start"], (), {})

    async def stop(self) -> None:
        await self._call(DRIVER["stop"], (), {})

    async def describe(self) -> Description:
        described: Description = await self._call(DRIVER["describe"], (), {})
        return described

    async def watch(self, report: Report) -> NoReturn:  # type: ignore[misc]
        # A watch that returns breaks the contract, and its caller sees that, as without a wire.
        await self._call(DRIVER["watch"], (report,), {})

    def open(self, device: DeviceFact, lease: Lease) -> AbstractAsyncContextManager[Session]:
        return self._open(device, lease)

    async def clean(self, device: DeviceFact) -> None:
        await self._call(DRIVER["clean"], (device,), {})

    async def recover(self, handle: str) -> Recovery:
        recovery: Recovery = await self._call(DRIVER["recover"], (handle,), {})
        return recovery

    async def ping(self) -> None:
        """Return when the driver has answered: its loop runs. Raises Unavailable when it has gone.

        The caller sets the time limit. A driver that does not answer has blocked its loop.
        """
        await self._peer.request("ping", Nothing(), lambda raw: None)

    def statistics(self) -> Statistics:
        """Count what is open and what has been, at this moment."""
        return msgspec.structs.replace(self._peer.statistics(), sessions=len(self._sessions))

    async def wait_closed(self) -> str:
        """Return the reason when the connection has ended."""
        await self._peer.closed.wait()
        assert self._peer.reason is not None
        return self._peer.reason

    async def _call(self, method: Method, args: tuple[Any, ...], kw: dict[str, Any]) -> Any:
        return await self._caller.call(method, {}, args, kw)

    @asynccontextmanager
    async def _open(self, device: DeviceFact, lease: Lease) -> AsyncIterator[Session]:
        session = await self._opened(device, lease)
        try:
            with session._scope:
                yield session
        finally:
            with trio.CancelScope(shield=True):
                await self._close(session)
        if session._ended is not None:
            raise rebuilt(session._ended)

    async def _opened(self, device: DeviceFact, lease: Lease) -> RemoteSession:
        params = OpenSession(device=device, lease=lease)

        async def send() -> RemoteSession:
            return await self._peer.request("session.open", params, self._made, self._close_unheard)

        return await self._caller.bounded("session.open", OPEN_SECONDS, params, send)

    def _made(self, raw: Any) -> RemoteSession:
        opened = decode(raw, _OPENED)
        session: RemoteSession = _class(RemoteSession, opened.capabilities, Scope.SESSION)(opened, self._caller)
        self._sessions[opened.session] = session
        return session

    def _close_unheard(self, session: RemoteSession) -> None:
        """A session that was opened for a caller who has gone."""
        number = session._owner["session"]
        self._sessions.pop(number, None)
        self._peer.request_unheard("session.close", CloseSession(number))

    async def _close(self, session: RemoteSession) -> None:
        number = session._owner["session"]
        try:
            with trio.move_on_after(CLOSE_SECONDS) as scope:
                await self._peer.request("session.close", CloseSession(number), lambda raw: None)
        except Unavailable:
            if self._peer.reason is None:  # else the session has ended with the connection
                raise
        finally:
            self._sessions.pop(number, None)
        if scope.cancelled_caught:
            raise DeadlineExceeded(f"the session on {session.device.name!r} did not close within {CLOSE_SECONDS:g} s")


@asynccontextmanager
async def connect_driver(
    transport: Transport,
    start: Initialize,
    *,
    on_log: Callable[[LogLine], Awaitable[None]] | None = None,
    on_fault: Callable[[DriverFault], None] = lambda fault: None,
    on_traffic: Traffic | None = None,
    requests: Mapping[str, Handler] = MappingProxyType({}),
) -> AsyncIterator[RemoteDriver]:
    """Shake hands with a driver on the other side of ``transport``, and use it within the block.

    ``on_log`` is awaited with each line of the driver's log; while it does not return, the driver drops lines and
    counts them. ``on_fault`` hears of every breach of the protocol and of every DriverFault of a verb. ``on_traffic``
    hears of every message. Neither may block. ``requests`` answers what the driver may ask of this host, by method.

    Leaving the block ends the connection, upon which the other side closes what is open. When the connection ends by
    itself, the block goes on, and everything that is asked of the driver raises Unavailable.

    Raises Unavailable for a driver of another major version, or when the connection ends; DriverFault for a wrong
    answer; what the driver refused its settings with; DeadlineExceeded when it does not answer.
    """
    sessions: dict[int, RemoteSession] = {}
    desk = Desk(requests)
    peer = Peer(
        transport,
        first_id=1,
        other="the driver",
        on_request=desk.take,
        on_cancel=desk.cancel,
        on_notification=lambda method, params: _on_notification(sessions, method, params),
        on_fault=on_fault,
        on_traffic=on_traffic,
    )
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        desk.begin(peer, nursery)
        nursery.start_soon(peer.run)
        try:
            if on_log is not None:
                lines = peer.new_item_inlet(_LOG_LINE)
                start = msgspec.structs.replace(start, log=lines.stream)
                nursery.start_soon(_listen, lines, on_log, peer)
            hello = await _shake_hands(peer, start)
            peer.other = f"the driver {hello.name!r}"
            kind = _class(RemoteDriver, hello.capabilities, Scope.DRIVER)
            yield type(kind.__name__, (kind,), {"name": hello.name})(peer, hello, sessions)
        except Exception as error:
            failure = error  # raised below, so that the nursery does not wrap it
        finally:
            peer.close("the host closed the connection")
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _shake_hands(peer: Peer, start: Initialize) -> Initialized:
    with trio.move_on_after(INITIALIZE_SECONDS):
        hello = await peer.request("initialize", start, lambda raw: _welcome(raw, start.protocol))
        if isinstance(hello, str):
            raise Unavailable(hello)
        return hello
    raise DeadlineExceeded(f"the driver did not answer 'initialize' within {INITIALIZE_SECONDS:g} s")


def _welcome(raw: Any, protocol: str) -> Initialized | str:
    """Read the driver's answer; a sentence when it is of a version that cannot be talked to."""
    unfit = protocol_incompatibility(protocol, decode(raw, _VERSION).protocol)
    return unfit or decode(raw, _INITIALIZED)


async def _listen(lines: ItemInlet, on_log: Callable[[LogLine], Awaitable[None]], peer: Peer) -> None:
    while True:
        try:
            line = await lines.receive()
        except (trio.EndOfChannel, AnvilError):
            return  # the connection has ended, and everybody else is told why
        peer.counts.lost_lines += line.lost
        await on_log(line)
        lines.taken()


def _on_notification(sessions: dict[int, RemoteSession], method: str, params: Any) -> None:
    # A method that is not known is one of a newer minor version.
    if method == "session.ended":
        ended = decode(params, _ENDED)
        session = sessions.get(ended.session)
        if session is not None:
            session._end(ended.error)


def _class(base: type[Any], names: tuple[str, ...], scope: Scope) -> type[Any]:
    """Make the class that also inherits the capabilities of these names; those that nobody here knows are left out."""
    known = [each for each in map(find_capability, dict.fromkeys(names)) if each is not None]
    made: type[Any] = _class_of(base, tuple(known), scope)  # type: ignore[arg-type]  # a class is hashable
    return made


@functools.cache
def _class_of(base: type[Any], known: tuple[type[Capability], ...], scope: Scope) -> type[Any]:
    verbs = {verb: _proxy(each, method) for each in known for verb, method in methods_of(each, scope).items()}
    # A capability that extends another one brings it along.
    bases = [each for each in known if not any(other is not each and issubclass(other, each) for other in known)]
    return type(base.__name__, (base, *bases), verbs)


def _proxy(capability: type[Capability], method: Method) -> Callable[..., Awaitable[Any]]:
    contract = getattr(capability, method.verb)

    @functools.wraps(contract, assigned=("__name__", "__doc__"), updated=())
    async def verb(self: RemoteSession | RemoteDriver, *args: Any, **kw: Any) -> Any:
        return await self._call(method, args, kw)

    return verb
