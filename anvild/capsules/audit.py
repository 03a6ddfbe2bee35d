"""The audit log as this interface shows it: which events are entries, who sees them, and what is told of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from anvild.core.identity import Role
from anvild.sdk import Event

from .ids import Kind, to_wire

__all__ = ["ENTRIES", "Entry", "Scope", "kinds_of", "metadata_of", "resource_id_of"]

Scope = Literal["team", "admin"]
"""Who of a team sees an entry: all, or its owners and admins."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What an event is called in the audit log. ``told`` are the parts of its data that are shown.

    An entry of the ``platform`` is seen by the platform's admins alone, whatever team it is about. ``bad`` is one that
    tells of a failure by itself; others are failures when their event's ``outcome`` is ``error``.
    """

    resource: str
    action: str
    scope: Scope
    platform: bool = False
    told: tuple[str, ...] = ()
    bad: bool = False


def _team(resource: str, action: str, *told: str, bad: bool = False) -> Entry:
    return Entry(resource=resource, action=action, scope="team", told=told, bad=bad)


def _managers(resource: str, action: str, *told: str) -> Entry:
    return Entry(resource=resource, action=action, scope="admin", told=told)


def _platform(resource: str, action: str, *told: str) -> Entry:
    return Entry(resource=resource, action=action, scope="admin", platform=True, told=told)


ENTRIES: Mapping[str, Entry] = MappingProxyType(
    {
        "capsule.create": _team("sandbox", "create", "template", "reason", "error"),
        "capsule.pause": _team("sandbox", "pause", "reason", "error"),
        "capsule.resume": _team("sandbox", "resume", "error"),
        "capsule.destroy": _team("sandbox", "destroy", "reason", "error"),
        "template.snapshot.create": _team("snapshot", "create"),
        "template.snapshot.delete": _team("snapshot", "delete"),
        "team.renamed": _team("team", "rename", "old_name", "new_name"),
        "channel.created": _team("channel", "create", "name", "provider"),
        "channel.updated": _team("channel", "update", "name"),
        "channel.config_rotated": _team("channel", "rotate_config", "name"),
        "channel.deleted": _team("channel", "delete", "name"),
        "key.created": _team("api_key", "create", "name"),
        "key.revoked": _team("api_key", "revoke", "name"),
        "member.added": _managers("member", "add", "email", "role"),
        "member.removed": _managers("member", "remove", "email"),
        "member.left": _managers("member", "leave", "email"),
        "member.role_changed": _managers("member", "role_update", "email", "new_role"),
        "host.created": _managers("host", "create"),
        "host.deleted": _managers("host", "delete"),
        "host.down": _team("host", "marked_down", "reason", bad=True),
        "host.up": _team("host", "marked_up"),
        "user.activated": _platform("user", "activate", "email"),
        "user.disabled": _platform("user", "deactivate", "email"),
        "user.admin_granted": _platform("user", "grant_admin", "email"),
        "user.admin_revoked": _platform("user", "revoke_admin", "email"),
        "team.byoc_changed": _platform("team", "set_byoc", "enabled"),
        "team.deleted": _platform("team", "delete", "name"),
        "template.deleted": _platform("template", "delete"),
        "build.created": _platform("build", "create", "name"),
        "build.cancelled": _platform("build", "cancel", "name"),
    }
)
"""The entries by the kind of their event, all appended with ``audit=True`` in the job that makes the change.

The subject of an event is its resource with the daemon's id (``("channel", id)``, ``("host", id)``, ``("build", id)``,
``("user", id)`` for members), or, of a snapshot or template, its name. Its ``team_id`` is the team that owns the
resource; what belongs to no team, as a host of the platform or a build, has None, and only the platform's admins see
it. ``host.up`` and ``host.down`` are what the event stream and channels tell of too.
"""

_IDS: Mapping[str, Kind] = MappingProxyType(
    {
        "sandbox": "cl",
        "team": "team",
        "channel": "ch",
        "api_key": "key",
        "member": "usr",
        "host": "host",
        "user": "usr",
        "build": "bld",
    }
)


def kinds_of(role: Role | None, resources: Collection[str] = (), actions: Collection[str] = ()) -> tuple[str, ...]:
    """Return the kinds of events that somebody sees as entries: by their role in a team, or all for the platform's
    admins (None). ``resources`` and ``actions`` keep some of them, unless they are empty."""
    return tuple(
        kind
        for kind, entry in ENTRIES.items()
        if (role is None or (not entry.platform and (entry.scope == "team" or role != "member")))
        and (not resources or entry.resource in resources)
        and (not actions or entry.action in actions)
    )


def metadata_of(event: Event, entry: Entry) -> dict[str, Any]:
    """Return what is told of an event beside who did what to what."""
    return {name: event.data[name] for name in entry.told if event.data.get(name) is not None}


def resource_id_of(event: Event, entry: Entry) -> str:
    """Return what the interface calls an event's subject: an id in its shown form, or a name."""
    kind = _IDS.get(entry.resource)
    return event.subject_id if kind is None else to_wire(kind, event.subject_id)
