from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
import pytest

from anvild.core.errors import CapReached, Conflict
from anvild.sdk import NotFound, Services
from anvild.web.api import Api
from anvild.web.errors import ErrorShape
from anvild.web.request import Answer, Cookie, CookieNames, Request

pytestmark = pytest.mark.filterwarnings("default")  # Quart's own


class Thing(msgspec.Struct, rename="camel", omit_defaults=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=20)]
    device_id: str | None = None
    count: Annotated[int, msgspec.Meta(ge=0, le=10)] = 0


class Page(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    tag: list[str] = []


def make(services: Services, errors: ErrorShape | None = None) -> Api:
    api = Api(
        name="things",
        prefix="/api/v1",
        title="Things",
        version="1.0.0",
        errors=errors or ErrorShape(codes={"cap_reached": (402, "device_cap_reached")}),
        services=services,
        cookies=CookieNames(session="sid", csrf="csrf"),
        max_body=200_000,
    )

    @api.get("/things", summary="List.", answers={200: Page}, query=Page, action="runs:read")
    async def list_things(request: Request) -> Page:
        page: Page = request.query
        return page

    @api.post("/things", summary="Make.", answers={201: Thing}, body=Thing, action="runs:write")
    async def make_thing(request: Request) -> Thing:
        thing: Thing = request.body
        return thing

    @api.get("/things/{id:uuid}", summary="One.", answers={200: Thing}, action="runs:read")
    async def get_thing(request: Request) -> Answer:
        return Answer(200, {"id": request.path["id"]}, headers=[("x-by", request.principal.actor)])

    @api.delete("/things/{id:uuid}", summary="Remove.", answers={204: None}, action="team:write", limit="tight")
    async def remove_thing(_: Request) -> None:
        return None

    @api.get("/fail/{how}", summary="Fail.", answers={200: None})
    async def fail(request: Request) -> None:
        raise {
            "cap": CapReached("no more devices", cap=3),
            "conflict": Conflict("taken"),
            "bug": ZeroDivisionError("secret text"),
            "group": ExceptionGroup("many", [NotFound("no such run")]),
        }[request.path["how"]]

    @api.get("/cookie", summary="Cookie.", answers={200: None})
    async def cookie(_: Request) -> Answer:
        return Answer(200, "hello", cookies=[Cookie(name="a", value="b", max_age=5)])

    async def hot(request: Request) -> Thing:
        return Thing(name=request.principal.name)

    api.raw("GET", "/hot", hot, summary="Hot.", answers={200: Thing}, signed_in=True)

    async def upload(request: Request) -> dict[str, int]:
        return {"bytes": sum([len(chunk) async for chunk in request.chunks()])}

    api.raw("PUT", "/hot", upload, summary="Big.", answers={200: dict}, signed_in=True, max_body=1000)

    @asynccontextmanager
    async def pieces() -> AsyncIterator[AsyncIterator[bytes]]:
        async def run() -> AsyncIterator[bytes]:
            yield b"one"
            yield b"two"

        yield run()

    async def stream(_: Request) -> Answer:
        return Answer(200, pieces())

    api.raw("GET", "/stream", stream, summary="Stream.", answers={200: bytes})
    api.get("/slow-stream", summary="The same through Quart.", answers={200: bytes})(stream)
    return api


@pytest.fixture
def call(services: Services, client: type) -> Any:
    return client(make(services).app)


@pytest.fixture
def problem_call(services: Services, client: type) -> Any:
    errors = ErrorShape("problem", base="https://errors.test/", codes={"conflict": (409, "taken")})
    return client(make(services, errors).app)


Call = Callable[..., Any]


async def test_a_struct_is_answered_with_the_lowest_status_and_without_defaults(call: Call) -> None:
    reply = await call("POST", "/api/v1/things", body={"name": "a"})
    assert (reply.status, reply.json()) == (201, {"name": "a"})
    assert reply.header("content-type") == "application/json"


async def test_all_field_problems_are_named_at_once(call: Call) -> None:
    reply = await call("POST", "/api/v1/things", body={"name": "", "count": 11, "deviceId": 4})
    assert reply.status == 400
    message = reply.json()["error"]["message"]
    assert reply.json()["error"]["code"] == "invalid_request"
    for part in ("body.name: expected string of length >= 1", "body.count: expected integer <= 10", "body.deviceId"):
        assert part in message


async def test_problems_have_their_own_shape(problem_call: Call) -> None:
    reply = await problem_call("POST", "/api/v1/things", body={})
    assert reply.header("content-type") == "application/problem+json"
    found = reply.json()
    assert found["type"] == "https://errors.test/invalid_request"
    assert found["errors"] == [{"field": "body.name", "expected": "string (it is required)"}]
    assert isinstance(found["detail"], str)
    assert found["instance"] == "/api/v1/things"
    conflict = (await problem_call("GET", "/api/v1/fail/conflict")).json()
    assert (conflict["type"], conflict["code"], conflict["title"]) == ("https://errors.test/taken", "taken", "Conflict")
    assert (await problem_call("GET", "/api/v1/fail/cap")).json()["cap"] == 3


async def test_the_query_is_checked(call: Call) -> None:
    assert (await call("GET", "/api/v1/things?limit=7&tag=a&tag=b")).json() == {"limit": 7, "tag": ["a", "b"]}
    reply = await call("GET", "/api/v1/things?limit=many")
    assert reply.status == 400
    assert "query.limit: expected integer" in reply.json()["error"]["message"]
    assert (await call("GET", "/api/v1/things?tag=%00")).status == 400
    assert (await call("GET", "/api/v1/things?tag=%ff")).status == 400


async def test_path_parameters_are_checked(call: Call) -> None:
    reply = await call("GET", "/api/v1/things/0000001F-0000-7000-8000-000000000000")
    assert reply.json() == {"id": "0000001f-0000-7000-8000-000000000000"}
    assert reply.header("x-by") == "user:u1"
    assert "path.id: expected a UUID" in (await call("GET", "/api/v1/things/7")).json()["error"]["message"]


async def test_a_credential_is_needed_and_must_be_good(call: Call, identity: Any) -> None:
    reply = await call("GET", "/api/v1/things", key=None)
    assert (reply.status, reply.json()["error"]["code"]) == (401, "unauthenticated")
    assert reply.header("www-authenticate") == "Bearer"
    assert (await call("GET", "/api/v1/things", key="wrong")).status == 401
    headers = {"cookie": "sid=owner; csrf=c", "x-csrf-token": "c", "user-agent": "test"}
    assert (await call("GET", "/api/v1/things", key=None, headers=headers)).status == 200
    asked = identity.asked[-1]
    assert (asked.session, asked.csrf_cookie, asked.csrf_header, asked.ip) == ("owner", "c", "c", "127.0.0.1")


async def test_an_action_that_the_principal_may_not_do_is_forbidden(call: Call) -> None:
    path = "/api/v1/things/0000001f-0000-7000-8000-000000000000"
    reply = await call("DELETE", path, key="member")
    assert (reply.status, reply.json()["error"]["code"]) == (403, "forbidden")


async def test_limits_are_counted_by_team_and_told(call: Call) -> None:
    path = "/api/v1/things/0000001f-0000-7000-8000-000000000000"
    first = await call("DELETE", path)
    assert (first.status, first.body) == (204, b"")
    assert (first.header("ratelimit-limit"), first.header("ratelimit-remaining")) == ("2", "1")
    await call("DELETE", path)
    refused = await call("DELETE", path)
    assert refused.status == 429
    assert refused.header("ratelimit-remaining") == "0"
    assert int(refused.header("retry-after") or 0) > 0


async def test_errors_of_handlers(call: Call) -> None:
    cap = await call("GET", "/api/v1/fail/cap", key=None)
    assert (cap.status, cap.json()["error"]) == (402, {"code": "device_cap_reached", "message": "no more devices"})
    assert (await call("GET", "/api/v1/fail/group", key=None)).status == 404
    bug = await call("GET", "/api/v1/fail/bug", key=None)
    assert (bug.status, bug.json()["error"]["code"]) == (500, "internal")
    assert "request-1" in bug.json()["error"]["message"]
    assert b"secret" not in bug.body


async def test_methods(call: Call) -> None:
    missing = await call("PATCH", "/api/v1/hot")
    assert (missing.status, missing.json()["error"]["code"]) == (405, "method_not_allowed")
    assert missing.header("allow") == "GET, HEAD, OPTIONS, PUT"
    options = await call("OPTIONS", "/api/v1/things", key=None)
    assert (options.status, options.header("allow")) == (204, "GET, HEAD, OPTIONS, POST")
    assert (await call("HEAD", "/api/v1/hot")).status == 200
    assert (await call("HEAD", "/api/v1/things")).status == 200
    assert (await call("GET", "/api/v1/nothing")).json()["error"]["code"] == "not_found"
    assert (await call("GET", "/api/v1/things/")).status == 404
    assert (await call("GET", "/api/v1/th%00ings")).status == 400


async def test_bodies_that_are_refused(call: Call) -> None:
    reply = await call("POST", "/api/v1/things", body=b"name=a", headers={"content-type": "text/plain"})
    assert (reply.status, reply.json()["error"]["code"]) == (415, "unsupported_media_type")
    json = {"content-type": "application/json; charset=utf-8"}
    assert (await call("POST", "/api/v1/things", body=b'{"name": "a"}', headers=json)).status == 201
    assert (await call("POST", "/api/v1/things", body=b"{", headers=json)).status == 400
    assert (await call("POST", "/api/v1/things", body=b"\xff", headers=json)).status == 400
    assert (await call("POST", "/api/v1/things", body=b"[" * 100_000, headers=json)).status == 400
    assert (await call("POST", "/api/v1/things", body=b'{"name":"\\u0000"}', headers=json)).status == 400
    large = await call("POST", "/api/v1/things", body={"name": "a" * 300_000})
    assert (large.status, large.header("connection")) == (413, "close")
    in_thread = await call("POST", "/api/v1/things", body={"name": "a" * 100_000})
    assert in_thread.status == 400


async def test_raw_operations_are_checked_the_same(call: Call) -> None:
    assert (await call("GET", "/api/v1/hot")).json() == {"name": "ann"}
    assert (await call("GET", "/api/v1/hot", key=None)).status == 401
    assert (await call("PUT", "/api/v1/hot", body=b"x" * 999)).json() == {"bytes": 999}
    assert (await call("PUT", "/api/v1/hot", body=b"x" * 1001)).status == 413


async def test_streams(call: Call) -> None:
    assert (await call("GET", "/api/v1/stream")).body == b"onetwo"
    assert (await call("GET", "/api/v1/slow-stream")).body == b"onetwo"
    assert (await call("HEAD", "/api/v1/stream")).body == b""


async def test_cookies_are_set(call: Call) -> None:
    reply = await call("GET", "/api/v1/cookie")
    assert reply.header("set-cookie") == "a=b; Path=/; SameSite=Strict; Max-Age=5; HttpOnly; Secure"
    assert reply.header("content-type") == "text/plain; charset=utf-8"
    assert reply.header("content-length") == "5"


async def test_an_operation_takes_the_credentials_that_it_names(services: Services, client: Any) -> None:
    api = Api(
        name="t",
        prefix="",
        title="T",
        version="1",
        errors=ErrorShape(),
        services=services,
        security={
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "session": {"type": "apiKey", "in": "cookie", "name": "anvil_session"},
            "host": {"type": "apiKey", "in": "header", "name": "X-Host-Token"},
        },
    )

    async def who(request: Request) -> Answer:
        return Answer(200, request.principal.id)

    for path, accepts in {"/key": ("key",), "/session": ("session",), "/both": ("key", "session"), "/any": ()}.items():
        api.get(path, summary="Who asks", answers={200: str}, signed_in=True, accepts=accepts)(who)
    ask = client(api.app)
    member, owner, bearer = (
        {"x-api-key": "member"},
        {"cookie": "anvil_session=owner"},
        {"authorization": "Bearer member"},
    )

    async def asked(path: str, **headers: str) -> int | bytes:
        answer = await ask("GET", path, headers=headers, key=None)
        return answer.body if answer.status == 200 else answer.status

    for path, by_key, by_session in (("/key", b"k1", 401), ("/session", 401, b"u1"), ("/both", b"k1", b"u1")):
        assert await asked(path, **member) == await asked(path, **bearer) == by_key
        assert await asked(path, **owner) == by_session
    assert await asked("/session", **member, **owner) == b"u1"
    assert await asked("/any", **owner) == b"u1"
    paths = api.openapi()["paths"]
    assert paths["/session"]["get"]["security"] == [{"session": []}]
    assert paths["/any"]["get"]["security"] == [{"key": []}, {"session": []}, {"host": []}]


async def test_a_lenient_operation_hears_of_a_wrong_body_as_none(services: Services, client: Any) -> None:
    api = Api(name="t", prefix="", title="T", version="1", errors=ErrorShape(), services=services)

    @api.post("/any", summary="Take anything", answers={200: str}, body=Thing, lenient=True)
    async def take(request: Request) -> Answer:
        return Answer(200, "nothing" if request.body is None else request.body.name)

    ask = client(api.app)
    assert (await ask("POST", "/any", body={"name": "ann"}, key=None)).body == b"ann"
    for body in (b"{", b"", {"name": 1}):
        assert (await ask("POST", "/any", body=body, key=None)).body == b"nothing"
