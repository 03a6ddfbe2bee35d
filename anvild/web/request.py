"""What a handler gets and what it gives back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from typing import Any

import msgspec

from anvild.core.identity import Principal
from anvild.sdk import Services

from .body import BodyReader
from .stopping import Stopping

__all__ = ["Answer", "ByteStream", "Cookie", "CookieNames", "Headers", "Request"]

ByteStream = AbstractAsyncContextManager[AsyncIterator[bytes]]
"""A body that is sent piece by piece. It is entered when the head has been sent and left however the sending ends."""


class CookieNames(msgspec.Struct, frozen=True):
    """The cookies of a wing's sessions, and the header in which a session proves that its own page is asking."""

    session: str = "anvil_session"
    csrf: str = "anvil_csrf"
    csrf_header: str = "x-csrf-token"


class Cookie(msgspec.Struct, frozen=True, kw_only=True):
    """A cookie to set. ``max_age`` in seconds; 0 clears it, None lets it live as long as the browser."""

    name: str
    value: str
    max_age: int | None = None
    path: str = "/"
    http_only: bool = True
    secure: bool = True
    same_site: str = "Strict"

    def header(self) -> str:
        """The value of its Set-Cookie header."""
        parts = [f"{self.name}={self.value}", f"Path={self.path}", f"SameSite={self.same_site}"]
        if self.max_age is not None:
            parts.append(f"Max-Age={self.max_age}")
        if self.http_only:
            parts.append("HttpOnly")
        if self.secure:
            parts.append("Secure")
        return "; ".join(parts)


class Answer:
    """A status, a body, headers and cookies.

    ``body`` is a msgspec Struct or other value that becomes JSON, text or bytes that are sent as they are, or a
    :data:`ByteStream`. None is no body.
    """

    __slots__ = ("body", "cookies", "headers", "media_type", "status")

    def __init__(
        self,
        status: int = 200,
        body: object = None,
        *,
        headers: Iterable[tuple[str, str]] = (),
        cookies: Sequence[Cookie] = (),
        media_type: str | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = tuple(headers)
        self.cookies = cookies
        self.media_type = media_type


class Headers(Mapping[str, str]):
    """The headers of a request, by lower-case name. Repeated ones are joined by a comma."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = list(raw)

    def __getitem__(self, name: str) -> str:
        wanted = name.lower().encode("latin-1")
        found = [value.decode("latin-1") for key, value in self._raw if key == wanted]
        if not found:
            raise KeyError(name)
        return ("; " if wanted == b"cookie" else ", ").join(found)

    def __iter__(self) -> Any:
        return iter(dict.fromkeys(key.decode("latin-1") for key, _ in self._raw))

    def __len__(self) -> int:
        return len({key for key, _ in self._raw})


async def _nothing_to_check() -> None:
    """A public operation stays allowed."""


class Request:
    """One request to an operation, checked: its credential, its limits and its form are in order.

    ``body`` and ``query`` are instances of the types that the operation declares, or None. ``path`` holds the path's
    parameters. ``recheck`` asks again whether the credential is good and may do the operation, for answers that last;
    it raises what the operation would have been refused with.
    Made by :class:`~anvild.web.api.Api`; tests of handlers may make their own.
    """

    def __init__(
        self,
        scope: Mapping[str, Any],
        services: Services,
        *,
        path: Mapping[str, str],
        reader: BodyReader,
        caller: Principal | None = None,
        recheck: Callable[[], Awaitable[None]] = _nothing_to_check,
    ) -> None:
        self.scope = scope
        self.services = services
        self.path = path
        self.headers = Headers(scope["headers"])
        self.caller = caller
        self.body: Any = None
        self.query: Any = None
        self.recheck = recheck
        self._reader = reader

    @property
    def principal(self) -> Principal:
        """Who asks. An error of the operation when it is public; there ``caller`` may be None."""
        if self.caller is None:
            raise LookupError("this operation is public, so nobody in particular asks")
        return self.caller

    @property
    def method(self) -> str:
        """The method in capitals."""
        method: str = self.scope.get("method", "GET")
        return method

    @property
    def url_path(self) -> str:
        """The whole decoded path that was asked for."""
        path: str = self.scope["path"]
        return path

    @property
    def ip(self) -> str | None:
        """The address of the client's end of the connection; None on a Unix socket."""
        client = self.scope.get("client")
        return client[0] if client else None

    @property
    def user_agent(self) -> str | None:
        """What the client calls itself."""
        return self.headers.get("user-agent")

    @property
    def id(self) -> str:
        """The id of this request in the log and in the X-Request-Id header."""
        request_id: str = self.scope["state"].get("request_id", "")
        return request_id

    @property
    def stopping(self) -> Stopping:
        """Set when the daemon stops. An answer without end should end then."""
        stopping: Stopping = self.scope["state"]["stopping"]
        return stopping

    @cached_property
    def cookies(self) -> Mapping[str, str]:
        """The cookies that the client sent; none when it sent something else in their place."""
        try:
            parsed = SimpleCookie(self.headers.get("cookie", ""))
        except CookieError:
            return {}
        return {name: morsel.value for name, morsel in parsed.items()}

    async def read(self) -> bytes:
        """Return the whole body. Raises as :meth:`chunks` does."""
        return await self._reader.whole()

    def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the body of a raw operation as it arrives.

        Raises TooLarge beyond the operation's limit, RequestTimeout when the client is too slow. The client is held
        back while a chunk is being worked on.
        """
        return self._reader
