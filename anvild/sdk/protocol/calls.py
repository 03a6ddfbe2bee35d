"""The host's calls: arguments become parameters and streams, and an answer becomes what the signature promises."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import trio

from ..errors import AnvilError, DeadlineExceeded, InvalidArgument, Unavailable
from .codec import decode
from .frames import WINDOW
from .messages import StartedProcess, StreamPair, StreamResult
from .methods import PROCESS, Method, Result
from .peer import Peer
from .remote import RemoteProcess, RemoteReceiveStream, RemoteStream
from .streams import Dropped, ItemInlet, Outlet
from .wire_errors import only_leaf

__all__ = ["Caller"]

T = TypeVar("T")

CLOSE_SECONDS = 2.0

_STREAM = msgspec.json.Decoder(StreamResult)
_STREAM_PAIR = msgspec.json.Decoder(StreamPair)
_PROCESS = msgspec.json.Decoder(StartedProcess)


class Caller:
    """Calls the methods of a driver on the other side of a connection."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    async def call(self, method: Method, owner: dict[str, int], args: tuple[Any, ...], kw: dict[str, Any]) -> Any:
        """Call a method on what ``owner`` names.

        It is bounded by the deadline of the scope that it is called in, or else by the method's own, whichever the
        driver is then told. Raises the errors of the interface, and what the caller's own stream or report raised.
        """
        params = method.params(*args, **owner, **kw)
        for name, default in method.numbers.items():
            _check_number(method, params, name, default)
        return await self.bounded(method.name, method.deadline, params, lambda: self._send(method, params))

    async def bounded(self, name: str, limit: float, params: Any, send: Callable[[], Awaitable[T]]) -> T:
        """Send parameters with the deadline that they are told: that of the caller's scope, or else ``limit``.

        Raises DeadlineExceeded at ``limit``; the caller's own deadline is the caller's own matter.
        """
        deadline = trio.current_effective_deadline()
        if deadline != math.inf:
            params.deadline = max(deadline - trio.current_time(), 0.0)
            return await send()
        if limit == math.inf:
            return await send()
        params.deadline = limit
        with trio.move_on_after(limit):
            return await send()
        raise DeadlineExceeded(f"{name} did not end within {limit:g} s")

    async def _send(self, method: Method, params: Any) -> Any:
        if method.plain:
            return await self._request(method, params)
        return await _Accompanied(self, method, params).run()

    async def _request(self, method: Method, params: Any, on_sent: Callable[[], None] = lambda: None) -> Any:
        peer, name = self.peer, method.name
        match method.result:
            case Result.VALUE:
                decoder = method.result_decoder
                return await peer.request(name, params, lambda raw: decode(raw, decoder), on_sent=on_sent)
            case Result.STREAM:
                return await peer.request(name, params, self._stream, self.let_go, on_sent=on_sent)
            case Result.STREAM_PAIR:
                return await peer.request(name, params, self._stream_pair, self.let_go, on_sent=on_sent)
            case Result.PROCESS:
                return await peer.request(name, params, self._process, self.let_go, on_sent=on_sent)

    def _stream(self, raw: Any) -> RemoteReceiveStream:
        return RemoteReceiveStream(self.peer.their_inlet(decode(raw, _STREAM).stream, WINDOW))

    def _stream_pair(self, raw: Any) -> RemoteStream:
        pair = decode(raw, _STREAM_PAIR)
        return RemoteStream(self.peer.their_inlet(pair.receive, WINDOW), self.peer.their_outlet(pair.send))

    def _process(self, raw: Any) -> RemoteProcess:
        started = decode(raw, _PROCESS)
        return RemoteProcess(started, self.peer.their_inlet(started.output, 0), self.call)

    def let_go(self, result: object) -> None:
        """Close what has come for a caller who has gone."""
        if isinstance(result, RemoteReceiveStream):
            result.close()
        elif isinstance(result, RemoteProcess):
            result.close()
            self.peer.request_unheard("process.aclose", PROCESS["aclose"].params(process=result.number))


