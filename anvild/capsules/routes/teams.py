"""Teams and who is in them. All but listing and making teams is about the team that the session is in."""

from __future__ import annotations

import re
from contextlib import suppress

from msgspec import UNSET

from anvild.core.errors import FieldProblem, Forbidden, InvalidRequest
from anvild.core.identity import Identity, Member, Role, Team
from anvild.sdk import AlreadyExists, NotFound
from anvild.web.api import Api
from anvild.web.request import Answer, Request

from ..ids import from_wire, to_wire
from ..schemas import people as wire
from .auth import caller
from .common import SESSION, id_in_path, origin_of

__all__ = ["add_members", "add_teams"]

TAGS = ("teams",)
OTHER_TEAM = "The session is in another team, or its role does not allow this."

_NAME = re.compile(r"[A-Za-z0-9 _@'-]{1,128}")


def add_teams(api: Api, identity: Identity) -> None:
    """Add the operations on teams."""

    @api.get(
        "/teams",
        summary="List teams for the authenticated user",
        tags=TAGS,
        answers={200: list[wire.TeamWithRole]},
        signed_in=True,
        accepts=SESSION,
    )
    async def list_teams(request: Request) -> list[wire.TeamWithRole]:
        user_id, _ = caller(request)
        return [_with_role(team, joined.role) for team, joined in await identity.teams.of_user(user_id)]

    @api.post(
        "/teams",
        summary="Create a new team",
        description="The caller becomes its owner. The session stays in its team.",
        tags=TAGS,
        answers={201: wire.TeamWithRole},
        errors={400: "Invalid team name"},
        body=wire.TeamName,
        signed_in=True,
        accepts=SESSION,
    )
    async def create_team(request: Request) -> Answer:
        body: wire.TeamName = request.body
        user_id, _ = caller(request)
        name = _checked(body.name)
        team = await identity.teams.create(name, owner_id=user_id, by=request.principal, origin=origin_of(request))
        return Answer(201, _with_role(team, "owner"))

    @api.get(
        "/teams/{id}",
        summary="Get team info and member list",
        tags=TAGS,
        answers={200: wire.TeamDetail},
        errors={403: OTHER_TEAM, 404: "Team not found"},
        action="team:read",
        accepts=SESSION,
    )
    async def get_team(request: Request) -> wire.TeamDetail:
        team_id = _own(request)
        members = await identity.teams.members(team_id)
        return wire.TeamDetail(
            team=_shape(await identity.teams.get(team_id)), members=[_member(member) for member in members]
        )

    @api.patch(
        "/teams/{id}",
        summary="Rename the team",
        tags=TAGS,
        answers={204: None},
        errors={400: "Invalid team name", 403: OTHER_TEAM},
        body=wire.TeamName,
        action="team:write",
        accepts=SESSION,
    )
    async def rename_team(request: Request) -> Answer:
        body: wire.TeamName = request.body
        await identity.teams.rename(_own(request), _checked(body.name), by=request.principal, origin=origin_of(request))
        return Answer(204)

    @api.delete(
        "/teams/{id}",
        summary="Delete the team",
        description="Its keys end and its capsules are destroyed. Its slug is never given again.",
        tags=TAGS,
        answers={204: None},
        errors={403: "Caller is not the owner"},
        action="team:delete",
        accepts=SESSION,
    )
    async def delete_team(request: Request) -> Answer:
        await identity.teams.delete(_own(request), by=request.principal, origin=origin_of(request))
        return Answer(204)


def add_members(api: Api, identity: Identity) -> None:
    """Add the operations on the members of a team."""

    @api.get(
        "/teams/{id}/members",
        summary="List team members",
        tags=TAGS,
        answers={200: list[wire.TeamMember]},
        errors={403: OTHER_TEAM},
        action="members:read",
        accepts=SESSION,
    )
    async def list_team_members(request: Request) -> list[wire.TeamMember]:
        return [_member(member) for member in await identity.teams.members(_own(request))]

    @api.post(
        "/teams/{id}/members",
        summary="Add a member by email",
        tags=TAGS,
        answers={201: wire.TeamMember},
        errors={400: "User is already a member", 403: OTHER_TEAM, 404: "No account with that email"},
        body=wire.NewMember,
        action="members:write",
        accepts=SESSION,
    )
    async def add_team_member(request: Request) -> Answer:
        body: wire.NewMember = request.body
        team_id = _own(request)
        user = await identity.users.find(email=body.email)
        if user is None or user.status != "active":
            raise NotFound("there is no account with this address")
        try:
            await identity.teams.add_member(team_id, user.id, by=request.principal, origin=origin_of(request))
        except AlreadyExists as error:
            raise InvalidRequest(error.message) from None
        members = await identity.teams.members(team_id)
        return Answer(201, next(_member(member) for member in members if member.user.id == user.id))

    @api.patch(
        "/teams/{id}/members/{uid}",
        summary="Update member role",
        tags=TAGS,
        answers={204: None},
        errors={403: "Insufficient role or attempt to modify owner", 404: "User is not a member"},
        body=wire.NewRole,
        action="members:write",
        accepts=SESSION,
    )
    async def update_member_role(request: Request) -> Answer:
        body: wire.NewRole = request.body
        await identity.teams.set_role(
            _own(request), id_in_path(request, "usr", "uid"), body.role, by=request.principal, origin=origin_of(request)
        )
        return Answer(204)

    @api.delete(
        "/teams/{id}/members/{uid}",
        summary="Remove a member",
        description="Their keys and sessions in the team end.",
        tags=TAGS,
        answers={204: None},
        errors={403: "Insufficient role or attempt to remove owner", 404: "User is not a member"},
        action="members:write",
        accepts=SESSION,
    )
    async def remove_team_member(request: Request) -> Answer:
        await identity.teams.remove_member(
            _own(request), id_in_path(request, "usr", "uid"), by=request.principal, origin=origin_of(request)
        )
        return Answer(204)

    @api.post(
        "/teams/{id}/leave",
        summary="Leave the team",
        description="The caller's keys in it end. The session goes on in no team; switch it to another one.",
        tags=TAGS,
        answers={204: None},
        errors={403: "Owner cannot leave"},
        action="team:read",
        accepts=SESSION,
    )
    async def leave_team(request: Request) -> Answer:
        await identity.teams.leave(_own(request), by=request.principal, origin=origin_of(request))
        return Answer(204)


def _own(request: Request) -> str:
    """Return the team in the path, if the session is in it. Any other one, there or not, is refused alike."""
    with suppress(NotFound):
        if from_wire("team", request.path["id"]) == request.principal.team_id:
            return request.principal.team_id
    raise Forbidden("the session is not in this team; switch to it first")


def _checked(name: str) -> str:
    name = name.strip()
    if not _NAME.fullmatch(name):
        expected = "1 to 128 letters, digits, spaces and _ - @ '"
        raise InvalidRequest("a team cannot be called this", (FieldProblem("body.name", expected),))
    return name


def _shape(team: Team) -> wire.Team:
    return wire.Team(id=to_wire("team", team.id), name=team.name, slug=team.slug, created_at=team.created_at)


def _with_role(team: Team, role: Role) -> wire.TeamWithRole:
    return wire.TeamWithRole(
        id=to_wire("team", team.id), name=team.name, slug=team.slug, created_at=team.created_at, role=role
    )


def _member(member: Member) -> wire.TeamMember:
    return wire.TeamMember(
        user_id=to_wire("usr", member.user.id),
        role=member.membership.role,
        joined_at=member.membership.joined_at,
        email=member.user.email or UNSET,
    )
