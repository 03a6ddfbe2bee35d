"""Channels: made, changed, tried, deleted, and what arrives from them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from sqlalchemy import Table, func, select

from anvild.capsules.ids import to_wire
from anvild.core.events import append
from anvild.core.identity import SYSTEM
from anvild.core.ids import new_id
from anvild.core.notify.tables import channels, letters
from tests.support.capsules import Caller, Lab
from tests.support.receiver import Got, Receiver, Said

EVENTS = ["run.passed", "host.up"]
SECRET = "a secret of mine"


async def happens(
    lab: Lab, kind: str, *, subject: tuple[str, str] = ("run", "r"), team: str | None = "", **data: Any
) -> int:
    """Append an event of the first team, of another, or of the whole lab."""
    team_id = lab.wing.first.team_id if team == "" else team
    return await lab.wing.store.write(lambda conn: append(conn, kind, subject=subject, team_id=team_id, data=data))


async def made(owner: Caller, url: str, **more: Any) -> dict[str, Any]:
    config = {"url": url, "secret": SECRET}
    body = {"name": "Chat", "provider": "webhook", "config": config, "events": EVENTS, **more}
    found: dict[str, Any] = await owner("POST", "/v1/channels", 201, json=body)
    return found


async def deliveries(owner: Caller, channel: dict[str, Any], **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await owner(
        "GET", "/v1/channels/{id}/deliveries", 200, promised=False, values=channel, params=query
    )
    return found


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Look until something is so."""
    with trio.fail_after(60):
        while True:
            if await holds():
                return
            await trio.sleep(0.02)


async def until_tried(owner: Caller, channel: dict[str, Any]) -> dict[str, Any]:
    """Wait until the oldest delivery has been tried, and return it."""

    async def tried() -> bool:
        found = await deliveries(owner, channel)
        return bool(found) and found[-1]["attempts"] > 0

    await until(tried)
    return (await deliveries(owner, channel))[-1]


async def count(lab: Lab, table: Table) -> int:
    query = select(func.count()).select_from(table)
    return await lab.wing.store.read(lambda conn: conn.execute(query).scalar_one())


async def test_a_channel_shows_its_secret_once(notifying: Lab, owner: Caller, receiving: Receiver) -> None:
    url = f"{receiving.url}/hidden"
    channel = await made(owner, url, name="  My Chat ", config={"url": url})
    secret = channel.pop("secret")
    assert re.fullmatch(r"[0-9a-f]{64}", secret)
    assert channel["id"].startswith("ch-")
    assert channel["team_id"] == notifying.team
    assert (channel["name"], channel["provider"], channel["events"]) == ("my-chat", "webhook", EVENTS)
    assert await owner("GET", "/v1/channels/{id}", 200, values=channel) == channel
    given = await made(owner, receiving.url)
    assert given.pop("secret") == SECRET
    assert await owner("GET", "/v1/channels", 200) == [given, channel]
    rows = await notifying.wing.store.read(lambda conn: conn.execute(select(channels)).all())
    kept = " ".join(str(row._asdict()) for row in rows)
    for hidden in (secret, SECRET, "/hidden"):
        assert hidden not in kept


async def test_changes_are_in_the_audit_log(notifying: Lab, owner: Caller, receiving: Receiver) -> None:
    channel = await made(owner, receiving.url)
    body = {"name": "Other Name", "events": ["host.down", "host.down"]}
    changed = await owner("PATCH", "/v1/channels/{id}", 200, values=channel, json=body)
    assert (changed["name"], changed["events"]) == ("other-name", ["host.down"])
    assert changed["updated_at"] > channel["updated_at"]
    config = {"config": {"url": receiving.url}}
    rotated = await owner("PUT", "/v1/channels/{id}/config", 200, values=channel, json=config)
    assert "secret" not in rotated
    await owner("DELETE", "/v1/channels/{id}", 204, values=channel)
    await owner("GET", "/v1/channels/{id}", 404, values=channel)
    await owner("DELETE", "/v1/channels/{id}", 204, values=channel)
    page = await notifying.identity.audit.list(notifying.wing.first.team_id, kinds=("channel.",))
    assert [(event.kind, event.data) for event in reversed(page.events)] == [
        ("channel.created", {"name": "chat", "provider": "webhook"}),
        ("channel.updated", {"name": "other-name", "provider": "webhook"}),
        ("channel.config_rotated", {"name": "other-name", "provider": "webhook"}),
        ("channel.deleted", {"name": "other-name", "provider": "webhook"}),
    ]
    for event in page.events:
        assert (event.subject_type, to_wire("ch", event.subject_id)) == ("channel", channel["id"])
        assert event.actor.startswith("user:")


