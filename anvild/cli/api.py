"""The client's side of the HTTP interface: one connection, errors as sentences, event streams that pick up again."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import httpx2
import msgspec
import trio
from httpx2.websockets import AsyncWebSocketSession, WebSocketUpgradeError

from .context import Context
from .exits import ExitCode, Failure, exit_for_status
from .profiles import Connection

__all__ = ["CAPSULES", "Api", "Document", "ServerEvent", "connect"]

DEVICETESTS = "/api/v1"
CAPSULES = "/v1"
"""Where the wings are."""

TIMEOUT = httpx2.Timeout(60, connect=10)
STREAMING = httpx2.Timeout(60, connect=10)
"""An event stream counts as broken after so many seconds without a byte; the daemon's comments keep it alive."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
GIVE_UP_AFTER = 60.0

MAX_FRAME = 16 * 2**20

Document = dict[str, Any]
T = TypeVar("T")


class ServerEvent(msgspec.Struct, frozen=True):
    """One event of a stream: its id to resume from, its kind, and its data as the daemon wrote it."""

    id: str
    kind: str
    data: Document


class ErrorBody(msgspec.Struct, frozen=True):
    """What is inside an error answer."""

    code: str
    message: str


class ErrorAnswer(msgspec.Struct, frozen=True):
    """An error answer of the daemon."""

    error: ErrorBody


@asynccontextmanager
async def connect(
    context: Context, *, wing: str = DEVICETESTS, transport: httpx2.AsyncBaseTransport | None = None
) -> AsyncIterator[Api]:
    """Give one of the daemon's interfaces. Nothing is sent before the first call, so this itself does not fail."""
    connection = context.connection()
    headers = {"User-Agent": "anvil", "Accept": "application/json"}
    if connection.key is not None:
        headers["X-API-Key"] = connection.key
    base, _, path = connection.url.partition("unix:")
    if path and transport is None:
        transport = httpx2.AsyncHTTPTransport(uds=path)
    async with httpx2.AsyncClient(
        base_url=base or "http://localhost", headers=headers, timeout=TIMEOUT, transport=transport, trust_env=False
    ) as http:
        yield Api(http, connection, wing)


