"""API keys: made, shown once, listed, revoked."""

from __future__ import annotations

from contextlib import suppress

from msgspec import UNSET

from anvild.core.identity import ApiKey, Identity
from anvild.sdk import NotFound
from anvild.web.api import Api
from anvild.web.request import Answer, Request

from ..ids import to_wire
from ..schemas import people as wire
from .common import SESSION, id_in_path, origin_of, team_of

__all__ = ["add_keys"]

TAGS = ("api-keys",)
UNNAMED = "Unnamed API Key"


def add_keys(api: Api, identity: Identity) -> None:
    """Add the operations on API keys."""

    @api.post(
        "/api-keys",
        summary="Create an API key",
        description="The text of the key is in this answer and nowhere else.",
        tags=TAGS,
        answers={201: wire.APIKey},
        errors={400: "The name is too long."},
        body=wire.CreateAPIKeyRequest,
        action="keys:write",
        accepts=SESSION,
    )
    async def create_api_key(request: Request) -> Answer:
        body: wire.CreateAPIKeyRequest = request.body
        new = await identity.api_keys.create(
            by=request.principal,
            team_id=team_of(request),
            name=body.name.strip() or UNNAMED,
            style="wrn",
            origin=origin_of(request),
        )
        return Answer(201, _shape(new.key, new.plaintext), headers=[("cache-control", "no-store")])

    @api.get(
        "/api-keys",
        summary="List API keys for your team",
        tags=TAGS,
        answers={200: list[wire.APIKey]},
        action="keys:read",
        accepts=SESSION,
    )
    async def list_api_keys(request: Request) -> list[wire.APIKey]:
        return [_shape(key) for key in await identity.api_keys.list(team_of(request))]

    @api.delete(
        "/api-keys/{id}",
        summary="Delete an API key",
        description="One that is not there is gone as well.",
        tags=TAGS,
        answers={204: None},
        action="keys:write",
        accepts=SESSION,
    )
    async def delete_api_key(request: Request) -> Answer:
        with suppress(NotFound):
            await identity.api_keys.revoke(
                id_in_path(request, "key"),
                team_id=team_of(request),
                by=request.principal,
                origin=origin_of(request),
            )
        return Answer(204)


def _shape(key: ApiKey, plaintext: str | None = None) -> wire.APIKey:
    return wire.APIKey(
        id=to_wire("key", key.id),
        team_id=to_wire("team", key.team_id),
        name=key.name,
        key_prefix=f"{key.prefix}...",
        created_at=key.created_at,
        last_used=UNSET if key.last_used_at is None else key.last_used_at,
        key=UNSET if plaintext is None else plaintext,
    )
