"""Signing up, activation and forgotten passwords, with a real mail server."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from anvild.core.clock import utcnow
from anvild.core.identity import SYSTEM
from anvild.core.identity.tables import tokens, users
from anvild.core.settings import MailSettings, Settings
from tests.support.capsules import Lab, served_lab
from tests.support.smtp import Letter, PostOffice
from tests.support.wing import EMAIL, PASSWORD

ANN = {"email": "ann@example.org", "password": "a good password", "name": "Ann"}
NEW = "another good password"


def token_in(letter: Letter, page: str) -> str:
    found = re.search(rf"^https://lab\.example\.org/{page}\?token=([0-9a-f]{{32}})$", letter.text, re.MULTILINE)
    assert found, letter.text
    return found[1]


async def age(lab: Lab, table: Any, column: str, by: timedelta) -> None:
    """Put a time in all rows of a table so far back."""
    then = {column: utcnow() - by}
    await lab.wing.store.write(lambda connection: connection.execute(update(table).values(then)))


async def test_one_signs_up_activates_and_is_in(mailing_lab: Lab, office: PostOffice) -> None:
    ann = mailing_lab.anybody()
    await ann("POST", "/v1/auth/signup", 201, json={**ANN, "email": " Ann@Example.ORG "})
    letter = await office.next()
    assert (letter.sender, letter.to) == ("lab@example.org", ["ann@example.org"])
    assert letter.message["To"] == "ann@example.org"
    assert "Ann" not in letter.text
    token = token_in(letter, "activate")

    error = await ann("POST", "/v1/auth/login", 403, promised=False, json=ANN)
    assert error["code"] == "account_not_activated"
    error = await ann("POST", "/v1/auth/login", 401, json={**ANN, "password": "wrong password"})
    assert error["code"] == "unauthorized"

    me = await ann("POST", "/v1/auth/activate", 200, json={"token": token})
    assert (me["email"], me["name"], me["role"], me["is_admin"]) == ("ann@example.org", "Ann", "owner", False)
    (team,) = await ann("GET", "/v1/teams", 200)
    assert (team["id"], team["name"], team["role"]) == (me["team_id"], "Ann's Team", "owner")
    for again in (token, "0" * 32, "", "x" * 9999):
        error = await ann("POST", "/v1/auth/activate", 400, json={"token": again})
        assert error["code"] == "invalid_token"
    await mailing_lab.anybody()("POST", "/v1/auth/login", 200, json=ANN)


async def test_the_first_active_person_gets_the_platform(mailing_lab: Lab, office: PostOffice) -> None:
    def forget_the_first(connection: Any) -> None:
        connection.execute(update(users).values(status="disabled"))

    await mailing_lab.wing.store.write(forget_the_first)
    ann = mailing_lab.anybody()
    await ann("POST", "/v1/auth/signup", 201, json=ANN)
    me = await ann("POST", "/v1/auth/activate", 200, json={"token": token_in(await office.next(), "activate")})
    assert me["is_admin"] is True


async def test_an_address_signs_up_once(mailing_lab: Lab, office: PostOffice) -> None:
    ann = mailing_lab.anybody()
    await ann("POST", "/v1/auth/signup", 201, json=ANN)
    error = await ann("POST", "/v1/auth/signup", 409, json=ANN)
    assert error["code"] == "signup_cooldown"
    error = await ann("POST", "/v1/auth/signup", 409, json={**ANN, "email": EMAIL})
    assert error["code"] == "email_taken"
    assert len(office.letters) == 1

    await age(mailing_lab, users, "created_at", timedelta(minutes=31))
    await age(mailing_lab, tokens, "expires_at", timedelta(minutes=1))
    await ann("POST", "/v1/auth/signup", 201, json={**ANN, "name": "Ann the Second"})
    first, second = token_in(await office.next(1), "activate"), token_in(await office.next(2), "activate")
    assert (await ann("POST", "/v1/auth/activate", 400, json={"token": first}))["code"] == "invalid_token"
    assert (await ann("POST", "/v1/auth/activate", 200, json={"token": second}))["name"] == "Ann the Second"
    assert (await ann("POST", "/v1/auth/signup", 409, json=ANN))["code"] == "email_taken"


async def test_a_token_of_an_account_that_is_active_already_says_so(mailing_lab: Lab, office: PostOffice) -> None:
    ann = mailing_lab.anybody()
    await ann("POST", "/v1/auth/signup", 201, json=ANN)
    token = token_in(await office.next(), "activate")
    user = await mailing_lab.identity.users.find(email=ANN["email"])
    assert user is not None
    await mailing_lab.identity.users.set_status(user.id, "active", by=SYSTEM)
    error = await ann("POST", "/v1/auth/activate", 400, json={"token": token})
    assert error["code"] == "already_activated"


WRONG = [
    {"email": "ann"},
    {"email": "@"},
    {"email": "a,b@example.org"},
    {"email": "ann@example.org\nBcc: all@example.org"},
    {"password": "short"},
    {"password": "x" * 2000},
    {"name": "  "},
    {"name": "x" * 101},
    {"name": "a\nb"},
]


async def test_what_is_no_account_leaves_nothing(mailing_lab: Lab, office: PostOffice) -> None:
    somebody = mailing_lab.anybody()
    for wrong in WRONG:
        error = await somebody("POST", "/v1/auth/signup", 400, json={**ANN, **wrong})
        assert error["code"] == "invalid_request", wrong
        assert len(await mailing_lab.identity.users.list()) == 1, wrong
    assert office.letters == []


async def test_a_mail_that_cannot_be_sent_leaves_no_account(mailing_lab: Lab, office: PostOffice) -> None:
    ann = mailing_lab.anybody()
    office.closed = True
    error = await ann("POST", "/v1/auth/signup", 502, promised=False, json=ANN)
    assert error["code"] == "mail_not_sent"
    office.closed = False
    await ann("POST", "/v1/auth/signup", 201, json=ANN)


async def test_without_a_mail_server_signup_is_closed(lab: Lab) -> None:
    error = await lab.anybody()("POST", "/v1/auth/signup", 403, promised=False, json=ANN)
    assert error["code"] == "forbidden"
    await lab.anybody()("POST", "/v1/me/password/reset", 204, json={"email": EMAIL})


async def test_a_forgotten_password_is_set_anew(mailing_lab: Lab, office: PostOffice) -> None:
    inside = await mailing_lab.signed_in()
    outside = mailing_lab.anybody()
    await outside("POST", "/v1/me/password/reset", 204, json={"email": EMAIL.upper()})
    token = token_in(await office.next(), "reset-password")

    error = await outside("POST", "/v1/me/password/reset/confirm", 400, json={"token": token, "new_password": "short"})
    assert error["code"] == "invalid_request"
    await outside("POST", "/v1/me/password/reset/confirm", 204, json={"token": token, "new_password": NEW})
    error = await outside("POST", "/v1/me/password/reset/confirm", 400, json={"token": token, "new_password": NEW})
    assert error["code"] == "invalid_token"
    await inside("GET", "/v1/me", 401, promised=False)
    await outside("POST", "/v1/auth/login", 401, json={"email": EMAIL, "password": PASSWORD})
    await outside("POST", "/v1/auth/login", 200, json={"email": EMAIL, "password": NEW})


async def test_a_reset_is_answered_alike_whoever_asks(mailing_lab: Lab, office: PostOffice) -> None:
    outside = mailing_lab.anybody()
    disabled = await mailing_lab.user("gone@example.org")
    await mailing_lab.identity.users.set_status(disabled.id, "disabled", by=SYSTEM)
    for body in (
        {"email": "nobody@example.org"},
        {"email": "gone@example.org"},
        {"email": "no address"},
        {},
        [1],
        None,
    ):
        await outside("POST", "/v1/me/password/reset", 204, json=body)
    await outside("POST", "/v1/me/password/reset", 204, content=b"{", headers={"Content-Type": "application/json"})
    await outside("POST", "/v1/me/password/reset", 204, content=b"\xff")
    await outside("POST", "/v1/me/password/reset", 204, json={"email": EMAIL})
    assert (await office.next()).to == [EMAIL]
    assert len(office.letters) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda connection: connection.execute(update(tokens).values(expires_at=utcnow() - timedelta(seconds=1))),
        lambda connection: connection.execute(update(users).values(status="disabled")),
        lambda connection: connection.execute(delete(tokens)),
    ],
    ids=["late", "disabled", "gone"],
)
async def test_a_spoilt_token_sets_no_password(
    spoil: Callable[[Any], Any], mailing_lab: Lab, office: PostOffice
) -> None:
    outside = mailing_lab.anybody()
    await outside("POST", "/v1/me/password/reset", 204, json={"email": EMAIL})
    token = token_in(await office.next(), "reset-password")

    def job(connection: Any) -> None:
        spoil(connection)

    await mailing_lab.wing.store.write(job)
    error = await outside("POST", "/v1/me/password/reset/confirm", 400, json={"token": token, "new_password": NEW})
    assert error["code"] == "invalid_token"


async def test_an_account_gets_few_mails(mailing_lab: Lab, office: PostOffice) -> None:
    outside = mailing_lab.anybody()
    await mailing_lab.user("last@example.org")
    for _ in range(7):
        await outside("POST", "/v1/me/password/reset", 204, json={"email": EMAIL})
    await outside("POST", "/v1/me/password/reset", 204, json={"email": "last@example.org"})
    assert (await office.next(6)).to == ["last@example.org"]
    assert len(office.letters) == 6


async def test_an_address_asks_for_few_mails_and_is_answered_alike(tmp_path: Path, office: PostOffice) -> None:
    mail = MailSettings(server=office.address, security="none")
    settings = Settings(data_dir=tmp_path / "data", config_dir=tmp_path / "etc", mail=mail)
    async with served_lab(tmp_path / "data", settings=settings, limits={"mail_ip": "2/minute"}) as lab:
        outside = lab.anybody()
        for number in range(3):
            await lab.user(f"ann{number}@example.org")
            await outside("POST", "/v1/me/password/reset", 204, json={"email": f"ann{number}@example.org"})
        error = await outside("POST", "/v1/auth/signup", 429, promised=False, json=ANN)
        assert error["code"] == "rate_limited"
        assert (await office.next(2)).to == ["ann1@example.org"]
    assert len(office.letters) == 2
