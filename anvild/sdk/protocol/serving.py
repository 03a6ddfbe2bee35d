"""The driver's side of a connection: it answers the host's requests with the verbs of a driver that is here."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import trio

from ..driver import Driver, DriverContext, Session
from ..errors import (
    AnvilError,
    CapabilityMissing,
    DeadlineExceeded,
    DriverFault,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    WrongState,
)
from .codec import Malformed, decode
from .driver_log import DriverLog
from .frames import WINDOW
from .messages import (
    CANCELLED,
    CloseSession,
    ErrorObject,
    Initialize,
    Initialized,
    Nothing,
    OpenedSession,
    SessionEnded,
)
from .messages import OpenSession as OpenParameters
from .methods import DRIVER, PROCESS, Method, Scope, capabilities_of, methods_of
from .peer import Peer
from .served import Holdings, OpenSession, Processes, Source
from .streams import Inlet, ItemOutlet
from .transports import Transport
from .version import PROTOCOL_VERSION, protocol_incompatibility
from .wire_errors import error_to_wire, only_leaf

__all__ = ["Host", "serve_driver"]

MAX_CALLS = 1024
"""How many requests are worked on at the same time; more are refused."""

GRACE_SECONDS = 1.0
"""How long after its deadline a verb is cancelled whose caller has not cancelled it."""

CLOSE_SECONDS = 10.0
DESCRIBE_SECONDS = 10.0
STOP_SECONDS = 30.0

_INITIALIZE = msgspec.json.Decoder(Initialize)
_OPEN = msgspec.json.Decoder(OpenParameters)
_PLAIN = msgspec.json.Decoder(Any)
_CLOSE = msgspec.json.Decoder(CloseSession)

Make = Callable[[DriverContext[Any]], Driver]


class Host:
    """The host of a driver that is served, for what a driver may ask of it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def request(self, method: str, params: Any = None) -> Any:
        """Ask the host for something that it offers, such as a new token, with plain values both ways.

        Raises the errors of the interface: CapabilityMissing for what this host does not offer.
        """
        return await self._peer.request(method, {} if params is None else params, lambda raw: decode(raw, _PLAIN))


async def serve_driver(
    make: Make, kind: type[Driver], transport: Transport, *, on_host: Callable[[Host], None] = lambda host: None
) -> None:
    """Serve a driver on ``transport`` until the host closes the connection.

    ``make`` makes the driver when the host has said hello; it is mostly ``kind`` itself. Where the host names no
    directories, the driver gets temporary ones. ``on_host`` is given the host, to be asked. At the end the sessions
    that are open are closed, and the driver is stopped if it was started. Cancelling it does the same at once.

    Raises Unavailable when host and driver are of different major versions of the protocol.
    """
    with ExitStack() as stack:
        server = _Server(make, kind, transport, stack)
        try:
            async with trio.open_nursery() as nursery:
                server.begin(nursery)
                on_host(Host(server.peer))
                await server.peer.run()
                with trio.move_on_after(CLOSE_SECONDS):
                    await server.close_all()
                nursery.cancel_scope.cancel()
        finally:
            await server.stop()
    if server.unfit is not None:
        raise Unavailable(server.unfit)


class _Call:
    """One request that is worked on."""

    __slots__ = ("cancelled", "inlets", "outlets", "request", "scope")

    def __init__(self, request: int | str) -> None:
        self.request = request
        self.scope = trio.CancelScope()
        self.cancelled = False
        self.inlets: list[Inlet] = []
        self.outlets: list[ItemOutlet] = []


