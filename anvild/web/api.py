"""A wing's HTTP surface: its operations, declared once, from which checks, answers and documents follow."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from quart import Response, request
from quart_trio import QuartTrio

from anvild.core.errors import InvalidRequest, RateLimited, TooLarge, Unauthenticated
from anvild.core.identity import Credentials, Identity, LimitResult, Limits, Principal, require
from anvild.core.identity.idempotency import Idempotency, StoredAnswer
from anvild.core.logging import get_logger
from anvild.sdk import AnvilError, Mount, Services

from .body import BodyReader, ClientGone
from .errors import (
    ErrorShape,
    InternalError,
    MethodNotAllowed,
    NoSuchPath,
    RequestTimeout,
    UnsupportedMediaType,
    UpgradeRequired,
)
from .exchange import SlowBody
from .openapi import document
from .operations import Handler, Match, Operation, Routes, parse_template
from .request import Answer, CookieNames, Request
from .sender import encode, head_of, send_answer, send_refusal
from .validation import decode_json, decode_query
from .websocket import WebSocket

if TYPE_CHECKING:
    from hypercorn.typing import HTTPScope

__all__ = ["Api", "SocketHandler"]

log = get_logger("web")

H = TypeVar("H", bound=Handler)
SocketHandler = Callable[[Request, WebSocket], Awaitable[object]]

MAX_BODY = 2 * 2**20
CALL = "anvild.call"


class Call:
    """An operation that is being called: its request, the bytes of its body, the headers that its answer gets."""

    def __init__(self, operation: Operation, incoming: Request) -> None:
        self.operation = operation
        self.request = incoming
        self.data = b""
        self.headers: list[tuple[str, str]] = []


class Api:
    """One wing's HTTP surface, as an ASGI application.

    :param name: the wing's name, in the log and in metrics.
    :param prefix: where the paths of its operations begin, and what it is mounted at.
    :param errors: the shape of its errors.
    :param cookies: the names of its session cookies.
    :param security: its ways to present a credential, as OpenAPI security schemes.
    :param max_body: bytes of an ordinary request's body.
    """

    def __init__(
        self,
        *,
        name: str,
        prefix: str,
        title: str,
        version: str,
        description: str = "",
        errors: ErrorShape,
        services: Services,
        cookies: CookieNames = CookieNames(),  # noqa: B008  # frozen
        security: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        max_body: int = MAX_BODY,
    ) -> None:
        self.name = name
        self.prefix = prefix.rstrip("/")
        self.title = title
        self.version = version
        self.description = description
        self.errors = errors
        self.services = services
        self.cookies = cookies
        self.security = security
        self.max_body = max_body
        self.operations: list[Operation] = []
        self._routes = Routes()
        self._sockets: dict[str, SocketHandler] = {}
        self._quart = QuartTrio(name)
        # The connection has its own deadlines, and the body has been read when Quart gets the request.
        self._quart.config.update(RESPONSE_TIMEOUT=None, BODY_TIMEOUT=None, MAX_CONTENT_LENGTH=None)

    def operation(
        self,
        method: str,
        path: str,
        *,
        summary: str,
        answers: Mapping[int, Any],
        tags: Sequence[str] = (),
        description: str = "",
        errors: Mapping[int, str] = MappingProxyType({}),
        body: Any = None,
        form: Any = None,
        query: Any = None,
        action: str | None = None,
        signed_in: bool = False,
        accepts: Sequence[str] = (),
        lenient: bool = False,
        idempotent: bool = False,
        limit: str | None = None,
        max_body: int | None = None,
        media_type: str | None = None,
        raw: bool = False,
        by_hand: bool = False,
        contract: bool = True,
    ) -> Callable[[H], H]:
        """Declare an operation; its handler gets a :class:`Request` and returns a body or an :class:`Answer`.

        :param path: after the prefix; ``{name}``, ``{name:uuid}`` and ``{name:int}`` are its parameters.
        :param answers: the body's type by status; the lowest status is that of a bare body. None is no body.
        :param errors: what an error status means here, beside those that follow from the declaration.
        :param body: the type of the JSON body; None takes none (a raw operation may read what it likes).
        :param form: a Struct of the fields of a multipart form, for the document; a raw operation reads it itself.
        :param query: a Struct of the query's fields.
        :param action: what the principal must be allowed to do. None asks for nobody, unless ``signed_in``.
        :param accepts: the names of the security schemes whose credentials it takes; others are as good as none. Empty
            takes all that the daemon knows.
        :param lenient: whether a body that is not as expected is None to the handler, rather than refused.
        :param idempotent: whether an Idempotency-Key makes a repetition answer what was answered.
        :param limit: the name of its rate limit, by team or, for a public operation, by address.
        :param media_type: the content type of answers that are no JSON, for the document.
        :param raw: run beside Quart: for hot reads, big bodies and streams.
        :param by_hand: whether a raw operation reads its body itself, which may have other forms than ``body``.
        :param contract: whether it is in the contract that the wing fulfils, or beyond it.
        """

        def declare(handler: H) -> H:
            shown, parameters = parse_template(path)
            operation = Operation(
                name=getattr(handler, "__name__", handler.__class__.__name__),
                method=method,
                path=shown,
                parameters=parameters,
                handler=handler,
                summary=summary,
                description=description,
                tags=tuple(tags),
                answers=answers,
                errors=errors,
                body=body,
                form=form,
                query=query,
                action=action,
                signed_in=signed_in,
                accepts=tuple(accepts),
                lenient=lenient,
                idempotent=idempotent,
                limit=limit,
                max_body=self.max_body if max_body is None else max_body,
                media_type=media_type,
                raw=raw,
                by_hand=by_hand,
                contract=contract,
            )
            self._routes.add(operation)
            self.operations.append(operation)
            if not raw:
                rule = self.prefix + shown.replace("{", "<").replace("}", ">")
                endpoint = f"{method} {shown}"
                self._quart.add_url_rule(rule, endpoint, self._view, methods=[method], provide_automatic_options=False)
            return handler

        return declare

    def get(self, path: str, **declaration: Any) -> Callable[[H], H]:
        """Declare a GET operation; it answers HEAD too. For the rest see :meth:`operation`."""
        return self.operation("GET", path, **declaration)

    def post(self, path: str, **declaration: Any) -> Callable[[H], H]:
        """Declare a POST operation. For the rest see :meth:`operation`."""
        return self.operation("POST", path, **declaration)

    def put(self, path: str, **declaration: Any) -> Callable[[H], H]:
        """Declare a PUT operation. For the rest see :meth:`operation`."""
        return self.operation("PUT", path, **declaration)

    def patch(self, path: str, **declaration: Any) -> Callable[[H], H]:
        """Declare a PATCH operation. For the rest see :meth:`operation`."""
        return self.operation("PATCH", path, **declaration)

    def delete(self, path: str, **declaration: Any) -> Callable[[H], H]:
        """Declare a DELETE operation. For the rest see :meth:`operation`."""
        return self.operation("DELETE", path, **declaration)

    def raw(self, method: str, path: str, handler: Handler, **declaration: Any) -> None:
        """Declare an operation that runs beside Quart: for hot reads, big bodies and streams."""
        self.operation(method, path, raw=True, **declaration)(handler)

    def websocket(self, path: str, handler: SocketHandler, **declaration: Any) -> None:
        """Declare a WebSocket. Its credential, limit, path and query are checked as those of any operation."""

        async def upgrade_required(_: Request) -> Answer:
            answer = self.errors.render(UpgradeRequired("this is a WebSocket: ask for an upgrade"))
            answer.headers += (("upgrade", "websocket"),)
            return answer

        upgrade_required.__name__ = getattr(handler, "__name__", "websocket")
        self.operation("GET", path, raw=True, answers={101: None}, **declaration)(upgrade_required)
        self._sockets[parse_template(path)[0]] = handler

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI 3.1 document of all operations."""
        return document(self)

    def mount(self, run: Callable[[], Awaitable[None]] | None = None) -> Mount:
        """Return what the wing hands to the daemon; ``run`` is its background task."""
        return Mount(name=self.name, prefix=self.prefix or "/", app=self.app, openapi=self.openapi, run=run)

    async def app(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one request or WebSocket (ASGI)."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def _http(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        more: Sequence[tuple[str, str]] = ()
        try:
            call = await self._prepare(scope, receive)
            if isinstance(call, Answer):
                answer = call
            elif call.operation.raw:
                more = call.headers
                answer = await self._run(call)
            else:
                await self._quart(cast("HTTPScope", {**scope, CALL: call}), _nothing_more(receive), send)
                return
        except ClientGone:
            return
        except Exception as error:
            answer = self._failed(error, scope)
        await send_answer(answer, send, more=more, head_only=scope["method"] == "HEAD")

    async def _websocket(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        socket = WebSocket(receive, send)
        try:
            match = self._find(scope)
            operation, handler = self._socket_of(match)
            call = await self._admit(operation, match, scope, receive)
            await socket.serve(lambda accepted: handler(call.request, accepted))
        except Exception as error:
            answer = self._failed(error, scope)
            if not socket.accepted:
                await send_refusal(answer, send)
            else:
                await socket.close(1011, "internal error")
            return
        if socket.accepted:
            await socket.close()

    async def _prepare(self, scope: Mapping[str, Any], receive: Any) -> Call | Answer:
        """Do all that comes before the handler."""
        match = self._find(scope)
        method = scope["method"]
        operation = match.operations.get("GET" if method == "HEAD" else method)
        if operation is None:
            allowed = sorted({*match.operations, "OPTIONS", *(["HEAD"] if "GET" in match.operations else [])})
            if method == "OPTIONS":
                return Answer(204, headers=(("allow", ", ".join(allowed)),))
            raise MethodNotAllowed(method, tuple(allowed))
        call = await self._admit(operation, match, scope, receive)
        if operation.body is not None and not operation.by_hand:
            call.data = await call.request.read()
            content_type = call.request.headers.get("content-type")
            try:
                call.request.body = await decode_json(call.data, operation.body, content_type)
            except (InvalidRequest, UnsupportedMediaType):
                if not operation.lenient:
                    raise
        return call

    def _socket_of(self, match: Match) -> tuple[Operation, SocketHandler]:
        operation = match.operations.get("GET")
        if operation is None or operation.path not in self._sockets:
            raise NoSuchPath("there is no WebSocket here")
        return operation, self._sockets[operation.path]

    def _find(self, scope: Mapping[str, Any]) -> Match:
        path: str = scope["path"]
        if "\0" in path:
            raise InvalidRequest("the path holds a NUL character")
        match = self._routes.find(path.removeprefix(self.prefix))
        if match is None:
            raise NoSuchPath("there is nothing at this path")
        return match

    async def _admit(self, operation: Operation, match: Match, scope: Mapping[str, Any], receive: Any) -> Call:
        """Say who asks, how often, whether they may, and in what form."""
        scope["state"]["operation"] = f"{self.name}.{operation.name}"
        reader = BodyReader(receive, scope["headers"], operation.max_body)
        incoming = Request(scope, self.services, path={}, reader=reader)
        call = Call(operation, incoming)
        if not operation.public:
            incoming.caller = await self.authenticate(incoming, operation.accepts, anew=operation.of_admins)
        self._count(call)
        if operation.action is not None:
            require(incoming.principal, operation.action)
        incoming.recheck = lambda: self._recheck(call)
        parameters = zip(operation.parameters, match.values, strict=True)
        incoming.path = {parameter.name: parameter.check(value) for parameter, value in parameters}
        if operation.query is not None:
            incoming.query = decode_query(scope["query_string"], operation.query)
        return call

    async def authenticate(self, incoming: Request, accepts: Sequence[str] = (), *, anew: bool = False) -> Principal:
        """Return who asks, by a credential of the security schemes in ``accepts``; empty means any. With ``anew`` the
        rights of a session are read from the store.

        Raises Unauthenticated, and Forbidden for a session without its CSRF proof.
        """
        headers, cookies = incoming.headers, incoming.cookies
        known = {
            "authorization": headers.get("authorization"),
            "api_key": headers.get("x-api-key"),
            "session": cookies.get(self.cookies.session),
            "host_token": headers.get("x-host-token"),
        }
        taken = set(known) if not accepts else {part for name in accepts for part in _parts_of(self.security[name])}
        credentials = Credentials(
            **{name: value for name, value in known.items() if name in taken},
            csrf_cookie=cookies.get(self.cookies.csrf),
            csrf_header=headers.get(self.cookies.csrf_header),
            method=incoming.method,
            ip=incoming.ip,
            user_agent=incoming.user_agent,
            anew=anew,
        )
        principal = await self.services.get(Identity).authenticate(credentials)
        if principal is None:
            raise Unauthenticated("sign in, or send an API key")
        return principal

    async def _recheck(self, call: Call) -> None:
        principal = await self.authenticate(call.request, call.operation.accepts, anew=call.operation.of_admins)
        if call.operation.action is not None:
            require(principal, call.operation.action)

    def _count(self, call: Call) -> None:
        caller = call.request.caller
        key = (caller.team_id or caller.id) if caller is not None else (call.request.ip or "local")
        result = self.services.get(Limits).check(call.operation.limit or "default", key)
        call.headers += _limit_headers(result)

    async def _view(self, **_: str) -> Response:
        """Run the operation that a request was prepared for, within Quart's context."""
        call: Call = cast("dict[str, Any]", request.scope)[CALL]
        answer = await self._run(call)
        body = _pieces(answer.body) if isinstance(answer.body, AbstractAsyncContextManager) else encode(answer)
        response = Response(body, answer.status)
        response.headers.clear()
        for name, value in head_of(answer, call.headers):
            response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        if isinstance(body, bytes) and answer.status not in {204, 304}:
            response.headers["content-length"] = str(len(body))
        return response

    async def _run(self, call: Call) -> Answer:
        """Run the handler. Whatever happens, there is an answer."""
        key = call.request.headers.get("idempotency-key") if call.operation.idempotent else None
        try:
            if key is None or call.request.caller is None:
                return await self._perform(call)
            return await self._once(call, call.request.caller, key)
        except Exception as error:
            return self._failed(error, call.request.scope)

    async def _perform(self, call: Call) -> Answer:
        result = await call.operation.handler(call.request)
        return result if isinstance(result, Answer) else Answer(min(call.operation.answers), result)

    async def _once(self, call: Call, caller: Principal, key: str) -> Answer:
        """Run the handler unless a request with this key has been answered; then answer that again."""

        async def first() -> StoredAnswer:
            answer = await self._perform(call)
            headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head_of(answer))
            return StoredAnswer(answer.status, headers, encode(answer))

        incoming = call.request
        content = sha256(call.data + b"\0" + incoming.scope["query_string"]).hexdigest()
        operation = f"{incoming.method} {incoming.url_path}"
        stored = await self.services.get(Idempotency).once(caller, operation, key, content, first)
        replayed = (("idempotency-replayed", "true"),) if stored.replayed else ()
        return Answer(stored.status, stored.body, headers=(*stored.headers, *replayed))

    def _failed(self, error: Exception, scope: Mapping[str, Any]) -> Answer:
        """Make an error an answer. What is no error of the table is a defect, and goes to the log."""
        known = _known(error)
        if known is None:
            request_id = scope["state"].get("request_id", "")
            log.error("operation_failed", request_id=request_id, path=scope["path"], exc_info=error)
            known = InternalError(request_id)
        answer = self.errors.render(known, instance=scope["path"])
        limit = known.details.get("limit")
        if isinstance(known, RateLimited) and isinstance(limit, LimitResult):
            answer.headers += tuple(_limit_headers(limit))
        if isinstance(known, TooLarge | RequestTimeout):
            answer.headers += (("connection", "close"),)
        return answer


def _known(error: BaseException) -> AnvilError | None:
    """Return the error of the table that an exception is; groups of one are looked into."""
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return _known(error.exceptions[0])
    if isinstance(error, SlowBody):
        return RequestTimeout("the body did not arrive in time")
    return error if isinstance(error, AnvilError) else None


def _parts_of(scheme: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the credentials that a security scheme is about. An API key may come in either of its two headers."""
    if scheme["type"] == "apiKey" and scheme["in"] == "cookie":
        return ("session",)
    if scheme["type"] == "apiKey" and scheme["name"].lower() == "x-host-token":
        return ("host_token",)
    return ("api_key", "authorization")


def _limit_headers(result: LimitResult) -> list[tuple[str, str]]:
    return [
        ("ratelimit-limit", str(result.limit)),
        ("ratelimit-remaining", str(result.remaining)),
        ("ratelimit-reset", str(math.ceil(result.reset))),
    ]


def _nothing_more(receive: Any) -> Callable[[], Awaitable[Any]]:
    """Give Quart a request whose body has been read; it still hears when the client goes."""
    told = False

    async def receive_rest() -> Any:
        nonlocal told
        if not told:
            told = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return message

    return receive_rest


async def _pieces(body: AbstractAsyncContextManager[AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
    async with body as pieces:
        async for piece in pieces:
            yield piece
