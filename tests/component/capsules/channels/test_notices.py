"""How channels tell of events: what people read and what programs get."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from anvild.capsules.ids import to_wire
from anvild.capsules.notices import KINDS, OWN_KINDS, Notices
from anvild.core.ids import new_id
from anvild.core.notify import Channel
from anvild.core.plugins import Plugins
from anvild.sdk import Event
from tests.support.capsules import Lab

AT = datetime(2026, 3, 10, 12, 30, 15, 250000, tzinfo=UTC)
TEAM, THING = new_id(), new_id()
CHANNEL = Channel(
    id=new_id(),
    team_id=TEAM,
    name="n",
    provider="p",
    kinds=(*KINDS, *OWN_KINDS),
    created_by="system",
    created_at=AT,
    updated_at=AT,
)


def event(kind: str, subject: tuple[str, str] = ("run", THING), **more: Any) -> Event:
    fields = {"id": 7, "at": AT, "team_id": TEAM, **more}
    return Event(kind=kind, subject_type=subject[0], subject_id=subject[1], **fields)


async def test_what_a_person_has_done(notifying: Lab) -> None:
    notices = Notices(notifying.wing.store)
    ann = await notifying.user("ann@example.org", name="Ann")
    data = {"outcome": "success", "template": "minimal", "capsule": {"status": "running"}}
    told = await notices.of(CHANNEL, event("capsule.create", ("capsule", THING), actor=f"user:{ann.id}", data=data))
    shown = to_wire("cl", THING)
    assert (told.title, told.text) == ("Capsule created", f"sandbox: {shown}\ntemplate: minimal\nby: Ann")
    assert told.body == {
        "event": "capsule.create",
        "timestamp": "2026-03-10T12:30:15.250000Z",
        "team_id": to_wire("team", TEAM),
        "actor": {"type": "user", "id": to_wire("usr", ann.id), "name": "Ann"},
        "resource": {"id": shown, "type": "sandbox"},
        "outcome": "success",
        "metadata": {"template": "minimal"},
    }


async def test_what_has_failed(notifying: Lab) -> None:
    key = new_id()
    data = {"outcome": "error", "error": "no room left", "template": "minimal"}
    told = await Notices(notifying.wing.store).of(
        CHANNEL, event("capsule.create", ("capsule", THING), actor=f"api_key:{key}", data=data)
    )
    assert told.title == "Capsule created: failed"
    assert told.text.splitlines()[2:] == ["error: no room left", f"by: {to_wire('key', key)}"]
    assert (told.body["outcome"], told.body["error"]) == ("error", "no room left")


@pytest.mark.parametrize(
    ("kind", "subject", "data", "text"),
    [
        ("run.passed", ("run", THING), {"attempt": 1, "reason": None}, f"run: {THING}"),
        (
            "run.failed",
            ("run", THING),
            {"attempt": 1, "reason_code": "device_lost", "reason": "it went away"},
            f"run: {THING}\nreason code: device_lost\nreason: it went away",
        ),
        (
            "device.lost",
            ("device", THING),
            {"driver": "d", "host": "h", "identity": "i", "name": "Pixel", "reason": "unplugged"},
            f"device: {THING}\nname: Pixel\nreason: unplugged",
        ),
        (
            "driver.quarantined",
            ("driver", "lamp"),
            {"reason": "it keeps failing"},
            "driver: lamp\nreason: it keeps failing",
        ),
        ("template.snapshot.create", ("snapshot", "mine"), {"outcome": "success"}, "snapshot: mine"),
        ("host.down", ("host", THING), {"reason": "silence"}, f"host: {to_wire('host', THING)}\nreason: silence"),
    ],
)
async def test_what_the_other_floors_tell(
    kind: str, subject: tuple[str, str], data: dict[str, Any], text: str, notifying: Lab
) -> None:
    told = await Notices(notifying.wing.store).of(CHANNEL, event(kind, subject, team_id=None, data=data))
    assert told.text == text
    assert told.title != kind
    assert told.body["team_id"] == to_wire("team", TEAM)
    assert told.body["actor"] == {"type": "system"}


async def test_every_event_has_an_id_of_its_own(notifying: Lab) -> None:
    notices = Notices(notifying.wing.store)
    some = [
        event("run.passed"),
        event("run.passed", id=8),
        event("run.failed"),
        event("run.passed", ("run", new_id())),
        event("run.passed", at=datetime(2026, 3, 11, tzinfo=UTC)),  # of another lab, or of this one after a restore
    ]
    ids = {(await notices.of(CHANNEL, each)).id for each in some}
    assert len(ids) == len(some)
    assert (await notices.of(CHANNEL, some[0])).id in ids


async def test_the_providers_of_the_contract_are_installed() -> None:
    offered = Plugins(allow=("apprise", "webhook")).notifiers()
    assert sorted(offered) == ["discord", "googlechat", "matrix", "slack", "teams", "telegram", "webhook"]
    for name, kind in offered.items():
        assert kind.name == name
