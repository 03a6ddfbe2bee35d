"""Rules about the driver protocol itself, where a driver stands behind it: what no well-behaved host would send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from ...errors import CapabilityMissing, InvalidArgument
from ...protocol import PROTOCOL_VERSION, Transport, TransportClosed
from ..bench import Bench
from ..rules import Broken, Level, NotApplicable, require
from .book import BOOK

ANSWER_SECONDS = 30.0
MAJOR = int(PROTOCOL_VERSION.partition(".")[0])
HELLO = {"host": "conformance", "settings": {}, "protocol": f"{MAJOR}.9999", "a_field_of_the_future": [1]}
WRONG: tuple[tuple[str, dict[str, object]], ...] = (
    ("session.open", {}),
    ("driver.recover", {"handle": 7}),
    ("driver.clean", {"device": 1}),
)


class _Wire:
    """A connection on which messages are written by hand."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._number = -1

    async def send(self, message: dict[str, Any]) -> None:
        try:
            await self._transport.send(msgspec.json.encode({"jsonrpc": "2.0", **message}).decode())
        except TransportClosed as closed:
            raise Broken(f"the connection has ended: {closed.reason}") from None

    async def ask(self, method: str, params: object) -> dict[str, Any]:
        """Send a request and return the answer to it."""
        self._number += 2
        await self.send({"id": self._number, "method": method, "params": params})
        try:
            with trio.move_on_after(ANSWER_SECONDS):
                while True:
                    message = await self._transport.receive()
                    if isinstance(message, str):
                        answer: dict[str, Any] = msgspec.json.decode(message)
                        if answer.get("id") == self._number and "method" not in answer:
                            return answer
        except TransportClosed as closed:
            raise Broken(f"{method} was not answered: {closed.reason}") from None
        raise Broken(f"{method} was not answered within {ANSWER_SECONDS:g} s")


@asynccontextmanager
async def _wire(bench: Bench) -> AsyncIterator[_Wire]:
    connection = bench.place.wire()
    if connection is None:
        raise NotApplicable("the driver is in this process, and there is no wire")
    async with connection as transport:
        yield _Wire(transport)


def _refusal(answer: dict[str, Any], code: int, what: str) -> None:
    error = answer.get("error") or {}
    require(error, f"{what} was answered with {answer.get('result')!r}")
    require(error.get("code") == code, f"{what} must be answered with the error {code}, and was with {error}")
    require(error.get("message"), f"{what} was refused without a sentence")


@BOOK.rule("wire.handshake", Level.BRONZE, alone=True)
async def handshake(bench: Bench) -> None:
    """A host of a newer minor version, with fields that nobody knows yet, is answered with the protocol's version and
    the driver's name."""
    async with _wire(bench) as wire:
        answer = await wire.ask("initialize", HELLO)
        result = answer.get("result") or {}
        require(result, f"initialize was refused: {answer.get('error')}")
        require(str(result.get("protocol")).startswith(f"{MAJOR}."), f"the driver speaks {result.get('protocol')!r}")
        require(result.get("name"), "the driver does not say its name")


@BOOK.rule("wire.newer-major", Level.SILVER, alone=True)
async def newer_major(bench: Bench) -> None:
    """A host of a newer major version is refused with a sentence."""
    async with _wire(bench) as wire:
        answer = await wire.ask("initialize", {**HELLO, "protocol": f"{MAJOR + 1}.0"})
        message = (answer.get("error") or {}).get("message", "")
        require(len(message.split()) > 3, f"a host of another major version was answered with {answer}")


@BOOK.rule("wire.unknown", Level.SILVER, alone=True)
async def unknown(bench: Bench) -> None:
    """An unknown method is refused, an unknown notification ignored, and `ping` answered after both."""
    async with _wire(bench) as wire:
        await wire.ask("initialize", HELLO)
        _refusal(await wire.ask("no.such_method", {}), CapabilityMissing.wire, "an unknown method")
        await wire.send({"method": "no_such_notification", "params": {"a": 1}})
        await wire.send({"method": "cancel", "params": {"id": 99_999}})
        answer = await wire.ask("ping", {})
        require("result" in answer, f"ping was answered with {answer}")


@BOOK.rule("wire.wrong-parameters", Level.SILVER, alone=True)
async def wrong_parameters(bench: Bench) -> None:
    """Parameters that are missing or of another type are refused as invalid."""
    async with _wire(bench) as wire:
        await wire.ask("initialize", HELLO)
        for method, params in WRONG:
            _refusal(await wire.ask(method, params), InvalidArgument.wire, f"{method} with {params}")
