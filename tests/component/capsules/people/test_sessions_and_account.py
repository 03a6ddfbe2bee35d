"""Login, sessions and their cookies, and what one may do with one's own account."""

from __future__ import annotations

from datetime import datetime, timedelta
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, String, cast, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Unauthenticated
from anvild.core.events.tables import events
from anvild.core.identity import SYSTEM, Credentials
from anvild.core.identity.sweep import FORGOTTEN_AFTER, sweep
from anvild.core.identity.tables import users
from tests.support.capsules import Caller, Lab, served_lab
from tests.support.wing import EMAIL, PASSWORD

NEW = "another good password"


async def test_login_sets_two_cookies_and_says_who_it_is(lab: Lab) -> None:
    owner = lab.anybody()
    me = await owner("POST", "/v1/auth/login", 200, json={"email": f" {EMAIL.upper()} ", "password": PASSWORD})
    assert set(me) == {"user_id", "team_id", "email", "name", "role", "is_admin"}
    assert (me["team_id"], me["email"], me["role"], me["is_admin"]) == (lab.team, EMAIL, "owner", True)
    assert me["user_id"].startswith("usr-")
    cookies = {name: morsel for line in owner.set_cookies for name, morsel in SimpleCookie(line).items()}
    assert set(cookies) == {"wrenn_sid", "wrenn_csrf"}
    for name, morsel in cookies.items():
        assert morsel["secure"]
        assert morsel["samesite"] == "Strict"
        assert morsel["path"] == "/"
        assert bool(morsel["httponly"]) is (name == "wrenn_sid")
        assert 86_000 < int(morsel["max-age"]) <= 86_400


async def test_what_is_wrong_about_a_login_is_not_told(lab: Lab) -> None:
    somebody = lab.anybody()
    for email in (EMAIL, "nobody@example.org", ""):
        body = {"email": email, "password": "not the password"}
        error = await somebody("POST", "/v1/auth/login", 401, json=body)
        assert error == {"code": "unauthorized", "message": "the account or the password is wrong"}


async def test_attempts_are_limited_by_account_and_by_address(tmp_path: Path) -> None:
    async with served_lab(tmp_path / "data", limits={"password_account": "2/minute", "password_ip": "5/minute"}) as lab:
        somebody = lab.anybody()

        async def attempt(email: str, password: str, status: int) -> Any:
            body = {"email": email, "password": password}
            return await somebody("POST", "/v1/auth/login", status, promised=False, json=body)

        for _ in range(2):
            await attempt(EMAIL, "wrong password", 401)
        assert (await attempt(EMAIL.upper(), PASSWORD, 429))["code"] == "rate_limited"
        await attempt("other@example.org", PASSWORD, 401)
        await attempt("other@example.org", PASSWORD, 401)
        await attempt("third@example.org", PASSWORD, 429)


async def test_a_disabled_account_is_told_so_only_with_its_password_or_session(lab: Lab) -> None:
    member = await lab.member("ann@example.org")
    user = await lab.identity.users.find(email="ann@example.org")
    assert user is not None
    await lab.identity.users.set_status(user.id, "disabled", by=SYSTEM)
    error = await member("GET", "/v1/me", 403, promised=False)
    assert error["code"] == "account_deactivated"
    somebody = lab.anybody()
    body = {"email": "ann@example.org", "password": PASSWORD}
    error = await somebody("POST", "/v1/auth/login", 403, promised=False, json=body)
    assert error["code"] == "account_disabled"
    await somebody("POST", "/v1/auth/login", 401, json={**body, "password": "wrong password"})


async def test_who_has_no_team_gets_one_at_login(lab: Lab) -> None:
    await lab.user("ann@example.org", name="Ann")
    ann = await lab.signed_in("ann@example.org")
    (team,) = await ann("GET", "/v1/teams", 200)
    assert (team["name"], team["role"]) == ("Ann's Team", "owner")
    again = await lab.signed_in("ann@example.org")
    assert await again("GET", "/v1/teams", 200) == [team]


