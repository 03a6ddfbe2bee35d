"""All teams: listed, allowed to bring hosts, deleted."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from anvild.core.identity import Identity
from anvild.web.api import Api
from anvild.web.request import Answer, Request

from ...administration import Administration, TeamOverview
from ...ids import to_wire
from ...schemas import admin as wire
from ..common import SESSION, id_in_path, origin_of
from ..views import ADMIN_TAGS, NO_ADMIN

__all__ = ["add_all_teams"]

GONE = {**NO_ADMIN, 404: "Team not found"}


def add_all_teams(api: Api, identity: Identity, administration: Administration) -> None:
    """Add the operations on all teams."""

    @api.get(
        "/admin/teams",
        summary="List all teams (admin)",
        description="Newest first, with those that were deleted.",
        tags=ADMIN_TAGS,
        answers={200: list[dict[str, Any]]},
        errors=NO_ADMIN,
        action="admin:read",
        accepts=SESSION,
    )
    async def admin_list_teams(_: Request) -> list[wire.AdminTeam]:
        return [_shape(team) for team in await administration.teams()]

    @api.put(
        "/admin/teams/{id}/byoc",
        summary="Toggle BYOC for a team (admin)",
        description="Whether the team may bring hosts of its own.",
        tags=ADMIN_TAGS,
        answers={204: None},
        errors={**GONE, 400: "The body is not as expected."},
        body=wire.TeamByoc,
        action="admin:write",
        accepts=SESSION,
    )
    async def admin_set_team_byoc(request: Request) -> Answer:
        body: wire.TeamByoc = request.body
        team_id = id_in_path(request, "team")
        await identity.teams.set_byoc(team_id, body.byoc, by=request.principal, origin=origin_of(request))
        return Answer(204)

    @api.delete(
        "/admin/teams/{id}",
        summary="Delete a team (admin)",
        description="Its keys and capsules end.",
        tags=ADMIN_TAGS,
        answers={204: None},
        errors=GONE,
        action="admin:write",
        accepts=SESSION,
    )
    async def admin_delete_team(request: Request) -> Answer:
        await identity.teams.delete(id_in_path(request, "team"), by=request.principal, origin=origin_of(request))
        return Answer(204)


def _shape(team: TeamOverview) -> wire.AdminTeam:
    return wire.AdminTeam(
        id=to_wire("team", team.id),
        name=team.name,
        slug=team.slug,
        is_byoc=team.byoc,
        created_at=team.created_at,
        member_count=team.members,
        active_sandbox_count=team.capsules,
        channel_count=team.channels,
        owner_name=team.owner_name or UNSET,
        owner_email=team.owner_email or UNSET,
        deleted_at=team.deleted_at or UNSET,
    )