class _Server:
    """Works on the requests of one host."""

    def __init__(self, make: Make, kind: type[Driver], transport: Transport, stack: ExitStack) -> None:
        self.unfit: str | None = None
        self.peer = Peer(
            transport,
            first_id=2,
            other="the host",
            on_request=self._take,
            on_cancel=self._cancel,
            on_fault=lambda fault: self._write("warning", "host_fault", error=fault.message),
        )
        self._make = make
        self._kind = kind
        self._stack = stack
        self._driver: Driver | None = None
        self._greeted = False
        self._started = False
        self._log: DriverLog | None = None
        self._calls: dict[int | str, _Call] = {}
        self._sessions: dict[int, OpenSession] = {}
        self._processes = Processes()
        self._next_session = 1
        self._methods: dict[str, Method] = {each.name: each for each in (*DRIVER.values(), *PROCESS.values())}

    # ----- its life

    def begin(self, nursery: trio.Nursery) -> None:
        """Work in this nursery."""
        self._nursery = nursery
        self._own = self._holdings(f"the driver {self._kind.name!r}")

    async def close_all(self) -> None:
        """Cancel what is worked on and close all sessions, as their host would."""
        for call in list(self._calls.values()):
            call.scope.cancel()
        for opened in list(self._sessions.values()):
            opened.closing.set()
        for opened in list(self._sessions.values()):
            await opened.done.wait()
        await self._own.release()

    async def stop(self) -> None:
        """Stop the driver, if its host has left it started."""
        if self._driver is None or not self._started:
            return
        with trio.move_on_after(STOP_SECONDS, shield=True):
            try:
                await self._driver.stop()
            except Exception as error:
                self._error("driver.stop", error)

    def _holdings(self, what: str) -> Holdings:
        return Holdings(what, self.peer, self._nursery, self._processes, self._error)

    def _write(self, level: str, event: str, **values: object) -> None:
        if self._log is not None:
            self._log(level, event, **values)

    def _error(self, what: str, error: Exception) -> AnvilError:
        """The error of the interface that the host is told."""
        leaf = only_leaf(error)
        if isinstance(leaf, AnvilError):
            return leaf
        trace = "".join(traceback.format_exception(error))
        self._write("error", "driver_fault", verb=what, error=repr(error), traceback=trace[-8000:])
        name = self._kind.name
        return DriverFault(f"the driver {name!r} failed in {what} with {type(error).__name__}: {error}", driver=name)

    # ----- requests, as they come in; called by the reader

    def _take(self, request: int | str, method: str, params: Any) -> None:
        if method == "ping":
            self.peer.answer(request, Nothing())
            return
        call = _Call(request)
        try:
            if request in self._calls:
                raise InvalidArgument(f"the request id {request!r} is in use")
            if len(self._calls) >= MAX_CALLS:
                raise ResourceExhausted(f"{MAX_CALLS} requests are worked on already")
            work = self._work(call, method, params)
        except Malformed as error:
            self.peer.refuse(request, error_to_wire(InvalidArgument(f"{method}: {error}")))
        except AnvilError as error:
            self.peer.refuse(request, error_to_wire(error))
        else:
            self._calls[request] = call
            self._nursery.start_soon(*work)

    def _cancel(self, request: int | str) -> None:
        call = self._calls.get(request)
        if call is not None:
            call.cancelled = True
            call.scope.cancel()

    def _work(self, call: _Call, method: str, params: Any) -> tuple[Any, ...]:
        """Choose what to do for a request. Raises Malformed and errors of the interface."""
        params = msgspec.Raw(b"{}") if params is msgspec.UNSET else params
        if method == "initialize":
            if self._greeted:
                raise WrongState("the connection is initialized already")
            start = decode(params, _INITIALIZE)
            self.unfit = protocol_incompatibility(start.protocol, PROTOCOL_VERSION)
            if self.unfit is not None:
                raise Unavailable(self.unfit)
            self._greeted = True
            if start.log is not None:
                self._log = DriverLog(self.peer.their_item_outlet(start.log))
            return self._initialize, call, start
        if self._driver is None:
            raise WrongState(f"{method} was called before the answer to 'initialize'")
        if method == "session.open":
            opening = decode(params, _OPEN)
            self._bound(call, opening.deadline)
            return self._open, call, opening
        if method == "session.close":
            return self._close, call, decode(params, _CLOSE).session
        known = self._methods.get(method)
        if known is None:
            raise CapabilityMissing(f"the driver {self._kind.name!r} has no method {method!r}")
        return self._prepare(call, known, params)

    def _prepare(self, call: _Call, method: Method, raw: Any) -> tuple[Any, ...]:
        params = decode(raw, method.params_decoder)
        target, holdings = self._target(method, params)
        values = {name: getattr(params, name) for name in method.names}
        for name in method.sources:
            inlet = self.peer.their_inlet(values[name], WINDOW)
            call.inlets.append(inlet)
            values[name] = Source(inlet)
        for name in method.reports:
            outlet = self.peer.their_item_outlet(values[name])
            call.outlets.append(outlet)
            values[name] = outlet.send
        self._bound(call, params.deadline)
        return self._run, call, method, target, values, holdings

    def _target(self, method: Method, params: Any) -> tuple[Any, Holdings]:
        match method.scope:
            case Scope.DRIVER:
                return self._driver, self._own
            case Scope.SESSION:
                opened = self._sessions.get(params.session)
                if opened is None:
                    raise NotFound(f"there is no session {params.session}")
                return opened.session.require(method.owner), opened.holdings
            case Scope.PROCESS:
                process = self._processes.open.get(params.process)
                if process is None:
                    raise NotFound(f"there is no process {params.process}")
                if method.verb == "aclose":
                    process.holdings.forget(params.process)
                return process.process, process.holdings

    @staticmethod
    def _bound(call: _Call, deadline: float | None) -> None:
        if deadline is not None:
            call.scope.deadline = trio.current_time() + deadline + GRACE_SECONDS

    # ----- requests, as they are worked on; each in a task of its own

    async def _run(self, call: _Call, method: Method, target: Any, values: dict[str, Any], holdings: Holdings) -> None:
        args, kw = method.arguments(values)
        if method.owner is Driver and method.verb in ("start", "stop"):
            self._started = method.verb == "start"
        error: AnvilError | None = None
        told: Any = None
        after: Callable[[], None] | None = None
        try:
            with holdings.calling(call.scope), call.scope:
                result = await getattr(target, method.verb)(*args, **kw)
                told, after = holdings.take(method.name, method.result, result)
        except Exception as raised:
            error = self._error(method.name, raised)
        finally:
            for inlet in call.inlets:
                inlet.end()
            for outlet in call.outlets:
                outlet.close()
        await self.peer.room()
        if after is not None:
            self._answer(call, method.name, told)
            after()
        else:
            self._refuse(call, error or self._interruption(call, method.name))

    async def _initialize(self, call: _Call, start: Initialize) -> None:
        try:
            with call.scope:
                driver = self._make(self._context(start))
                offered = capabilities_of(type(driver))
                for capability in offered.values():
                    self._know(methods_of(capability, Scope.DRIVER))
                self._driver = driver
                hello = await self._introduce(driver, tuple(offered))
        except Exception as raised:
            self._refuse(call, self._error("__init__", raised))
        else:
            if call.scope.cancelled_caught:
                self._refuse(call, self._interruption(call, "initialize"))
            else:
                self._answer(call, "initialize", hello)

    def _context(self, start: Initialize) -> DriverContext[Any]:
        try:
            settings = msgspec.convert(start.settings, self._kind.settings_type)
        except msgspec.ValidationError as error:
            raise InvalidArgument(f"the settings of the driver {self._kind.name!r}: {error}") from None
        return DriverContext(
            settings=settings,
            host=start.host,
            state_dir=self._directory(start.state_dir),
            cache_dir=self._directory(start.cache_dir),
            data_path=tuple(map(Path, start.data_path)),
            log=self._log or DriverLog(None),
        )

    def _directory(self, named: str | None) -> Path:
        if named is None:
            named = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="anvild-driver-"))
        return Path(named)

    async def _introduce(self, driver: Driver, offered: tuple[str, ...]) -> Initialized:
        """Describe the driver as far as it can be; who asks it for its description gets its error."""
        hello = Initialized(
            protocol=PROTOCOL_VERSION,
            name=self._kind.name,
            capabilities=offered,
            settings_schema=msgspec.json.schema(self._kind.settings_type),
        )
        try:
            with trio.move_on_after(DESCRIBE_SECONDS):
                known = await driver.describe()
                return msgspec.structs.replace(hello, version=known.version, platforms=known.platforms)
        except Exception as error:
            self._error("driver.describe", error)
        return hello

    def _know(self, methods: dict[str, Method]) -> None:
        self._methods.update((each.name, each) for each in methods.values())

    async def _open(self, call: _Call, opening: OpenParameters) -> None:
        """Open a session, and hold it until it is closed: what is entered in a task is left in the same task."""
        assert self._driver is not None
        holdings = self._holdings(f"the session on {opening.device.name!r}")
        opened: OpenSession | None = None
        number = self._next_session
        self._next_session += 1
        failure: AnvilError | None = None
        try:
            with call.scope:
                async with self._driver.open(opening.device, opening.lease) as session:
                    opened = self._sessions[number] = self._opened(call, number, session, holdings)
                    try:
                        await opened.closing.wait()
                    finally:
                        with trio.CancelScope(shield=True):
                            await holdings.release()
        except Exception as raised:
            failure = self._error("session.open" if opened is None else "session.close", raised)
        finally:
            self._sessions.pop(number, None)
            if opened is not None:
                opened.error = failure
                opened.done.set()
        if opened is None:
            self._refuse(call, failure or self._interruption(call, "session.open"))
        elif not opened.closing.is_set():
            ended = failure or WrongState(f"{holdings.what} has ended")
            self.peer.notify("session.ended", SessionEnded(number, error_to_wire(ended)))

    def _opened(self, call: _Call, number: int, session: object, holdings: Holdings) -> OpenSession:
        if not isinstance(session, Session):
            raise TypeError(f"it gave {type(session).__name__}, not a session")
        offered = capabilities_of(type(session))
        for capability in offered.values():
            self._know(methods_of(capability, Scope.SESSION))
        call.scope.deadline = float("inf")
        self._answer(call, "session.open", OpenedSession(number, session.device, tuple(offered)))
        return OpenSession(session, holdings)

    async def _close(self, call: _Call, number: int) -> None:
        opened = self._sessions.get(number)
        with call.scope:
            if opened is not None:
                opened.closing.set()
                await opened.done.wait()
        if call.scope.cancelled_caught:
            self._refuse(call, self._interruption(call, "session.close"))
        elif opened is not None and opened.error is not None:
            self._refuse(call, opened.error)
        else:
            self._answer(call, "session.close", None)

    # ----- answers

    def _answer(self, call: _Call, method: str, result: object) -> None:
        try:
            self.peer.answer(call.request, result)
        except (TypeError, ValueError, ResourceExhausted) as error:
            self._refuse(call, self._error(method, error))
        else:
            self._calls.pop(call.request, None)

    def _refuse(self, call: _Call, error: AnvilError | ErrorObject) -> None:
        self._calls.pop(call.request, None)
        self.peer.refuse(call.request, error_to_wire(error) if isinstance(error, AnvilError) else error)

    @staticmethod
    def _interruption(call: _Call, method: str) -> AnvilError | ErrorObject:
        """Why a request has ended without a result and without an error."""
        if call.cancelled:
            return ErrorObject(code=CANCELLED, message=f"{method} was cancelled")
        if call.scope.deadline <= trio.current_time():
            return DeadlineExceeded(f"{method} did not end within its deadline")
        return WrongState(f"{method} was ended, because what it was called on was closed")
