"""Logging in with another service, against a local one that speaks the same protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from anvild.core.identity import SYSTEM
from anvild.core.settings import GithubSettings, Settings, WebSettings
from tests.support.capsules import Caller, Lab, served_lab
from tests.support.provider import APP, Provider, person, provider
from tests.support.wing import EMAIL

PAGES = "https://lab.example.org"
PUBLIC = "https://api.example.org"
STATES = {"oauth_state", "oauth_link"}


class Browser:
    """A browser at the interface: it follows redirects by hand, and keeps the cookies of logins on their way."""

    def __init__(self, lab: Lab, provider: Provider) -> None:
        self.caller: Caller = lab.anybody()
        self._url = lab.wing.url
        self._provider = provider
        self.last: list[str] = []

    async def get(self, url: str) -> str:
        """Open a page that leads elsewhere, and return where to."""
        at_home = not url.startswith(self._provider.url)
        local = url.replace(PUBLIC, self._url)
        cookies = "; ".join(f"{name}={value}" for name, value in self.caller.cookies.items() if name in STATES)
        headers = {"Cookie": cookies} if at_home and cookies else {}
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.get(local if "://" in local else self._url + local, headers=headers)
        assert answer.status_code == 302, answer.text
        self.last = answer.headers.get_list("set-cookie")
        self.caller.take_cookies(self.last)
        return str(answer.headers["location"])

    async def log_in(self, intent: str = "login") -> str:
        """Go the whole way, and return the page at its end."""
        there = await self.get(f"/auth/oauth/github?intent={intent}")
        return await self.get(await self.get(there))

    async def connect(self) -> str:
        """Connect the account that is logged in."""
        there = await self.caller("GET", "/v1/me/providers/{provider}/connect", 200, values={"provider": "github"})
        return await self.get(await self.get(there["auth_url"]))


def problem(page: str, name: str = "error") -> str:
    """What a page is told went wrong."""
    path = "/dashboard/settings" if name == "connect_error" else "/auth/github/callback"
    parts = urlsplit(page)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == PAGES + path
    return parse_qs(parts.query)[name][0]


@pytest.fixture
async def github() -> AsyncIterator[Provider]:
    async with provider() as found:
        yield found


@pytest.fixture
async def lab(tmp_path: Path, github: Provider) -> AsyncIterator[Lab]:
    settings = Settings(
        data_dir=tmp_path / "data",
        config_dir=tmp_path / "etc",
        web=WebSettings(frontend_url=PAGES, public_url=PUBLIC),
        github=GithubSettings(url=github.url, api_url=github.url, **APP),
    )
    async with served_lab(tmp_path / "data", settings=settings) as found:
        yield found


@pytest.fixture
def browser(lab: Lab, github: Provider) -> Browser:
    return Browser(lab, github)


async def test_somebody_new_signs_up_and_comes_back(lab: Lab, github: Provider, browser: Browser) -> None:
    github.person = person(7, "Ann@example.org")
    assert problem(await browser.log_in()) == "no_account"
    assert browser.caller.cookies == {}

    page = await browser.log_in("signup")
    assert page == f"{PAGES}/auth/github/callback"
    assert github.asked[-1]["redirect_uri"] == f"{PUBLIC}/auth/oauth/github/callback"
    assert "user:email" in github.asked[-1]["scope"]
    assert browser.caller.cookies.keys() == {"wrenn_sid", "wrenn_csrf"}
    me = await browser.caller("GET", "/v1/me", 200)
    assert me == {"name": "Ann", "email": "ann@example.org", "has_password": False, "providers": ["github"]}
    (team,) = await browser.caller("GET", "/v1/teams", 200)
    assert (team["name"], team["role"]) == ("Ann's Team", "owner")

    again = Browser(lab, github)
    github.person = person(7, "other@example.org")
    await again.log_in("signup")
    assert (await again.caller("GET", "/v1/me", 200))["email"] == "ann@example.org"


async def test_the_state_is_kept_in_a_cookie_that_nobody_else_makes(browser: Browser, github: Provider) -> None:
    github.person = person(7, "ann@example.org")
    await browser.get("/auth/oauth/github")
    made = {name: morsel for line in browser.last for name, morsel in SimpleCookie(line).items()}
    state = made["oauth_state"]
    assert state["httponly"]
    assert state["secure"]
    assert (state["samesite"], state["max-age"], state["path"]) == ("Lax", "600", "/auth/oauth")
    for forged in ("", "x", "A" * 200, state.value[:-8] + "AAAAAAAA"):
        there = await browser.get("/auth/oauth/github")
        back = await browser.get(there)
        browser.caller.cookies["oauth_state"] = forged
        assert problem(await browser.get(back)) == "invalid_state"


async def test_what_goes_wrong_on_the_way_back_is_told_to_the_page(browser: Browser, github: Provider) -> None:
    github.person = person(7, "ann@example.org")
    assert problem(await browser.get("/auth/oauth/github/callback?code=x&state=y")) == "invalid_state"

    async def back() -> str:
        return await browser.get(await browser.get("/auth/oauth/github?intent=signup"))

    url = await back()
    assert problem(await browser.get(url.replace("state=", "state=%C3%BC"))) == "invalid_state"
    assert problem(await browser.get(url)) == "invalid_state"  # the cookie is gone with the attempt
    url = await back()
    assert problem(await browser.get(url.replace("code=", "error=access_denied&x="))) == "access_denied"
    url = await back()
    assert problem(await browser.get(url.replace("code=", "x="))) == "missing_code"
    url = await back()
    assert problem(await browser.get(url.replace("code=", "code=x"))) == "exchange_failed"
    github.broken = True
    assert problem(await browser.get(await back())) == "exchange_failed"
    github.broken = False
    github.person = person(7, "ann@example.org", verified=False)
    assert problem(await browser.get(await back())) == "exchange_failed"
    github.person = person(7, EMAIL)
    assert problem(await browser.get(await back())) == "email_taken"
    github.person = person(7, "ann@example.org", name=" \n ")
    await browser.get(await back())
    assert (await browser.caller("GET", "/v1/me", 200))["name"] == "login7"


async def test_nobody_keeps_others_out_by_signing_up_for_them(lab: Lab, browser: Browser, github: Provider) -> None:
    await lab.identity.accounts.sign_up(email="ann@example.org", password="not Ann's choice", name="Eve")
    github.person = person(7, "ann@example.org")
    await browser.log_in("signup")
    me = await browser.caller("GET", "/v1/me", 200)
    assert (me["name"], me["has_password"]) == ("Ann", False)


async def test_a_disabled_account_does_not_come_in(lab: Lab, browser: Browser, github: Provider) -> None:
    github.person = person(7, "ann@example.org")
    await browser.log_in("signup")
    user = await lab.identity.users.find(email="ann@example.org")
    assert user is not None
    await lab.identity.users.set_status(user.id, "disabled", by=SYSTEM)
    assert problem(await Browser(lab, github).log_in()) == "account_deactivated"


async def test_a_login_is_connected_and_disconnected(lab: Lab, browser: Browser, github: Provider) -> None:
    github.person = person(7, "elsewhere@example.org")
    browser.caller = await lab.signed_in()
    where = {"provider": "github"}
    await browser.caller("DELETE", "/v1/me/providers/{provider}", 404, values=where)
    assert await browser.connect() == f"{PAGES}/dashboard/settings?connected=github"
    assert (await browser.caller("GET", "/v1/me", 200))["providers"] == ["github"]

    other = Browser(lab, github)
    assert await other.log_in() == f"{PAGES}/auth/github/callback"
    assert (await other.caller("GET", "/v1/me", 200))["email"] == EMAIL

    stranger = Browser(lab, github)
    stranger.caller = await lab.stranger()
    assert problem(await stranger.connect(), "connect_error") == "already_linked"

    await browser.caller("DELETE", "/v1/me/providers/{provider}", 204, values=where)
    assert problem(await Browser(lab, github).log_in()) == "no_account"
    assert await stranger.connect() == f"{PAGES}/dashboard/settings?connected=github"


async def test_a_link_is_for_the_attempt_that_it_was_made_for(lab: Lab, browser: Browser, github: Provider) -> None:
    github.person = person(7, "elsewhere@example.org")
    browser.caller = await lab.signed_in()
    there = await browser.caller("GET", "/v1/me/providers/{provider}/connect", 200, values={"provider": "github"})
    link = browser.caller.cookies["oauth_link"]
    back = await browser.get(there["auth_url"])
    again = await browser.caller("GET", "/v1/me/providers/{provider}/connect", 200, values={"provider": "github"})
    assert again != there
    browser.caller.cookies["oauth_link"] = link
    assert problem(await browser.get(back), "connect_error") == "invalid_state"
    assert (await browser.caller("GET", "/v1/me", 200))["providers"] == []


async def test_the_last_way_in_stays(browser: Browser, github: Provider) -> None:
    github.person = person(7, "ann@example.org")
    await browser.log_in("signup")
    where = {"provider": "github"}
    error = await browser.caller("DELETE", "/v1/me/providers/{provider}", 400, values=where)
    assert error["code"] == "last_login_method"
    assert (await browser.caller("GET", "/v1/me", 200))["providers"] == ["github"]


async def test_who_deleted_the_account_may_sign_up_again(browser: Browser, github: Provider) -> None:
    github.person = person(7, "ann@example.org")
    await browser.log_in("signup")
    await browser.caller("DELETE", "/v1/me", 204, json={"confirmation": "ann@example.org"})
    assert problem(await browser.log_in()) == "no_account"
    assert await browser.log_in("signup") == f"{PAGES}/auth/github/callback"


async def test_another_provider_is_not_found(lab: Lab) -> None:
    owner = await lab.signed_in()
    for name in ("gitlab", "GitHub", "x"):
        where = {"provider": name}
        for path in ("/auth/oauth/{provider}", "/v1/me/providers/{provider}/connect"):
            assert (await owner("GET", path, 404, values=where))["code"] == "provider_not_found"
        await owner("GET", "/auth/oauth/{provider}/callback", 404, values=where, promised=False)
        assert (await owner("DELETE", "/v1/me/providers/{provider}", 404, values=where))["code"] == "not_found"


async def test_without_an_app_there_is_no_provider(tmp_path: Path) -> None:
    async with served_lab(tmp_path / "other") as plain:
        where = {"provider": "github"}
        error = await plain.anybody()("GET", "/auth/oauth/{provider}", 404, values=where)
        assert error["code"] == "provider_not_found"
