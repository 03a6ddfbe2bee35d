"""One authenticator: it turns whatever a request brings into a principal."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, select

from anvild.core.clock import utcnow
from anvild.core.errors import Forbidden, Unauthenticated
from anvild.core.store import Job, Store
from anvild.sdk import NotFound

from .cache import CredentialCache
from .last_use import LastUse
from .people import Person, load_person
from .secret_texts import digest, is_api_key, same
from .signing_keys import Purpose, SigningKeys
from .tables import api_keys, device_tokens, sessions, teams, tokens
from .values import Credentials, Principal

T = TypeVar("T")

__all__ = ["SAFE_METHODS", "Authenticator"]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""The methods for which a session needs no CSRF proof."""

_BAD = "the credential is missing, wrong, expired or revoked"


class _Session(msgspec.Struct, frozen=True):
    principal: Principal
    csrf_digest: str
    last_seen_at: datetime
    expires_at: datetime


class _Token(msgspec.Struct, frozen=True):
    principal: Principal
    expires_at: datetime | None


class Authenticator:
    """Finds out who asks.

    Which kind a credential is, is told by where it stands and by its form alone; it is then good as that kind or
    refused. What the store said is remembered for a while, so that a busy client costs no read. Neither the memory
    nor the store holds a secret: both know hashes.
    """

    def __init__(
        self,
        store: Store,
        cache: CredentialCache,
        last_use: LastUse,
        signing_keys: SigningKeys,
        *,
        automation_token: str | None,
        session_idle: timedelta,
    ) -> None:
        self._store = store
        self._cache = cache
        self._last_use = last_use
        self._signing_keys = signing_keys
        self._automation_token = automation_token
        self._session_idle = session_idle

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        """Return who asks; None when the request brings no credential at all.

        The first of these that is there decides: host token, ``X-API-Key``, ``Authorization``, session cookie.
        Raises Unauthenticated when it is not good; Forbidden when it belongs to an account that is not active, or is
        a session whose unsafe request lacks the CSRF proof. The error's detail ``reason`` says which.
        """
        if credentials.host_token is not None:
            return await self._jwt(credentials.host_token, "host")
        if credentials.api_key is not None:
            return await self._api_key(credentials.api_key)
        if credentials.authorization is not None:
            return await self._bearer(credentials.authorization)
        if credentials.session is not None:
            return await self._session(credentials)
        return None

    async def _bearer(self, authorization: str) -> Principal:
        scheme, _, text = authorization.strip().partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise Unauthenticated("the Authorization header must be: Bearer CREDENTIAL")
        if self._automation_token is not None and same(text, self._automation_token):
            return await self._automation()
        if is_api_key(text):
            return await self._api_key(text)
        if "|" in text:
            return await self._personal_token(text)
        return await self._jwt(text, "device", "login")

    async def _api_key(self, text: str) -> Principal:
        if not is_api_key(text):
            raise Unauthenticated(_BAD)
        hashed = digest(text)
        principal = self._cache.get("api_key", hashed, Principal)
        if principal is None:
            generation = self._cache.generation
            principal = await self._store.read(lambda connection: _load_api_key(connection, hashed))
            tags = [f"api_key:{principal.id}", f"team:{principal.team_id}", f"user:{principal.user_id}"]
            self._cache.put("api_key", hashed, principal, tags, generation)
        self._last_use.touch("api_key", principal.id)
        return principal

    async def _session(self, credentials: Credentials) -> Principal:
        assert credentials.session is not None
        hashed = digest(credentials.session)
        session = None if credentials.anew else self._cache.get("session", hashed, _Session)
        if session is None:
            generation = self._cache.generation
            session = await self._store.read(lambda connection: _load_session(connection, hashed))
            tags = [f"session:{session.principal.session_id}", f"user:{session.principal.user_id}"]
            tags.append(f"team:{session.principal.team_id}")
            self._cache.put("session", hashed, session, tags, generation)
        session_id = session.principal.session_id
        assert session_id is not None
        now = utcnow()
        seen = max(session.last_seen_at, self._last_use.seen("session", session_id) or session.last_seen_at)
        if now >= session.expires_at or now >= seen + self._session_idle:
            raise Unauthenticated(_BAD)
        if credentials.method.upper() not in SAFE_METHODS:
            _check_csrf(credentials, session.csrf_digest)
        self._last_use.touch("session", session_id)
        return session.principal

    async def _personal_token(self, text: str) -> Principal:
        hashed = digest(text)
        token = self._cache.get("token", hashed, _Token)
        if token is None:
            generation = self._cache.generation
            token = await self._store.read(lambda connection: _load_personal_token(connection, hashed))
            tags = [f"token:{token.principal.id}", f"user:{token.principal.user_id}", f"team:{token.principal.team_id}"]
            self._cache.put("token", hashed, token, tags, generation)
        if token.expires_at is not None and utcnow() >= token.expires_at:
            raise Unauthenticated(_BAD)
        self._last_use.touch("token", token.principal.id)
        return token.principal

    async def _jwt(self, text: str, *purposes: Purpose) -> Principal:
        purpose, claims = await self._signing_keys.verify(text, *purposes)
        if purpose == "login":
            return await self._login_token(claims)
        hashed = digest(text)
        known = self._cache.get(purpose, hashed, Principal)
        if known is not None:
            return known
        generation = self._cache.generation
        load = _load_device_token if purpose == "device" else _load_host
        principal, tag = await self._read(lambda connection: load(connection, claims))
        tags = (tag, f"device_token:{principal.jti}", f"host:{principal.id}", f"team:{principal.team_id}")
        self._cache.put(purpose, hashed, principal, tags, generation)
        return principal

    async def _login_token(self, claims: dict[str, Any]) -> Principal:
        user_id = str(claims["sub"])
        person = self._cache.get("person", user_id, Person)
        if person is None:
            generation = self._cache.generation
            person = await self._read(lambda connection: load_person(connection, user_id))
            if person is None:
                raise Unauthenticated(_BAD)
            self._cache.put("person", user_id, person, person.tags, generation)
        if (claims.get("role"), claims.get("gen")) != (person.lab_role, person.token_generation):
            raise Unauthenticated(_BAD)
        person.require_active()
        return person.principal("user", person.user_id)

    async def _automation(self) -> Principal:
        """The automation token acts for the lab, in the lab's first team."""
        principal = self._cache.get("automation", "", Principal)
        if principal is None:
            generation = self._cache.generation
            oldest = (
                select(teams.c.id).where(teams.c.deleted_at.is_(None)).order_by(teams.c.created_at, teams.c.id).limit(1)
            )
            team_id = await self._store.read(lambda connection: connection.execute(oldest).scalar_one_or_none())
            principal = Principal(
                kind="automation",
                id="automation",
                team_id=team_id,
                role="owner",
                lab_role="admin",
                is_admin=True,
                name="automation",
            )
            if team_id is not None:
                self._cache.put("automation", "", principal, (f"team:{team_id}",), generation)
        return principal

    async def _read(self, job: Job[T]) -> T:
        """Read for claims that somebody signed: an id in them that is no id is a bad credential."""
        try:
            return await self._store.read(job)
        except NotFound:
            raise Unauthenticated(_BAD) from None


