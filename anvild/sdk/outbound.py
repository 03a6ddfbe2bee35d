"""The way out: how a notifier sends HTTP requests to wherever its users say, without becoming their way in.

The daemon hands an :class:`Outbound` to each notifier. It reaches public addresses, and those that the operator allows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import MappingProxyType

import msgspec

from .errors import InvalidArgument, Unavailable

__all__ = ["Outbound", "Reply"]

_TEXT = 200
_REFUSED = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.GONE,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver answered. ``headers`` have lower-case names; ``body`` is its first 64 KiB."""

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""

    @property
    def line(self) -> str:
        """The answer in one line for a person: the status and the beginning of the text."""
        known = next((each.phrase for each in HTTPStatus if each == self.status), "")
        head = f"{self.status} {known}".strip()
        text = " ".join(self.body[: 4 * _TEXT].decode(errors="replace").split())
        text = "".join(each for each in text if each.isprintable())
        short = text if len(text) <= _TEXT else f"{text[:_TEXT]}…"
        return f"{head}: {short}" if short else head

    @property
    def retry_after(self) -> float | None:
        """The seconds that the receiver asks to be left alone for, if it does."""
        text = self.headers.get("retry-after", "").strip()
        if text.replace(".", "", 1).isascii() and text.replace(".", "", 1).isdigit():
            return float(text)
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())

    def check(self, *, refused: frozenset[int] = _REFUSED) -> str:
        """Return :attr:`line` of an answer that says yes: any 2xx.

        Raises InvalidArgument for a status in ``refused``, with which the receiver says that it will never take this;
        Unavailable for every other one, with what it says of when to try again.
        """
        if HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES:
            return self.line
        told = f"the receiver answered {self.line}"
        if self.status in refused:
            raise InvalidArgument(told)
        wait = self.retry_after
        raise Unavailable(told) if wait is None else Unavailable(told, retry_after=wait)


class Outbound(ABC):
    """Sends HTTP requests. It follows no redirects, since they may lead to where the daemon must not go."""

    @abstractmethod
    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> Reply:
        """Send one request and return the answer, whatever its status.

        Raises InvalidArgument for what is no ``http`` or ``https`` URL, PermissionDenied for a host that has only
        addresses that are not allowed, Unavailable when it cannot be reached. Has no deadline of its own: the call
        that it is a part of has one. Cancelling closes the connection; the receiver may have got the request.
        """
