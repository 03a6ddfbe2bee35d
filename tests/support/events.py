"""Following the event stream of the capsules wing. Every message is held against the contract."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from jsonschema import Draft202012Validator

from tests.support.capsules import Caller
from tests.support.contract import Document, plain_schema

__all__ = ["STREAM", "listening"]

STREAM = "/v1/events/stream"


async def _messages(lines: AsyncIterator[str], contract: Document) -> AsyncIterator[tuple[int, Any]]:
    schema = Draft202012Validator(plain_schema(contract, contract["components"]["schemas"]["SSEEvent"]))
    found: dict[str, str] = {}
    async for line in lines:
        name, _, value = line.partition(": ")
        if line:
            found[name] = value
        elif "data" in found:
            told = json.loads(found["data"])
            schema.validate(told)
            assert found["event"] == told["event"]
            yield int(found.get("id", 0)), told
            found = {}


@asynccontextmanager
async def listening(caller: Caller, contract: Document, path: str = STREAM, **headers: str) -> AsyncIterator[Any]:
    """Follow events while the block runs: an iterator over their ids and what is told."""
    sent = {**caller.credentials("GET"), **headers}
    async with caller.client.stream("GET", path, headers=sent) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        async with aclosing(_messages(answer.aiter_lines(), contract)) as messages:
            _, hello = await anext(messages)
            assert hello["event"] == "connected"
            yield messages
