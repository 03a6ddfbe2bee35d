"""Coming in and going out: login, sessions, the team that a session is in."""

from __future__ import annotations

from msgspec import UNSET

from anvild.core.clock import utcnow
from anvild.core.errors import Forbidden
from anvild.core.identity import Identity, NewSession, Person
from anvild.web.api import Api
from anvild.web.request import Answer, Cookie, Request

from ..errors import AccountDisabled, AccountNotActivated
from ..ids import from_wire, to_wire
from ..schemas import people as wire
from .common import SESSION, origin_of

__all__ = ["add_auth", "caller", "cleared", "session_answer"]

TAGS = ("auth",)


def add_auth(api: Api, identity: Identity) -> None:
    """Add login, logout, the list of sessions, and the change of team."""

    @api.post(
        "/auth/login",
        summary="Log in with email and password",
        description=f"Sets the cookies `{api.cookies.session}` and `{api.cookies.csrf}`.",
        tags=TAGS,
        answers={200: wire.SessionResponse},
        errors={
            401: "Invalid credentials",
            403: "The password is right, and the account is not active.",
            429: "Too many attempts.",
        },
        body=wire.LoginRequest,
    )
    async def login(request: Request) -> Answer:
        body: wire.LoginRequest = request.body
        person = await _checked(identity, body, request)
        if person.team_id is None:
            await identity.accounts.give_team(person.user_id, origin=origin_of(request))
        new = await identity.sessions.create(person.user_id, origin=origin_of(request))
        return await session_answer(api, identity, new)

    @api.post(
        "/auth/logout",
        summary="Revoke the current session",
        tags=TAGS,
        answers={204: None},
        errors={403: "The CSRF token is missing or wrong."},
        signed_in=True,
        accepts=SESSION,
    )
    async def logout(request: Request) -> Answer:
        user_id, session_id = caller(request)
        await identity.sessions.revoke(session_id, user_id=user_id, by=request.principal, origin=origin_of(request))
        return cleared(api)

    @api.post(
        "/auth/logout-all",
        summary="Revoke every session for the current user",
        tags=TAGS,
        answers={204: None},
        errors={403: "The CSRF token is missing or wrong."},
        signed_in=True,
        accepts=SESSION,
    )
    async def logout_all(request: Request) -> Answer:
        user_id, _ = caller(request)
        await identity.sessions.revoke_all(user_id, by=request.principal, origin=origin_of(request))
        return cleared(api)

    @api.post(
        "/auth/switch-team",
        summary="Switch active team",
        description="The session gets new cookies; the old ones are good for nothing.",
        tags=TAGS,
        answers={200: wire.SessionResponse},
        errors={403: "Not a member of this team", 404: "Team not found"},
        body=wire.SwitchTeam,
        signed_in=True,
        accepts=SESSION,
    )
    async def switch_team(request: Request) -> Answer:
        body: wire.SwitchTeam = request.body
        team_id = from_wire("team", body.team_id)
        new = await identity.sessions.switch_team(request.principal, team_id, origin=origin_of(request))
        return await session_answer(api, identity, new)

    @api.get(
        "/me/sessions",
        summary="List the caller's active sessions",
        tags=("me",),
        answers={200: wire.SessionList},
        signed_in=True,
        accepts=SESSION,
    )
    async def list_sessions(request: Request) -> wire.SessionList:
        user_id, current = caller(request)
        return wire.SessionList(
            sessions=[
                wire.Session(
                    id=each.id,
                    created_at=each.created_at,
                    last_seen_at=each.last_seen_at,
                    expires_at=each.expires_at,
                    current=each.id == current,
                    user_agent=each.user_agent or UNSET,
                    ip_address=each.ip or UNSET,
                )
                for each in await identity.sessions.list(user_id)
            ]
        )

    @api.delete(
        "/me/sessions/{id}",
        summary="Revoke a single session",
        tags=("me",),
        answers={204: None},
        errors={403: "The CSRF token is missing or wrong.", 404: "The caller has no such session."},
        signed_in=True,
        accepts=SESSION,
    )
    async def revoke_session(request: Request) -> Answer:
        user_id, _ = caller(request)
        await identity.sessions.revoke(
            request.path["id"], user_id=user_id, by=request.principal, origin=origin_of(request)
        )
        return Answer(204)


def caller(request: Request) -> tuple[str, str]:
    """Return the person who asks and their session. Only for operations that take nothing but a session."""
    principal = request.principal
    assert principal.user_id is not None
    assert principal.session_id is not None
    return principal.user_id, principal.session_id


async def session_answer(api: Api, identity: Identity, new: NewSession) -> Answer:
    """Return the answer that begins a session: its cookies, and who it is."""
    person = new.person
    user = await identity.users.get(person.user_id)
    age = int((new.expires_at - utcnow()).total_seconds())
    return Answer(
        200,
        wire.SessionResponse(
            user_id=to_wire("usr", user.id),
            name=user.name,
            is_admin=user.is_admin,
            email=user.email or UNSET,
            team_id=UNSET if person.team_id is None else to_wire("team", person.team_id),
            role=person.role or UNSET,
        ),
        headers=[("cache-control", "no-store")],
        cookies=[
            Cookie(name=api.cookies.session, value=new.secret, max_age=age),
            Cookie(name=api.cookies.csrf, value=new.csrf, max_age=age, http_only=False),
        ],
    )


def cleared(api: Api) -> Answer:
    """Return the answer that takes a session's cookies back."""
    return Answer(
        204,
        cookies=[
            Cookie(name=api.cookies.session, value="", max_age=0),
            Cookie(name=api.cookies.csrf, value="", max_age=0, http_only=False),
        ],
    )


async def _checked(identity: Identity, body: wire.LoginRequest, request: Request) -> Person:
    """Check a password. What the account is, is told to those alone who know it."""
    try:
        return await identity.logins.check(body.email, body.password, origin=origin_of(request))
    except Forbidden as error:
        if error.details.get("reason") == "account_not_activated":
            raise AccountNotActivated(error.message) from None
        raise AccountDisabled(error.message) from None