def _check_number(method: Method, params: Any, name: str, default: object) -> None:
    """Leave a number out that is infinite by default; JSON has no others that are not finite."""
    value = getattr(params, name)
    if isinstance(value, float) and not math.isfinite(value):
        if value != default:
            raise InvalidArgument(f"{method.name}: {name} must be a finite number, not {value}")
        setattr(params, name, default)  # the very object, which is left out


class _Accompanied:
    """One call with byte streams or reports beside it."""

    def __init__(self, caller: Caller, method: Method, params: Any) -> None:
        self._caller = caller
        self._method = method
        self._params = params
        self._failures: list[tuple[AnvilError, Exception]] = []

    async def run(self) -> Any:
        peer, params = self._caller.peer, self._params
        feeds: list[tuple[Outlet, AsyncIterable[bytes]]] = []
        hearings: list[tuple[ItemInlet, Callable[[Any], Awaitable[None]]]] = []
        for name in self._method.sources:
            feeds.append((peer.new_outlet(WINDOW), getattr(params, name)))
            setattr(params, name, feeds[-1][0].stream)
        for name in self._method.reports:
            hearings.append((peer.new_item_inlet(self._method.report_decoders[name]), getattr(params, name)))
            setattr(params, name, hearings[-1][0].stream)
        result, failure = None, None
        finished = False
        try:
            async with trio.open_nursery() as hearing, trio.open_nursery() as feeding:
                for inlet, report in hearings:
                    hearing.start_soon(self._hear, inlet, report)

                def feed() -> None:
                    for outlet, source in feeds:
                        feeding.start_soon(self._feed, outlet, source)

                try:
                    result = await self._caller._request(self._method, params, feed)
                except Exception as error:
                    failure = error
                # What was reported before the answer is heard to the end, as it would be without a wire.
                for inlet, _ in hearings:
                    inlet.end()
                feeding.cancel_scope.cancel()
            finished = True
        finally:
            if not finished:
                self._caller.let_go(result)
            for outlet, _ in feeds:
                outlet.stop(Dropped)
            for inlet, _ in hearings:
                inlet.end()
        if failure is not None:
            raise self._own(failure)
        return result

    async def _feed(self, outlet: Outlet, source: AsyncIterable[bytes]) -> None:
        chunks = aiter(source)
        try:
            await self._feed_from(outlet, chunks)
        finally:
            if inspect.isasyncgen(chunks):
                with trio.move_on_after(CLOSE_SECONDS, shield=True):
                    await chunks.aclose()

    async def _feed_from(self, outlet: Outlet, chunks: AsyncIterator[bytes]) -> None:
        while True:
            try:
                chunk: object = await anext(chunks)
            except StopAsyncIteration:
                outlet.end()
                return
            except Exception as error:
                outlet.end(self._told(error, "the source of the stream"))
                return
            if not isinstance(chunk, bytes | bytearray | memoryview):
                outlet.end(InvalidArgument(f"{self._method.name}: a stream gave {type(chunk).__name__}, not bytes"))
                return
            try:
                await outlet.send(chunk)
            except (Dropped, Unavailable):
                return

    async def _hear(self, inlet: ItemInlet, report: Callable[[Any], Awaitable[None]]) -> None:
        while True:
            try:
                item = await inlet.receive()
            except (trio.EndOfChannel, AnvilError):
                return
            try:
                await report(item)
            except Exception as error:
                inlet.taken(self._told(error, "the receiver of the report"))
            else:
                inlet.taken()

    def _told(self, error: Exception, who: str) -> AnvilError:
        """What the driver is told of a failure on this side."""
        leaf = only_leaf(error)
        told = (
            leaf if isinstance(leaf, AnvilError) else Unavailable(f"{who} failed with {type(error).__name__}: {error}")
        )
        self._failures.append((told, error))
        return told

    def _own(self, failure: Exception) -> Exception:
        """The caller's own error, when the driver has only passed it on."""
        for told, own in self._failures:
            if isinstance(failure, AnvilError) and (failure.code, failure.message) == (told.code, told.message):
                return own
        return failure