async def test_names_are_the_teams_own(notifying: Lab, owner: Caller, receiving: Receiver) -> None:
    first = await made(owner, receiving.url)
    second = await made(owner, receiving.url, name="two")
    body = {"name": "CHAT", "provider": "webhook", "config": {"url": receiving.url}, "events": EVENTS}
    error = await owner("POST", "/v1/channels", 409, promised=False, json=body)
    assert error["code"] == "conflict"
    change = {"name": "chat", "events": EVENTS}
    error = await owner("PATCH", "/v1/channels/{id}", 409, promised=False, values=second, json=change)
    assert error["code"] == "conflict"
    await owner("PATCH", "/v1/channels/{id}", 200, values=first, json=change)
    stranger = await notifying.stranger()
    await made(stranger, receiving.url)


GOOD = {"name": "n", "provider": "webhook", "config": {"url": "https://example.org"}, "events": EVENTS}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": " "}, "body.name"),
        ({"name": "-x"}, "body.name"),
        ({"name": "x" * 65}, "body.name"),
        ({"events": []}, "at least one of"),
        ({"events": ["capsule.state.changed"]}, "capsule.create"),
        ({"events": ["channel.test"]}, "run.passed"),
        ({"provider": "pigeon"}, "webhook"),
        ({"provider": "discord"}, "webhook"),
        ({"config": {}}, "url"),
        ({"config": {"url": ""}}, "http"),
        ({"config": {"url": "ftp://example.org"}}, "http"),
        ({"config": {"url": "https://example.org", "more": "x"}}, "more"),
        ({"config": {"url": "https://example.org", "secret": "short"}}, "secret"),
        ({"config": {"url": 7}}, "config"),
    ],
)
async def test_what_is_wrong_is_told(owner: Caller, wrong: dict[str, Any], told: str) -> None:
    error = await owner("POST", "/v1/channels", 400, json={**GOOD, **wrong})
    assert error["code"] == "invalid_request"
    assert told in error["message"]
    assert await owner("GET", "/v1/channels", 200) == []


async def test_what_arrives_is_signed_and_in_the_form_of_the_interface(
    notifying: Lab, owner: Caller, receiving: Receiver
) -> None:
    channel = await made(owner, f"{receiving.url}/in?x=1", events=["capsule.create", "host.down"])
    host = new_id()
    await happens(notifying, "host.down", subject=("host", host), team=None, reason="silence")
    got = await receiving.next()
    assert (got.method, got.path, got.query) == ("POST", "/in", {"x": "1"})
    assert got.headers["content-type"] == "application/json"
    assert got.json.pop("timestamp")
    body = got.json
    assert datetime.fromisoformat(body.pop("timestamp")).tzinfo is not None
    assert body == {
        "event": "host.down",
        "team_id": notifying.team,
        "actor": {"type": "system"},
        "resource": {"id": to_wire("host", host), "type": "host"},
        "metadata": {"reason": "silence"},
    }
    assert hmac.compare_digest(got.headers["x-wrenn-signature"], _plain(got))
    assert hmac.compare_digest(got.headers["webhook-signature"], _standard(got))
    sent = datetime.fromisoformat(got.headers["x-wrenn-timestamp"].replace("Z", "+00:00"))
    assert sent == datetime.fromtimestamp(int(got.headers["webhook-timestamp"]), UTC)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", got.headers["x-wrenn-delivery"])
    assert re.fullmatch(r"msg_[0-9a-f]{32}", got.headers["webhook-id"])
    assert channel["secret"] == SECRET


def _plain(got: Got) -> str:
    signed = got.headers["x-wrenn-timestamp"].encode() + b"." + got.body
    return "sha256=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()


def _standard(got: Got) -> str:
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    # "a secret of mine" is no base64, so it is the key itself.
    return "v1," + base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()


async def test_a_channel_hears_its_team_and_the_lab_and_nobody_else(
    notifying: Lab, owner: Caller, receiving: Receiver
) -> None:
    await happens(notifying, "run.passed", subject=("run", "before"))
    await made(owner, receiving.url)
    await happens(notifying, "run.passed", subject=("run", "foreign"), team=new_id())
    await happens(notifying, "run.failed", subject=("run", "other kind"))
    await happens(notifying, "run.passed", subject=("run", "own"))
    await happens(notifying, "run.passed", subject=("run", "of the lab"), team=None)
    await receiving.next(2)
    assert [got.json["resource"]["id"] for got in receiving.got] == ["own", "of the lab"]


