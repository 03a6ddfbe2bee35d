"""All people: listed, kept out and let in again, made admins of the platform."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from anvild.core.errors import Conflict, InvalidRequest
from anvild.core.identity import Identity
from anvild.web.api import Api
from anvild.web.request import Answer, Request

from ...administration import Administration, Person
from ...ids import to_wire
from ...schemas import admin as wire
from ..common import SESSION, id_in_path, origin_of
from ..views import ADMIN_TAGS, NO_ADMIN

__all__ = ["add_all_users"]

GONE = {**NO_ADMIN, 404: "User not found"}


def add_all_users(api: Api, identity: Identity, administration: Administration) -> None:
    """Add the operations on all people."""

    @api.get(
        "/admin/users",
        summary="List all users (admin)",
        description="Newest first.",
        tags=ADMIN_TAGS,
        answers={200: list[dict[str, Any]]},
        errors=NO_ADMIN,
        action="admin:read",
        accepts=SESSION,
    )
    async def admin_list_users(_: Request) -> list[wire.AdminUser]:
        return [_shape(person) for person in await administration.people()]

    @api.put(
        "/admin/users/{id}/active",
        summary="Activate or deactivate a user (admin)",
        description="Who is deactivated loses their sessions, the API keys that they made, and the capsules of the "
        "teams that they own.",
        tags=ADMIN_TAGS,
        answers={204: None},
        errors={**GONE, 400: "The body is not as expected, or it is the caller's own account."},
        body=wire.UserActive,
        action="admin:write",
        accepts=SESSION,
    )
    async def admin_set_user_active(request: Request) -> Answer:
        body: wire.UserActive = request.body
        user_id = id_in_path(request, "usr")
        await administration.set_active(user_id, body.active, by=request.principal, origin=origin_of(request))
        return Answer(204)

    @api.put(
        "/admin/users/{id}/admin",
        summary="Grant or revoke platform admin",
        description="It holds from the user's next request on.",
        tags=ADMIN_TAGS,
        answers={204: None},
        errors={**GONE, 400: "The body is not as expected, or there would be no admin left."},
        body=wire.UserAdmin,
        action="admin:write",
        accepts=SESSION,
    )
    async def set_user_admin(request: Request) -> Answer:
        body: wire.UserAdmin = request.body
        user_id = id_in_path(request, "usr")
        try:
            await identity.users.set_admin(user_id, body.admin, by=request.principal, origin=origin_of(request))
        except Conflict as error:
            raise InvalidRequest(error.message) from None
        return Answer(204)


def _shape(person: Person) -> wire.AdminUser:
    return wire.AdminUser(
        id=to_wire("usr", person.id),
        name=person.name,
        is_admin=person.is_admin,
        status=person.status,
        created_at=person.created_at,
        teams_joined=person.joined,
        teams_owned=person.owned,
        email=person.email or UNSET,
    )
