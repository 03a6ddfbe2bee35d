"""Logging in with another service, and connecting it to one's account."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import parse_qs, urlencode

import msgspec

from anvild.core.clock import utcnow
from anvild.core.identity import Identity, SecretBoxError, User
from anvild.core.identity.secret_texts import same
from anvild.core.logging import get_logger
from anvild.sdk import AnvilError
from anvild.web.api import Api
from anvild.web.request import Answer, Cookie, Request

from ..errors import ProviderNotFound
from ..github import ExchangeFailed, Github, Profile
from ..schemas import people as wire
from .auth import caller, session_answer
from .common import SESSION, origin_of

__all__ = ["add_oauth", "add_providers"]

STATE, LINK = "oauth_state", "oauth_link"
LIFETIME = timedelta(minutes=10)
PATH = "/auth/oauth"
SETTINGS_PAGE = "dashboard/settings"
NOT_CONFIGURED = "Provider not found or not configured"

log = get_logger("oauth")


class _State(msgspec.Struct, frozen=True):
    """What is remembered of a login on its way, sealed in a cookie: nobody else can make or read one."""

    state: str
    intent: Literal["login", "signup"]
    until: datetime
    user_id: str | None = None


def add_oauth(api: Api, identity: Identity, github: Github, *, pages: str) -> None:
    """Add the way out to the provider and the way back. ``api`` is mounted beside the others, at its own prefix."""

    @api.get(
        "/{provider:=github}",
        summary="Start OAuth login flow",
        description="With `?intent=signup` somebody who is new gets an account; otherwise they are sent back.",
        tags=("auth",),
        answers={302: None},
        errors={404: NOT_CONFIGURED},
    )
    async def oauth_redirect(request: Request) -> Answer:
        _require(github, request)
        intent: Literal["login", "signup"] = "signup" if _asked(request, "intent") == "signup" else "login"
        state, cookie = _begin(identity, STATE, intent=intent)
        return _redirect(github.authorization_url(state), cookie, _cleared(LINK))

    @api.get(
        "/{provider:=github}/callback",
        summary="OAuth callback",
        description="Sets the cookies of a session and leads to the page `/auth/{provider}/callback`, which reads in "
        "`?error=` what went wrong. For a login that is connected to an account it is `/dashboard/settings`.",
        tags=("auth",),
        answers={302: None},
        errors={404: NOT_CONFIGURED},
        query=wire.OAuthAnswer,
        limit="password_ip",
    )
    async def oauth_callback(request: Request) -> Answer:
        _require(github, request)
        link = _remembered(identity, request, LINK)
        if link is not None:
            query = await _connect(identity, github, request, link)
            return _redirect(f"{pages}/{SETTINGS_PAGE}?{urlencode(query)}", _cleared(STATE), _cleared(LINK))
        page = f"{pages}/auth/{github.name}/callback"
        try:
            user = await _log_in(identity, github, request)
            new = await identity.sessions.create(user.id, origin=origin_of(request))
        except AnvilError as error:
            return _redirect(f"{page}?{urlencode({'error': _word(error)})}", _cleared(STATE))
        session = await session_answer(api, identity, new)
        return _redirect(page, _cleared(STATE), *session.cookies)


def add_providers(api: Api, identity: Identity, github: Github) -> None:
    """Add connecting and disconnecting a provider."""

    @api.get(
        "/me/providers/{provider:=github}/connect",
        summary="Initiate OAuth provider link",
        tags=("account",),
        answers={200: wire.AuthorizationPage},
        errors={404: NOT_CONFIGURED},
        signed_in=True,
        accepts=SESSION,
    )
    async def connect_provider(request: Request) -> Answer:
        _require(github, request)
        user_id, _ = caller(request)
        state, cookie = _begin(identity, STATE, intent="login")
        _, link = _begin(identity, LINK, intent="login", state=state, user_id=user_id)
        page = wire.AuthorizationPage(auth_url=github.authorization_url(state))
        return Answer(200, page, headers=[("cache-control", "no-store")], cookies=[cookie, link])

    @api.delete(
        "/me/providers/{provider:=github}",
        summary="Disconnect an OAuth provider",
        tags=("account",),
        answers={204: None},
        errors={400: "Cannot disconnect last login method", 404: "Provider not connected"},
        signed_in=True,
        accepts=SESSION,
    )
    async def disconnect_provider(request: Request) -> Answer:
        user_id, _ = caller(request)
        await identity.linked_logins.unlink(
            user_id, request.path["provider"], by=request.principal, origin=origin_of(request)
        )
        return Answer(204)


class _Refused(AnvilError):
    """The login ends; ``code`` tells the page why."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


