"""The capsules wing, served whole on loopback, and people who use it. Every answer is held against the contract.

``lab`` is the wing with one team, whose owner has an account and an API key. The conftest of a folder that needs these
fixtures imports them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from anvild.capsules.ids import to_wire
from anvild.capsules.plugin import anvil_routes, anvil_workloads
from anvild.core.identity import SYSTEM, Identity, User
from anvild.core.settings import Settings
from anvild.sdk import Driver
from tests.support.contract import Document, check_answer
from tests.support.wing import EMAIL, GENEROUS, PASSWORD, Wing, served

CONTRACT = Path(__file__).parents[1] / "contract" / "capsules" / "capsules.openapi.yaml"

_document: Document = yaml.safe_load(CONTRACT.read_text())


class Caller:
    """Calls operations of the contract, by key or with a session, and holds every answer against it.

    A session's cookies are kept by hand: they are for HTTPS alone, and a client that obeys would not send them here.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.cookies: dict[str, str] = {}
        self.set_cookies: list[str] = []
        self.key = key
        self.client = httpx2.AsyncClient(base_url=url, timeout=30, trust_env=False)

    async def __call__(
        self,
        method: str,
        path: str,
        status: int,
        *,
        promised: bool = True,
        headers: Mapping[str, str] | None = None,
        values: Mapping[str, str] | None = None,
        **request: Any,
    ) -> Any:
        """Call an operation; ``values`` fill the parameters of its path. Returns the decoded body, of an error its
        inner object. ``promised`` False is for an error that the contract does not list."""
        shown = path.format_map(values or {})
        sent = {**self.credentials(method), **(headers or {})}
        answer = await self.client.request(method, shown, headers=sent, **request)
        assert answer.status_code == status, f"{method} {shown}: {answer.status_code} {answer.text}"
        self.take_cookies(answer.headers.get_list("set-cookie"))
        body = json.loads(answer.content) if answer.content else None
        if promised:
            check_answer(_document, method, path, status, body)
        if status >= 400:
            assert set(body) == {"error"}
            assert set(body["error"]) == {"code", "message"}
            return body["error"]
        return body

    def credentials(self, method: str) -> dict[str, str]:
        """The headers that say who asks."""
        return {**({"X-API-Key": self.key} if self.key else {}), **self.cookie_headers(method)}

    def cookie_headers(self, method: str) -> dict[str, str]:
        """The headers of a browser with these cookies whose page shows that it is the interface's own."""
        if not self.cookies:
            return {}
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if method != "GET":
            headers["X-CSRF-Token"] = self.cookies.get("wrenn_csrf", "")
        return headers

    def take_cookies(self, lines: list[str]) -> None:
        """Keep what the ``Set-Cookie`` headers of an answer say."""
        self.set_cookies = lines
        for line in lines:
            for name, morsel in SimpleCookie(line).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value


@dataclass
class Lab:
    """The served wing, and ways to be somebody in it."""

    wing: Wing
    callers: list[Caller] = field(default_factory=list)

    @property
    def identity(self) -> Identity:
        return self.wing.identity

    @property
    def team(self) -> str:
        """The first team, as the interface shows it."""
        return to_wire("team", self.wing.first.team_id)

    def anybody(self) -> Caller:
        """Somebody without a credential."""
        return self._caller()

    def by_key(self, key: str | None = None) -> Caller:
        """A program with an API key; without one given, the first user's."""
        return self._caller(key or self.wing.first.api_key)

    async def user(self, email: str, *, password: str | None = PASSWORD, name: str = "Somebody") -> User:
        """Make an active account, without a team."""
        return await self.identity.users.create(by=SYSTEM, name=name, email=email, password=password)

    async def signed_in(self, email: str = EMAIL, password: str = PASSWORD) -> Caller:
        """Log in; without an address given, as the first user, who owns the first team and the platform."""
        caller = self._caller()
        await caller("POST", "/v1/auth/login", 200, json={"email": email, "password": password})
        return caller

    async def member(self, email: str, role: str = "member") -> Caller:
        """Somebody new in the first team, who has a session in it."""
        user = await self.user(email)
        await self.identity.teams.add_member(self.wing.first.team_id, user.id, role, by=SYSTEM)
        return await self.signed_in(email)

    async def stranger(self, email: str = "stranger@example.org") -> Caller:
        """Somebody new with a team of their own."""
        await self.user(email)
        return await self.signed_in(email)

    def _caller(self, key: str | None = None) -> Caller:
        caller = Caller(self.wing.url, key)
        self.callers.append(caller)
        return caller


@asynccontextmanager
async def served_lab(
    directory: Path,
    *,
    drivers: Mapping[str, type[Driver]] | None = None,
    limits: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    plugins: Sequence[str] = ("webhook",),
    tidy: bool = True,
) -> AsyncIterator[Lab]:
    """Serve the wing while the block runs; unless ``tidy`` is off, what it holds then is ended."""
    generous = {**GENEROUS, "password_account": "1000/minute", "mail_ip": "1000/minute"}
    served_wing = served(
        directory,
        drivers=drivers or {},
        limits={**generous, **(limits or {})},
        settings=settings,
        plugins=plugins,
        tidy=tidy,
        make_mounts=anvil_routes,
        make_workloads=anvil_workloads,
    )
    async with served_wing as wing:
        lab = Lab(wing)
        try:
            yield lab
        finally:
            for caller in lab.callers:
                await caller.client.aclose()


@pytest.fixture(scope="session")
def contract() -> Document:
    """The contract as its authors wrote it."""
    return _document


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """The wing without devices."""
    async with served_lab(tmp_path / "data") as found:
        yield found
