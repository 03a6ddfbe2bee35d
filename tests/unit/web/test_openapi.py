from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from anvild.sdk import Services
from anvild.web.api import Api
from anvild.web.errors import ErrorShape
from anvild.web.openapi import merge
from anvild.web.request import Request
from anvild.web.websocket import WebSocket

SECURITY = {
    "apiKey": {"type": "http", "scheme": "bearer"},
    "session": {"type": "apiKey", "in": "cookie", "name": "sid"},
}


class Run(msgspec.Struct, rename="camel"):
    id: UUID
    status: Literal["queued", "running"]
    created_at: datetime
    device_id: Annotated[
        Annotated[str, msgspec.Meta(max_length=120)] | None, msgspec.Meta(extra_json_schema={"nullable": True})
    ] = None
    labels: dict[str, str] | None = None


class NewRun(msgspec.Struct, rename="camel"):
    pipeline: Annotated[str, msgspec.Meta(min_length=1, description="what to run")]


class Page(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=200, description="how many")] = 50


def make(services: Services, name: str, errors: ErrorShape) -> Api:
    api = Api(
        name=name,
        prefix=f"/{name}",
        title=name,
        version="1.2.3",
        errors=errors,
        services=services,
        security=SECURITY,
    )

    async def anything(_: Request) -> None: ...

    async def create_run(_: Request) -> None: ...

    async def get_log(_: Request) -> None: ...

    async def remove_run(_: Request) -> None: ...

    async def put_file(_: Request) -> None: ...

    async def socket(_: Request, __: WebSocket) -> None: ...

    api.get("/runs", summary="List.", answers={200: list[Run]}, query=Page, action="runs:read", tags=["Runs"])(anything)
    api.post(
        "/runs",
        summary="Queue.",
        answers={202: Run},
        errors={400: "Wrong body.", 402: "Cap reached."},
        body=NewRun,
        action="runs:write",
        idempotent=True,
    )(create_run)
    api.get("/runs/{id:uuid}/log", summary="Log.", answers={200: str}, contract=False)(get_log)
    api.delete("/runs/{id:uuid}", summary="Remove.", answers={204: None}, signed_in=True)(remove_run)
    api.raw("PUT", "/runs/{number:int}/file", put_file, summary="File.", answers={200: bytes}, media_type="image/png")
    api.websocket("/ws/{name}", socket, summary="Live.")
    return api


@pytest.fixture
def documents(services: Services) -> list[dict[str, Any]]:
    envelope = ErrorShape(codes={"unauthenticated": (401, "unauthenticated")})
    return [make(services, "one", envelope).openapi(), make(services, "two", ErrorShape()).openapi()]


async def test_a_document_is_valid(documents: list[dict[str, Any]], services: Services) -> None:
    OpenAPIV31SpecValidator(documents[0]).validate()
    OpenAPIV31SpecValidator(make(services, "three", ErrorShape("problem")).openapi()).validate()
    assert documents[0]["info"] == {"title": "one", "version": "1.2.3", "description": ""}


async def test_an_operation_tells_all_that_follows_from_its_declaration(documents: list[dict[str, Any]]) -> None:
    post = documents[0]["paths"]["/one/runs"]["post"]
    assert post["operationId"] == "createRun"
    assert post["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/NewRun"}
    assert set(post["responses"]) == {"202", "400", "401", "402", "default"}
    assert post["security"] == [{"apiKey": []}, {"session": []}]
    assert [parameter["name"] for parameter in post["parameters"]] == ["Idempotency-Key"]
    listing = documents[0]["paths"]["/one/runs"]["get"]
    assert listing["parameters"] == [
        {
            "in": "query",
            "name": "limit",
            "required": False,
            "description": "how many",
            "schema": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50},
        }
    ]
    log = documents[0]["paths"]["/one/runs/{id}/log"]["get"]
    assert log["x-beyond-contract"] is True
    assert log["security"] == []
    assert log["parameters"][0]["schema"] == {"type": "string", "format": "uuid"}
    assert log["responses"]["200"]["content"] == {"text/plain": {"schema": {"type": "string"}}}
    file = documents[0]["paths"]["/one/runs/{number}/file"]["put"]
    assert list(file["responses"]["200"]["content"]) == ["image/png"]
    assert "content" not in documents[0]["paths"]["/one/runs/{id}"]["delete"]["responses"]["204"]


async def test_nullable_stands_beside_the_form_of_3_1(documents: list[dict[str, Any]]) -> None:
    run = documents[0]["components"]["schemas"]["Run"]
    assert run["required"] == ["id", "status", "createdAt"]
    device = run["properties"]["deviceId"]
    assert device == {"type": ["string", "null"], "maxLength": 120, "nullable": True, "default": None}
    assert run["properties"]["labels"]["type"] == ["object", "null"]
    assert run["properties"]["id"] == {"type": "string", "format": "uuid"}


async def test_documents_are_merged(documents: list[dict[str, Any]]) -> None:
    merged = merge({"one": documents[0], "two": documents[1]}, title="all", version="1")
    assert merged["paths"]["/two/runs"]["post"]["operationId"] == "two.createRun"
    OpenAPIV31SpecValidator(merged).validate()
    assert {"/one/runs", "/two/runs"} <= set(merged["paths"])
    with pytest.raises(ValueError, match="of their own"):
        merge({"one": documents[0], "again": documents[0]}, title="all", version="1")
