"""Between apprise and the daemon: apprise writes the message, the daemon's way out carries it.

apprise is synchronous and sends with ``requests``, to wherever it likes. Here its calls of ``requests`` come back from
the thread into the daemon's loop: guarded, cancelled with the task that sends, and with the receiver's own answer for
whoever asks. Calls of other users of apprise in this process go out as ever.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from http import HTTPStatus
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from anvild.sdk import InvalidArgument, Outbound, Reply, Unavailable

if TYPE_CHECKING:
    import requests

__all__ = ["deliver"]

AT_A_TIME = 64
MODULES = ("discord", "google_chat", "matrix.base", "slack", "telegram", "workflows")

_limiter = trio.CapacityLimiter(AT_A_TIME)


class _Exchange:
    """The requests of one delivery. Any answer but a yes ends it with the error that the daemon knows."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound
        self.last: Reply | None = None

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send a request from the thread."""
        library = _requests()
        wanted = {name: options.get(name) for name in ("params", "data", "headers")}
        prepared = library.Request(method.upper(), url, **wanted).prepare()
        body = prepared.body or b""
        content = body if isinstance(body, bytes) else str(body).encode()
        headers = {name: str(value) for name, value in prepared.headers.items() if name.lower() != "user-agent"}
        reply = trio.from_thread.run(self._send, method.upper(), str(prepared.url), headers, content)
        self.last = _heeding_body(reply)
        self.last.check()
        response: requests.Response = library.Response()
        response.status_code = self.last.status
        response.headers.update(self.last.headers)
        response.raw = io.BytesIO(self.last.body)
        return response

    async def _send(self, method: str, url: str, headers: dict[str, str], content: bytes) -> Reply:
        return await self._outbound.request(method, url, headers=headers, content=content)


def _heeding_body(reply: Reply) -> Reply:
    """Return an answer that says in its headers when to try again, as some services say it in the body alone."""
    if reply.status != HTTPStatus.TOO_MANY_REQUESTS or reply.retry_after is not None:
        return reply
    try:
        told = msgspec.json.decode(reply.body, type=_Patience)
    except msgspec.MsgspecError:
        return reply
    seconds = max(told.retry_after, told.parameters.retry_after, told.retry_after_ms / 1000)
    return msgspec.structs.replace(reply, headers={**reply.headers, "retry-after": f"{seconds:.3f}"})


class _Parameters(msgspec.Struct, frozen=True):
    retry_after: float = 0.0


class _Patience(msgspec.Struct, frozen=True):
    """How long to wait, as Discord, Telegram and Matrix say it."""

    retry_after: float = 0.0
    parameters: _Parameters = _Parameters()
    retry_after_ms: float = 0.0


_exchange: ContextVar[_Exchange | None] = ContextVar("exchange", default=None)


class _Requests:
    """What stands in the place of the module ``requests`` in the services of apprise."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_requests(), name)

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send by the delivery that this thread works for, if it does for one."""
        exchange = _exchange.get()
        send = _requests().request if exchange is None else exchange.request
        response: requests.Response = send(method, url, **options)
        return response

    def get(self, url: str, **options: Any) -> requests.Response:
        """Send a GET."""
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> requests.Response:
        """Send a POST."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> requests.Response:
        """Send a PUT."""
        return self.request("PUT", url, **options)


@cache
def _requests() -> Any:
    """Load ``requests``, with the first message as well."""
    return import_module("requests")


@cache
def _services() -> Any:
    """Load apprise, which takes a while, at the first message."""
    for name in MODULES:
        import_module(f"apprise.plugins.{name}").requests = _Requests()  # type: ignore[attr-defined]
    # It logs URLs, and tokens are in them. What went wrong is in the answers.
    logging.getLogger("apprise").disabled = True
    return import_module("apprise")


async def deliver(outbound: Outbound, make: Callable[[Any], Any], title: str, text: str) -> str:
    """Have apprise write a message and send it, and return the receiver's last answer.

    ``make`` is called in the thread with the module of apprise and makes the service. Raises as ``Notifier.send``.
    """
    exchange = _Exchange(outbound)

    def work() -> bool:
        apprise = _services()
        _exchange.set(exchange)
        try:
            service = make(apprise)
        except TypeError:  # its message may hold a token
            raise InvalidArgument("apprise does not take this configuration") from None
        service.request_rate_per_sec = 0  # how often a channel sends is up to the daemon
        done: bool = service.notify(body=text, title=title, body_format=apprise.NotifyFormat.TEXT)
        return done

    done = await trio.to_thread.run_sync(work, limiter=_limiter)
    if exchange.last is None:
        raise InvalidArgument("the provider does not take such a message")
    if not done:
        raise Unavailable(f"the receiver answered {exchange.last.line}")
    return exchange.last.line
