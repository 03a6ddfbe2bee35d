"""Idempotency-Key over a real store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from anvild.core.errors import Conflict
from anvild.core.identity import Credentials, Identity, Limits, Principal
from anvild.core.identity.idempotency import Idempotency, object_id
from anvild.core.identity.secret_box import SecretBox
from anvild.core.store import open_store
from anvild.sdk import Services
from anvild.web.api import Api
from anvild.web.app import root_app
from anvild.web.errors import ErrorShape
from anvild.web.metrics import Metrics, Readiness
from anvild.web.request import Answer, Request

Serving = Callable[..., Any]


class Anyone(Identity):
    def __init__(self) -> None:
        """Whoever asks is the one member of the one team."""

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        return Principal(kind="api_key", id="k1", team_id="t1", role="member")


class Thing(msgspec.Struct):
    name: str


async def test_a_repetition_gets_the_first_answer(serving: Serving, tmp_path: Path) -> None:
    made: list[str] = []
    services = Services()
    services.add(Identity, Anyone())
    services.add(Limits, Limits({"default": "1000/minute"}))
    services.add(Metrics, Metrics())
    services.add(Readiness, Readiness())
    api = Api(name="lab", prefix="/lab", title="Lab", version="1", errors=ErrorShape(), services=services)

    @api.post("/things", summary="Make.", answers={201: dict}, body=Thing, action="runs:write", idempotent=True)
    async def make(request: Request) -> Answer:
        if request.body.name == "taken":
            raise Conflict("it is taken")
        made.append(object_id())
        return Answer(201, {"id": made[-1]}, headers=[("location", f"/lab/things/{made[-1]}")])

    async with open_store(f"sqlite:///{tmp_path}/store.sqlite") as store:
        services.add(Idempotency, Idempotency(store, SecretBox(bytes(32))))
        async with serving(root_app([api.mount()], services)) as server:

            async def post(name: str, key: str) -> bytes:
                body = b'{"name":"%s"}' % name.encode()
                head = (
                    b"POST /lab/things HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Type: application/json\r\n"
                )
                more = b"Idempotency-Key: %s\r\nContent-Length: %d\r\n\r\n" % (key.encode(), len(body))
                found: bytes = await server.ask(head + more + body)
                return found

            answers: list[bytes] = []

            async def keep(name: str, key: str) -> None:
                answers.append(await post(name, key))

            async with trio.open_nursery() as nursery:  # at the same time
                for _ in range(3):
                    nursery.start_soon(keep, "a", "first")
            assert len(made) == 1
            assert sorted(b"idempotency-replayed: true" in answer for answer in answers) == [False, True, True]
            for answer in answers:
                assert answer.startswith(b"HTTP/1.1 201")
                assert answer.endswith(b'{"id":"%s"}' % made[0].encode())
                assert b"location: /lab/things/" in answer
            assert b"idempotency_key_reused" in await post("b", "first")
            assert (await post("taken", "other")).startswith(b"HTTP/1.1 409")
            assert (await post("free", "other")).startswith(b"HTTP/1.1 201")
            assert (await post("free", "x" * 300)).startswith(b"HTTP/1.1 400")
            assert len(made) == 2
