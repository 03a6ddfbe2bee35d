"""Finding people, to add them to a team."""

from __future__ import annotations

from anvild.core.errors import FieldProblem, InvalidRequest
from anvild.core.identity import Identity
from anvild.web.api import Api
from anvild.web.request import Request

from ..ids import to_wire
from ..schemas import people as wire
from .common import SESSION

__all__ = ["add_users"]

LEAST = 3
FOUND = 10


def add_users(api: Api, identity: Identity) -> None:
    """Add the search for people."""

    @api.get(
        "/users/search",
        summary="Search users by email prefix",
        description=f"At most {FOUND}, by address.",
        tags=("users",),
        answers={200: list[wire.UserSearchResult]},
        errors={400: 'Prefix does not contain "@"'},
        query=wire.UserQuery,
        signed_in=True,
        accepts=SESSION,
    )
    async def search_users(request: Request) -> list[wire.UserSearchResult]:
        query: wire.UserQuery = request.query
        prefix = query.email.strip()
        if len(prefix) < LEAST or "@" not in prefix:
            expected = f"at least {LEAST} characters with an @ among them"
            raise InvalidRequest("there is too little to look for", (FieldProblem("query.email", expected),))
        found = await identity.users.search(prefix, limit=FOUND)
        return [wire.UserSearchResult(user_id=to_wire("usr", user.id), email=user.email or "") for user in found]
