"""A receiver that stands for all six providers, and the way to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from ipaddress import ip_network
from urllib.parse import urlsplit

import pytest

from anvild.core.notify import GuardedOutbound
from anvild.sdk import Outbound, Reply
from tests.support.receiver import Receiver, receiver


class Rerouted(Outbound):
    """Leads every request to the receiver, which sees by the header ``Host`` where it was meant to go."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._outbound = GuardedOutbound([ip_network("127.0.0.0/8")])

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> Reply:
        meant = urlsplit(url)
        there = f"{self._url}{meant.path}" + (f"?{meant.query}" if meant.query else "")
        given = {**(headers or {}), "Host": meant.netloc}
        return await self._outbound.request(method, there, headers=given, content=content)


@pytest.fixture
async def provider() -> AsyncIterator[Receiver]:
    """The receiver."""
    async with receiver() as found:
        yield found


@pytest.fixture
def outbound(provider: Receiver) -> Outbound:
    """The way to it."""
    return Rerouted(provider.url)
