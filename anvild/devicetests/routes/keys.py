"""API keys: minted, shown once, listed, revoked."""

from __future__ import annotations

from msgspec import UNSET

from anvild.core.identity import Identity
from anvild.web.api import Api
from anvild.web.request import Answer, Request

from .. import schemas as wire
from ..shapes import key_shape
from .common import origin_of, team_of

__all__ = ["add_keys"]

TAGS = ("API keys",)


def add_keys(api: Api, identity: Identity) -> None:
    """Add the operations on API keys."""

    @api.get(
        "/org/api-keys",
        summary="List your org's API keys.",
        description="Prefix + last-used only; plaintext is never returned. Revoked keys stay in the list.",
        tags=TAGS,
        answers={200: wire.ApiKeyList},
        action="keys:read",
    )
    async def list_keys(request: Request) -> wire.ApiKeyList:
        keys = await identity.api_keys.list(team_of(request), revoked=True)
        return wire.ApiKeyList(keys=[key_shape(key) for key in keys])

    @api.post(
        "/org/api-keys",
        summary="Mint a new API key.",
        description="The `plaintext` field is returned exactly once — store it immediately.",
        tags=TAGS,
        answers={201: wire.ApiKeyCreated},
        errors={400: "The body is not as expected, or there is no such scope."},
        body=wire.ApiKeyCreateBody,
        action="keys:write",
        idempotent=True,
    )
    async def create_key(request: Request) -> wire.ApiKeyCreated:
        body: wire.ApiKeyCreateBody = request.body
        new = await identity.api_keys.create(
            by=request.principal,
            team_id=team_of(request),
            name=body.name,
            scopes=None if body.scopes is UNSET else body.scopes,
            origin=origin_of(request),
        )
        return wire.ApiKeyCreated(
            id=new.key.id,
            name=new.key.name,
            prefix=new.key.prefix,
            created_at=new.key.created_at,
            plaintext=new.plaintext,
            last4=new.key.last4,
        )

    @api.delete(
        "/org/api-keys/{id:uuid}",
        summary="Revoke an API key by id.",
        tags=TAGS,
        answers={204: None},
        errors={400: "id must be a UUID", 404: "Not found"},
        action="keys:write",
    )
    async def revoke_key(request: Request) -> Answer:
        await identity.api_keys.revoke(
            request.path["id"], team_id=team_of(request), by=request.principal, origin=origin_of(request)
        )
        return Answer(204)