class Api:
    """One interface of one daemon. Paths are relative to its prefix.

    Every method raises Failure: the daemon's own sentence with the exit code that its status stands for, or
    ``unreachable``. Cancelling a call closes its connection; what the daemon had begun goes on.
    """

    def __init__(self, http: httpx2.AsyncClient, connection: Connection, prefix: str) -> None:
        self.http = http
        self._to = connection
        self._prefix = prefix

    async def get(self, path: str, /, **query: object) -> Document:
        """Fetch one document. Query values that are None are left out."""
        return await self._call("GET", path, query=query)

    async def list(self, path: str, /, **query: object) -> Sequence[Document]:
        """Fetch a list that is an answer by itself."""
        async with self._stream("GET", path, query=query) as response:
            return _decoded(await response.aread(), list[Document])

    async def post(self, path: str, body: object = None, /, **query: object) -> Document:
        """Send a document, with a fresh Idempotency-Key, and return the answer (empty when there is none)."""
        return await self._call("POST", path, query=query, body=body, headers={"Idempotency-Key": str(uuid.uuid4())})

    async def delete(self, path: str) -> Document:
        """Remove something."""
        return await self._call("DELETE", path)

    async def upload(
        self, path: str, source: AsyncIterable[bytes], /, *, method: str = "PUT", **query: object
    ) -> Document:
        """Send a byte stream to where it shall lie, or with ``POST`` to be kept under a new id."""
        async with self._stream(method, path, query=query, content=source) as response:
            return _document(await response.aread())

    async def send_form(self, path: str, fields: Mapping[str, str], source: AsyncIterable[bytes]) -> Document:
        """Send a form, whose last part ``file`` is a byte stream."""
        boundary = uuid.uuid4().hex
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        content = _form(boundary, fields, source)
        async with self._stream("POST", path, content=content, headers=headers) as response:
            return _document(await response.aread())

    @asynccontextmanager
    async def download(self, path: str, /, *, body: object = None, **query: object) -> AsyncIterator[httpx2.Response]:
        """Open a byte stream, that of a document where there is a ``body``; iterate over ``response.aiter_raw()``
        inside the block."""
        async with self._stream("GET" if body is None else "POST", path, query=query, body=body) as response:
            yield response

    @asynccontextmanager
    async def socket(self, path: str, /, **query: str) -> AsyncIterator[AsyncWebSocketSession]:
        """Open a WebSocket."""
        try:
            async with self.http.websocket(
                self._prefix + path, params=query, max_message_size_bytes=MAX_FRAME
            ) as session:
                yield session
        except* WebSocketUpgradeError as group:
            refused = group.exceptions[0]
            assert isinstance(refused, WebSocketUpgradeError)
            raise self.failure(refused.response.status_code, b"") from None
        except* httpx2.TransportError as group:
            raise self.unreachable(group.exceptions[0]) from None

    @asynccontextmanager
    async def lines(self, path: str, body: object) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a document and give the answer as it comes, line by line. There is no limit on its duration."""
        async with self._stream("POST", path, body=body, timeout=httpx2.Timeout(None, connect=10)) as response:
            yield _split(response.aiter_bytes())

    async def events(
        self, path: str, /, *, after: str | None = None, last: Collection[str] = (), **query: object
    ) -> AsyncGenerator[ServerEvent, None]:
        """Follow an event stream to its end, over broken connections and restarts of the daemon, without a gap.

        The stream of a run ends with the run, that of the team never does. ``last`` names the kinds of events that
        nothing follows. Raises Failure when the daemon refuses the stream, or has not answered for a minute.
        """
        pause, since, ended = FIRST_PAUSE, trio.current_time(), False
        while not ended:
            try:
                async with self._stream(
                    "GET", path, query=query, headers=_resume(after), timeout=STREAMING
                ) as response:
                    if response.status_code == httpx2.codes.NO_CONTENT:
                        return
                    async with aclosing(self._read_events(response)) as stream:
                        async for event in stream:
                            pause, since = FIRST_PAUSE, trio.current_time()
                            after = event.id or after
                            ended = event.kind in last
                            yield event
                since = trio.current_time()
            except Failure as failure:
                waited = trio.current_time() - since
                if failure.exit_code is not ExitCode.UNREACHABLE or waited >= GIVE_UP_AFTER:
                    raise
            if not ended:
                await trio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def log_in(self, email: str, password: str) -> None:
        """Begin a session by cookie for the calls that follow, where no key is known yet."""
        answer = await self.post("/auth/session", {"email": email, "password": password})
        self.http.headers["X-CSRF-Token"] = answer["csrfToken"]

    async def _read_events(self, response: httpx2.Response) -> AsyncGenerator[ServerEvent, None]:
        try:
            async for event in httpx2.EventSource(response):
                if event.data:
                    yield ServerEvent(event.id, event.event, _document(event.data.encode()))
        except httpx2.TransportError as error:
            raise self.unreachable(error) from None

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Document:
        async with self._stream(method, path, query=query, body=body, headers=headers) as response:
            try:
                return _document(await response.aread())
            except httpx2.TransportError as error:
                raise self.unreachable(error) from None

    @asynccontextmanager
    async def _stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        content: AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: httpx2.Timeout = TIMEOUT,
    ) -> AsyncIterator[httpx2.Response]:
        """Send a request and give its successful answer before its body has come."""
        sent = dict(headers or {})
        if body is not None:
            sent["Content-Type"] = "application/json"
        request = self.http.build_request(
            method,
            self._prefix + path,
            params={name: str(value) for name, value in (query or {}).items() if value is not None},
            content=msgspec.json.encode(body) if body is not None else content,
            headers=sent,
            timeout=timeout,
        )
        try:
            response = await self.http.send(request, stream=True)
        except httpx2.TransportError as error:
            raise self.unreachable(error) from None
        try:
            if not response.is_success:
                raise self.failure(response.status_code, await response.aread())
            yield response
        finally:
            with trio.CancelScope(shield=True):
                await response.aclose()

    def failure(self, status: int, body: bytes) -> Failure:
        """Turn an error answer into the failure of the command."""
        if status == 401 and self._to.key is None:
            return Failure(
                ExitCode.NOT_AUTHORISED,
                "no_key",
                "no API key is known for this daemon: run anvil login, or set ANVIL_API_KEY",
            )
        try:
            error = msgspec.json.decode(body, type=ErrorAnswer).error
        except msgspec.MsgspecError:
            error = ErrorBody(
                f"http_{status}", f"{self._to.url} answered {status}: is that an anvild, and a recent one?"
            )
        return Failure(exit_for_status(status), error.code, error.message)

    def unreachable(self, error: BaseException) -> Failure:
        """Turn a broken connection into the failure of the command."""
        reason = str(error) or type(error).__name__
        return Failure(
            ExitCode.UNREACHABLE,
            "unreachable",
            f"no daemon answers at {self._to.url} ({self._to.origin}): {reason}. "
            "Start it with anvild serve, or name another with --url",
        )


def _resume(after: str | None) -> dict[str, str]:
    return {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": after})


def _document(body: bytes) -> Document:
    return _decoded(body, Document) if body else {}


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise Failure(
            ExitCode.FAULT, "invalid_answer", f"the daemon's answer is not what it should be: {error}"
        ) from None


async def _form(boundary: str, fields: Mapping[str, str], source: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    for name, value in fields.items():
        yield f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    yield f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'.encode()
    async for chunk in source:
        yield chunk
    yield f"\r\n--{boundary}--\r\n".encode()


async def _split(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut a byte stream into its lines."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line
    if rest:
        yield rest