def _check_csrf(credentials: Credentials, csrf_digest: str) -> None:
    header, cookie = credentials.csrf_header, credentials.csrf_cookie
    if header is None or cookie is None or not same(header, cookie) or not same(digest(header), csrf_digest):
        raise Forbidden("a session must send its CSRF token in the cookie and in X-CSRF-Token", reason="csrf")


def _load_api_key(connection: Connection, hashed: str) -> Principal:
    row = connection.execute(
        select(api_keys)
        .join(teams, teams.c.id == api_keys.c.team_id)
        .where(api_keys.c.digest == hashed, api_keys.c.revoked_at.is_(None), teams.c.deleted_at.is_(None))
    ).one_or_none()
    if row is None or not same(row.digest, hashed):
        raise Unauthenticated(_BAD)
    scopes = None if "*" in row.scopes else frozenset(row.scopes)
    if row.created_by is None:
        return Principal(kind="api_key", id=row.id, team_id=row.team_id, role="admin", scopes=scopes, name=row.name)
    maker = load_person(connection, row.created_by, row.team_id)
    if maker is None or maker.status != "active" or maker.role is None:
        raise Unauthenticated(_BAD)
    return Principal(
        kind="api_key",
        id=row.id,
        team_id=row.team_id,
        role="admin" if maker.role == "owner" else maker.role,
        lab_role=maker.lab_role,
        scopes=scopes,
        name=row.name,
        user_id=maker.user_id,
    )


def _load_session(connection: Connection, hashed: str) -> _Session:
    row = connection.execute(select(sessions).where(sessions.c.digest == hashed)).one_or_none()
    if row is None or not same(row.digest, hashed):
        raise Unauthenticated(_BAD)
    person = load_person(connection, row.user_id, row.team_id)
    if person is None:
        raise Unauthenticated(_BAD)
    # Whose account was disabled is told so, although that has ended their sessions too.
    person.require_active()
    if row.revoked_at is not None:
        raise Unauthenticated(_BAD)
    principal = person.principal("user", person.user_id, session_id=row.id)
    return _Session(principal, row.csrf_digest, row.last_seen_at, row.expires_at)


def _load_personal_token(connection: Connection, hashed: str) -> _Token:
    row = connection.execute(
        select(tokens).where(tokens.c.digest == hashed, tokens.c.kind == "personal", tokens.c.revoked_at.is_(None))
    ).one_or_none()
    if row is None or not same(row.digest, hashed):
        raise Unauthenticated(_BAD)
    person = load_person(connection, row.user_id)
    if person is None:
        raise Unauthenticated(_BAD)
    person.require_active()
    return _Token(person.principal("token", row.id, scopes=frozenset(row.abilities)), row.expires_at)


def _load_device_token(connection: Connection, claims: dict[str, Any]) -> tuple[Principal, str]:
    """Return the device, and the tag of the API key that its token was given for."""
    row = connection.execute(
        select(device_tokens)
        .join(teams, teams.c.id == device_tokens.c.team_id)
        .where(
            device_tokens.c.jti == str(claims.get("jti")),
            device_tokens.c.revoked_at.is_(None),
            teams.c.deleted_at.is_(None),
        )
    ).one_or_none()
    if row is None or row.udid != claims["sub"]:
        raise Unauthenticated(_BAD)
    principal = Principal(
        kind="device",
        id=row.device_id or row.udid,
        team_id=row.team_id,
        name=row.udid,
        device_udid=row.udid,
        jti=row.jti,
    )
    return principal, f"api_key:{row.api_key_id}"


def _load_host(connection: Connection, claims: dict[str, Any]) -> tuple[Principal, str]:
    """Return the host, and the tag of the family of refresh tokens that its token came from."""
    family = str(claims.get("family"))
    row = connection.execute(
        select(tokens.c.host_id, tokens.c.team_id, tokens.c.name)
        .where(tokens.c.kind == "host_refresh", tokens.c.family == family, tokens.c.revoked_at.is_(None))
        .limit(1)
    ).one_or_none()
    if row is None or row.host_id != claims["sub"]:
        raise Unauthenticated(_BAD)
    principal = Principal(kind="host", id=row.host_id, team_id=row.team_id, name=row.name or "")
    return principal, f"family:{family}"