async def _log_in(identity: Identity, github: Github, request: Request) -> User:
    """Return the person whom the provider has sent back. Raises AnvilError."""
    state = _remembered(identity, request, STATE)
    profile = await _profile(github, request, state)
    assert state is not None
    user = await identity.linked_logins.find(github.name, profile.subject)
    if user is None and state.intent == "signup":
        return await identity.linked_logins.sign_up(
            github.name, profile.subject, email=profile.email, name=profile.name, origin=origin_of(request)
        )
    if user is None:
        raise _Refused("no_account")
    if user.status != "active":
        raise _Refused("account_deactivated")
    if not await identity.teams.of_user(user.id):
        await identity.accounts.give_team(user.id, origin=origin_of(request))
    return user


async def _connect(identity: Identity, github: Github, request: Request, link: _State) -> dict[str, str]:
    """Connect the provider to the account that asked for it, and return what its page is told."""
    try:
        state = _remembered(identity, request, STATE)
        if state is None or state.state != link.state or link.user_id is None:
            raise _Refused("invalid_state")
        profile = await _profile(github, request, state)
        await identity.linked_logins.link(link.user_id, github.name, profile.subject, origin=origin_of(request))
    except AnvilError as error:
        return {"connect_error": _word(error)}
    return {"connected": github.name}


async def _profile(github: Github, request: Request, state: _State | None) -> Profile:
    """Check what came back, and ask the provider who it is."""
    query: wire.OAuthAnswer = request.query
    if state is None or not isinstance(query.state, str) or not same(query.state, state.state):
        raise _Refused("invalid_state")
    if _asked(request, "error"):
        raise _Refused("access_denied")
    if not isinstance(query.code, str) or not query.code:
        raise _Refused("missing_code")
    return await github.profile(query.code)


def _word(error: AnvilError) -> str:
    """Return the contract's word for what went wrong."""
    if isinstance(error, _Refused):
        return error.word
    if isinstance(error, ExchangeFailed):
        log.warning("oauth_exchange_failed", reason=error.message)
        return "exchange_failed"
    reason = error.details.get("reason")
    if reason in ("email_taken", "already_linked"):
        return str(reason)
    log.warning("oauth_failed", code=error.code, reason=error.message)
    return "internal_error"


def _require(github: Github, request: Request) -> None:
    if request.path["provider"] != github.name or not github.configured:
        raise ProviderNotFound("there is no such provider, or it is not configured here")


def _begin(
    identity: Identity,
    name: str,
    *,
    intent: Literal["login", "signup"],
    state: str | None = None,
    user_id: str | None = None,
) -> tuple[str, Cookie]:
    """Return a new state and the cookie that remembers it. It is lax: the provider sends people back from outside."""
    made = _State(state or secrets.token_urlsafe(24), intent, utcnow() + LIFETIME, user_id)
    sealed = identity.box.seal(msgspec.json.encode(made), name)
    age = int(LIFETIME.total_seconds())
    return made.state, Cookie(name=name, value=sealed, max_age=age, path=PATH, same_site="Lax")


def _remembered(identity: Identity, request: Request, name: str) -> _State | None:
    """Return what a cookie remembers; None where there is none that is good."""
    try:
        found = msgspec.json.decode(identity.box.open(request.cookies.get(name, ""), name), type=_State)
    except SecretBoxError:
        return None
    return found if found.until > utcnow() else None


def _asked(request: Request, name: str) -> str:
    """Return a parameter of the query that the contract has in its words and not in its list."""
    query: bytes = request.scope["query_string"]
    return parse_qs(query.decode("latin-1")).get(name, [""])[0]


def _cleared(name: str) -> Cookie:
    return Cookie(name=name, value="", max_age=0, path=PATH, same_site="Lax")


def _redirect(url: str, *cookies: Cookie) -> Answer:
    return Answer(302, headers=[("location", url), ("cache-control", "no-store")], cookies=cookies)