async def test_sessions_are_listed_and_ended(lab: Lab) -> None:
    here, there = await lab.signed_in(), await lab.signed_in()
    listed = (await here("GET", "/v1/me/sessions", 200))["sessions"]
    assert [session["current"] for session in listed] in ([True, False], [False, True])
    other = next(session["id"] for session in listed if not session["current"])
    assert listed[0]["ip_address"] == "127.0.0.1"
    assert datetime.fromisoformat(listed[0]["expires_at"]) - utcnow() <= timedelta(hours=6)
    await here("DELETE", "/v1/me/sessions/{id}", 204, values={"id": other})
    await there("GET", "/v1/me", 401, promised=False)
    await here("GET", "/v1/me", 200)
    await here("DELETE", "/v1/me/sessions/{id}", 204, values={"id": other})

    await here("POST", "/v1/auth/logout", 204)
    assert here.cookies == {}
    await here("POST", "/v1/auth/logout", 401)

    one, two = await lab.signed_in(), await lab.signed_in()
    sid = dict(one.cookies)
    await one("POST", "/v1/auth/logout-all", 204)
    assert one.cookies == {}
    one.cookies = sid
    for each in (one, two):
        await each("GET", "/v1/me", 401, promised=False)


async def test_a_change_needs_the_csrf_token(lab: Lab) -> None:
    owner = await lab.signed_in()
    for token in ("", "x", owner.cookies["wrenn_sid"]):
        error = await owner("POST", "/v1/auth/logout", 403, headers={"X-CSRF-Token": token})
        assert error["code"] == "forbidden"
    forged = {"Cookie": f"wrenn_sid={owner.cookies['wrenn_sid']}; wrenn_csrf=x", "X-CSRF-Token": "x"}
    await owner("POST", "/v1/auth/logout", 403, headers=forged)
    await owner("GET", "/v1/me", 200, headers={"X-CSRF-Token": ""})
    await owner("POST", "/v1/auth/logout", 204)


async def test_one_reads_and_changes_the_own_name(lab: Lab) -> None:
    owner = await lab.signed_in()
    me = await owner("GET", "/v1/me", 200)
    assert me == {"name": "first", "email": EMAIL, "has_password": True, "providers": []}
    await owner("PATCH", "/v1/me", 204, json={"name": " Ada "})
    assert (await owner("GET", "/v1/me", 200))["name"] == "Ada"
    for wrong in ({"name": ""}, {"name": "   "}, {"name": "x" * 101}, {"name": 1}, {}):
        assert (await owner("PATCH", "/v1/me", 400, json=wrong))["code"] == "invalid_request"


async def test_a_changed_password_ends_all_sessions(lab: Lab) -> None:
    owner, elsewhere = await lab.signed_in(), await lab.signed_in()

    async def change(status: int, **body: str) -> Any:
        return await owner("POST", "/v1/me/password", status, json=body)

    assert (await change(400, new_password=NEW))["code"] == "invalid_request"
    assert (await change(400, new_password="short", current_password=PASSWORD))["code"] == "invalid_request"
    assert (await change(401, new_password=NEW, current_password="wrong password"))["code"] == "wrong_password"
    await change(204, new_password=NEW, current_password=PASSWORD)
    assert owner.cookies == {}
    await elsewhere("GET", "/v1/me", 401, promised=False)
    await lab.signed_in(password=NEW)


async def test_guesses_of_the_current_password_are_limited(tmp_path: Path) -> None:
    async with served_lab(tmp_path / "data", limits={"password_account": "2/minute"}) as lab:
        owner = await lab.signed_in()
        wrong = {"new_password": NEW, "current_password": "wrong password"}
        for _ in range(2):
            await owner("POST", "/v1/me/password", 401, json=wrong)
        await owner("POST", "/v1/me/password", 429, promised=False, json={**wrong, "current_password": PASSWORD})


