"""How channels tell of events: for people in words, for programs in the form of this interface."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import select

from anvild.core.clock import utcnow
from anvild.core.identity.tables import users
from anvild.core.notify import Channel
from anvild.core.store import Store
from anvild.sdk import Event, Notice

from .ids import Kind, to_wire
from .schemas.events import SSEActor, SSEResource

__all__ = ["KINDS", "OWN_KINDS", "Notices", "actor_shape"]

KINDS = (
    "capsule.create",
    "capsule.pause",
    "capsule.resume",
    "capsule.destroy",
    "template.snapshot.create",
    "template.snapshot.delete",
    "host.up",
    "host.down",
)
"""What the contract's channels can tell of."""

OWN_KINDS = ("run.passed", "run.failed", "device.lost", "driver.quarantined")
"""What ours can tell of beside."""

_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "capsule.create": "Capsule created",
        "capsule.pause": "Capsule paused",
        "capsule.resume": "Capsule resumed",
        "capsule.destroy": "Capsule destroyed",
        "template.snapshot.create": "Snapshot created",
        "template.snapshot.delete": "Snapshot deleted",
        "host.up": "Host up",
        "host.down": "Host down",
        "run.passed": "Run passed",
        "run.failed": "Run failed",
        "device.lost": "Device lost",
        "driver.quarantined": "Driver quarantined",
    }
)

_SHOWN: Mapping[str, tuple[Kind, str]] = MappingProxyType({"capsule": ("cl", "sandbox"), "host": ("host", "host")})
"""The prefix of ids and the name of a type that this interface calls otherwise than the event log."""

_TOLD = ("name", "template", "reason_code", "reason")


class _Body(msgspec.Struct, omit_defaults=True):
    """What a program is told. The first five are always there."""

    event: str
    timestamp: datetime
    team_id: str
    actor: SSEActor
    resource: SSEResource
    outcome: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET


class Notices:
    """Tells of events. It reads the store for the names of people."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def test(self) -> Notice:
        """Return what a channel is tried with. It is of no team, and nothing has happened."""
        event = Event(id=0, at=utcnow(), kind="channel.test", subject_type="channel", subject_id="test")
        body = _Body(
            event=event.kind,
            timestamp=event.at,
            team_id="test",
            actor=actor_shape(event.actor),
            resource=SSEResource(id="test", type="channel"),
        )
        return _notice(event, "Test", "Notifications of the lab arrive here.", body)

    async def of(self, channel: Channel, event: Event) -> Notice:
        """Return what a channel tells of an event."""
        data = event.data
        failed = data.get("outcome") == "error"
        actor = actor_shape(event.actor, await self._name_of(event.actor))
        resource = _resource(event)
        told = {name: str(data[name]) for name in _TOLD if data.get(name)}
        body = _Body(
            event=event.kind,
            timestamp=event.at,
            team_id=to_wire("team", event.team_id or channel.team_id),
            actor=actor,
            resource=resource,
            outcome=str(data["outcome"]) if "outcome" in data else UNSET,
            error=str(data["error"]) if "error" in data else UNSET,
            metadata=told or UNSET,
        )
        lines = [f"{resource.type}: {resource.id}", *(f"{name.replace('_', ' ')}: {told[name]}" for name in told)]
        if body.error:
            lines.append(f"error: {body.error}")
        if actor.type != "system":
            lines.append(f"by: {actor.name or actor.id}")
        title = _TITLES.get(event.kind, event.kind)
        return _notice(event, f"{title}: failed" if failed else title, "\n".join(lines), body)

    async def _name_of(self, actor: str) -> str | None:
        kind, _, id_ = actor.partition(":")
        if kind != "user":
            return None
        query = select(users.c.name).where(users.c.id == id_)
        name: str | None = await self._store.read(lambda conn: conn.execute(query).scalar_one_or_none())
        return name


def actor_shape(actor: str, name: str | None = None) -> SSEActor:
    """Return who did something; whoever is no person and no key is the system."""
    kind, _, id_ = actor.partition(":")
    shown = name or UNSET
    if kind == "user":
        return SSEActor(type="user", id=to_wire("usr", id_), name=shown)
    if kind == "api_key":
        return SSEActor(type="api_key", id=to_wire("key", id_), name=shown)
    return SSEActor(type="system")


def _resource(event: Event) -> SSEResource:
    kind = event.subject_type
    if kind not in _SHOWN:
        return SSEResource(id=event.subject_id, type=kind)
    prefix, type_ = _SHOWN[kind]
    return SSEResource(id=to_wire(prefix, event.subject_id), type=type_)


def _notice(event: Event, title: str, text: str, body: _Body) -> Notice:
    # Ids of events begin again in another lab, so what happened goes in as well.
    unique = f"{event.id} {event.at.isoformat()} {event.kind} {event.subject_id}"
    return Notice(
        id=f"msg_{hashlib.sha256(unique.encode()).hexdigest()[:32]}",
        kind=event.kind,
        at=event.at,
        title=title,
        text=text,
        body=msgspec.to_builtins(body),
    )
