"""The operation that shows an interface's own document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import trio

from .api import Api
from .openapi import Schema
from .request import Answer, Request

__all__ = ["add_document"]


def add_document(api: Api, build: Callable[[], Schema], *, tags: Sequence[str]) -> None:
    """Add ``GET /openapi.json``. What ``build`` returns is made when it is first asked for, in a thread, since it takes
    a good part of a second of work."""
    making = trio.Lock()
    made: list[bytes] = []

    async def get_openapi(_: Request) -> Answer:
        async with making:
            if not made:
                made.append(await trio.to_thread.run_sync(lambda: msgspec.json.encode(build())))
        return Answer(200, made[0], media_type="application/json")

    api.get(
        "/openapi.json",
        summary="The OpenAPI document of this interface.",
        tags=tuple(tags),
        answers={200: dict[str, Any]},
        contract=False,
    )(get_openapi)