async def test_an_account_without_a_password_gets_one(lab: Lab) -> None:
    user = await lab.user("ann@example.org", password=None)
    await lab.identity.teams.add_member(lab.wing.first.team_id, user.id, by=SYSTEM)
    new = await lab.identity.sessions.create(user.id)
    ann = lab.anybody()
    ann.cookies = {"wrenn_sid": new.secret, "wrenn_csrf": new.csrf}
    assert (await ann("GET", "/v1/me", 200))["has_password"] is False
    for body in ({}, {"confirm_password": "something else"}, {"current_password": NEW}):
        await ann("POST", "/v1/me/password", 400, json={"new_password": NEW, **body})
    await ann("POST", "/v1/me/password", 204, json={"new_password": NEW, "confirm_password": NEW})
    await lab.signed_in("ann@example.org", NEW)


async def _key_of(caller: Caller) -> str:
    key: str = (await caller("POST", "/v1/api-keys", 201, json={}))["key"]
    return key


async def test_a_deleted_account_is_gone_with_its_own_team(lab: Lab) -> None:
    ann = await lab.stranger("ann@example.org")
    key = await _key_of(ann)
    (team,) = await ann("GET", "/v1/teams", 200)
    for wrong in ("", "other@example.org", EMAIL):
        error = await ann("DELETE", "/v1/me", 400, json={"confirmation": wrong})
        assert error["code"] == "invalid_request"
    sid = dict(ann.cookies)
    await ann("DELETE", "/v1/me", 204, json={"confirmation": "Ann@Example.org"})
    assert ann.cookies == {}
    ann.cookies = sid
    await ann("GET", "/v1/me", 401, promised=False)
    await ann("POST", "/v1/auth/login", 401, json={"email": "ann@example.org", "password": PASSWORD})
    with pytest.raises(Unauthenticated):
        await lab.identity.authenticate(Credentials(api_key=key))
    owner = await lab.signed_in()
    await owner("POST", "/v1/auth/switch-team", 404, json={"team_id": team["id"]})


async def test_an_owner_of_a_team_with_members_stays(lab: Lab) -> None:
    ann = await lab.stranger("ann@example.org")
    await lab.user("ben@example.org")
    (team,) = await ann("GET", "/v1/teams", 200)
    await ann("POST", "/v1/teams/{id}/members", 201, values=team, json={"email": "ben@example.org"})
    error = await ann("DELETE", "/v1/me", 409, json={"confirmation": "ann@example.org"})
    assert error["code"] == "owns_team_with_members"
    await ann("GET", "/v1/me", 200)


async def test_the_last_admin_stays(lab: Lab) -> None:
    owner = await lab.signed_in()
    error = await owner("DELETE", "/v1/me", 409, json={"confirmation": EMAIL})
    assert error["code"] == "conflict"
    await owner("GET", "/v1/me", 200)


async def test_a_deleted_person_is_forgotten_after_fifteen_days(lab: Lab) -> None:
    ann = await lab.stranger("ann@example.org")
    owner = await lab.signed_in()
    await owner("POST", "/v1/teams/{id}/members", 201, values={"id": lab.team}, json={"email": "ann@example.org"})
    await ann("PATCH", "/v1/me", 204, json={"name": "Ann the Great"})
    await ann("DELETE", "/v1/me", 204, json={"confirmation": "ann@example.org"})
    store = lab.wing.store

    async def known() -> tuple[str, list[str | None]]:
        def job(connection: Connection) -> tuple[str, list[str | None]]:
            everything = [tuple(row) for table in (users, events) for row in connection.execute(select(table))]
            hers = select(events.c.ip).join(users, events.c.actor == "user:" + cast(users.c.id, String))
            return str(everything), list(connection.execute(hers.where(users.c.status == "deleted")).scalars())

        return await store.read(job)

    async def deleted(ago: timedelta) -> None:
        when = update(users).where(users.c.status == "deleted").values(deleted_at=utcnow() - ago)
        await store.write(lambda connection: connection.execute(when))
        await sweep(store)

    await deleted(FORGOTTEN_AFTER - timedelta(minutes=1))
    text, addresses = await known()
    assert "ann@example.org" in text
    assert "Ann the Great" in text
    assert "127.0.0.1" in addresses
    await deleted(FORGOTTEN_AFTER + timedelta(minutes=1))
    text, addresses = await known()
    assert "ann@example.org" not in text
    assert "Ann the Great" not in text
    assert addresses
    assert set(addresses) == {None}
    assert "first@example.org" in text