async def test_what_is_changed_counts_from_then_on(notifying: Lab, owner: Caller, receiving: Receiver) -> None:
    receiving.answer = Said(503)
    channel = await made(owner, receiving.url)
    await happens(notifying, "run.passed", subject=("run", "1"))
    await happens(notifying, "run.failed", subject=("run", "2"))
    await until_tried(owner, channel)
    body = {"name": "chat", "events": ["run.failed"]}
    await owner("PATCH", "/v1/channels/{id}", 200, values=channel, json=body)
    await happens(notifying, "run.failed", subject=("run", "3"))
    await happens(notifying, "run.passed", subject=("run", "4"))
    receiving.answer, seen = Said(), len(receiving.got)
    config = {"config": {"url": f"{receiving.url}/mended"}}
    await owner("PUT", "/v1/channels/{id}/config", 200, values=channel, json=config)
    await receiving.next(seen + 2)
    mended = [(got.path, got.json["resource"]["id"]) for got in receiving.got[seen:]]
    assert mended == [("/mended", "1"), ("/mended", "3")]


async def test_what_is_not_taken_is_seen_and_sent_anew(notifying: Lab, owner: Caller, receiving: Receiver) -> None:
    receiving.answer = Said(410, b"not here any more")
    channel = await made(owner, receiving.url)
    await happens(notifying, "run.passed", subject=("run", "1"))
    dead = await until_tried(owner, channel)
    assert dead["id"].startswith("dlv-")
    assert (dead["event"], dead["state"], dead["attempts"]) == ("run.passed", "dead", 1)
    assert dead["answer"] == "the receiver answered 410 Gone: not here any more"
    assert "due_at" not in dead
    assert await deliveries(owner, channel, state="waiting") == []
    receiving.answer = Said(302, headers={"location": f"{receiving.url}/elsewhere"})
    replay = ("POST", "/v1/channels/{id}/deliveries/{delivery}/replay")
    values = {"id": channel["id"], "delivery": dead["id"]}
    again = await owner(*replay, 202, promised=False, values=values)
    assert (again["id"], again["state"], again["attempts"]) == (dead["id"], "waiting", 0)
    waiting = await until_tried(owner, channel)
    assert (waiting["state"], waiting["answer"]) == ("waiting", "the receiver answered 302 Found: {}")
    assert waiting["due_at"] > waiting["tried_at"]
    receiving.answer = Said(204, b"")
    await owner(*replay, 202, promised=False, values=values)
    got = await receiving.next(3)
    assert {each.path for each in receiving.got} == {"/"}
    assert len({each.headers["webhook-id"] for each in receiving.got}) == 1
    assert len({each.headers["x-wrenn-delivery"] for each in receiving.got}) == 3
    assert got.json["resource"]["id"] == "1"

    async def gone() -> bool:
        return not await deliveries(owner, channel)

    await until(gone)
    await owner(*replay, 404, promised=False, values=values)
    stranger = await notifying.stranger()
    await stranger("GET", "/v1/channels/{id}/deliveries", 404, promised=False, values=channel)
    await stranger(*replay, 404, promised=False, values=values)


async def test_a_test_says_what_the_receiver_answered(notifying: Lab, owner: Caller, receiving: Receiver) -> None:
    config = {"url": f"{receiving.url}/a-longer-path", "secret": SECRET}
    body = {"provider": "webhook", "config": config}
    assert await owner("POST", "/v1/channels/test", 200, json=body) == {"status": "ok"}
    told = receiving.got[0].json
    assert (told["event"], told["team_id"], told["actor"]) == ("channel.test", "test", {"type": "system"})
    receiving.answer = Said(418, f"no tea\nat {config['url']}".encode())
    error = await owner("POST", "/v1/channels/test", 400, json=body)
    assert error == {
        "code": "invalid_request",
        "message": "the test did not arrive: the receiver answered 418 I'm a Teapot: no tea at …",
    }
    assert await count(notifying, channels) == 0
    outside = {"provider": "webhook", "config": {"url": "http://[::1]:1/"}}
    error = await owner("POST", "/v1/channels/test", 400, json=outside)
    assert "notify.allow" in error["message"]


async def test_a_deleted_team_leaves_no_channel(notifying: Lab, owner: Caller, receiving: Receiver) -> None:
    receiving.answer = Said(503)
    channel = await made(owner, receiving.url)
    await happens(notifying, "run.passed")
    await until_tried(owner, channel)
    await notifying.identity.teams.delete(notifying.wing.first.team_id, by=SYSTEM)

    async def gone() -> bool:
        return not await count(notifying, channels) and not await count(notifying, letters)

    await until(gone)
