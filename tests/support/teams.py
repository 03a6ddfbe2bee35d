"""Teams with a person in each role and a thing of each kind, for tests of who may do what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import insert, select

from anvild.capsules.ids import to_wire
from anvild.capsules.tables import capsules, templates
from anvild.core.clock import utcnow
from anvild.core.helpers import HelperDriver
from anvild.core.hosts import Hosts
from anvild.core.hosts.tables import hosts
from anvild.core.identity import SYSTEM, Principal, Role
from anvild.core.identity.tables import api_keys, memberships, sessions, teams, tokens, users
from anvild.core.ids import new_id
from anvild.core.notify.tables import channels
from tests.support.capsules import Caller, Lab

__all__ = ["CALLERS", "PERSONS", "ROLES", "Ids", "Team", "World", "as_seen_by", "capsule_row", "missing"]

ROLES: tuple[Role, ...] = ("member", "admin", "owner")
PERSONS = ("nowhere", *ROLES, "platform")
CALLERS = (*PERSONS, "key")
"""``nowhere`` has a session in no team, ``platform`` is an admin of the platform with a session in another team, and
``key`` a program with an API key that the team's owner made."""

RECEIVER = {"provider": "webhook", "config": {"url": "https://127.0.0.1"}}

Ids = Mapping[str, str]


@dataclass(frozen=True)
class Team:
    """A team: who is in it or looks at it, and what the interface calls its things."""

    id: str
    callers: Mapping[str, Caller]
    ids: Ids


class World:
    """A lab in which teams with all that belongs to them are made as they are needed."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._count = 0
        self._callers: dict[str, Caller] = {name: lab.anybody() for name in CALLERS}

    async def team(self) -> Team:
        """Make a team with new people and sessions."""
        identity, made = self.lab.identity, {}
        self._count += 1
        for name in (*PERSONS, "other", "outsider"):
            made[name] = await self.lab.user(f"{name}{self._count}@example.org")
        team = await identity.teams.create("Team", owner_id=made["owner"].id, by=SYSTEM)
        for name, role in (("admin", "admin"), ("member", "member"), ("other", "member")):
            await identity.teams.add_member(team.id, made[name].id, role, by=SYSTEM)
        elsewhere = await identity.teams.create("Elsewhere", owner_id=made["platform"].id, by=SYSTEM)
        await identity.users.set_admin(made["platform"].id, True, by=SYSTEM)
        maker = Principal(kind="user", id=made["owner"].id, user_id=made["owner"].id, team_id=team.id, role="owner")
        key = await identity.api_keys.create(by=maker, team_id=team.id, name="key")
        await identity.teams.set_byoc(team.id, True, by=SYSTEM)
        host, _ = await self.lab.wing.services.get(Hosts).create("byoc", team_id=team.id, by=SYSTEM)
        capsule, template = capsule_row(team.id), template_row(team.id, f"template{self._count}")
        await self._enter(capsule, template)
        shown = to_wire("team", team.id)
        ids = {
            "team": shown,
            "own_team": shown,
            "own_team of platform": to_wire("team", elsewhere.id),
            "key": to_wire("key", key.key.id),
            "host": to_wire("host", host.id),
            "capsule": to_wire("cl", capsule["id"]),
            "template": template["name"],
            "other": to_wire("usr", made["other"].id),
            "outsider": made["outsider"].email or "",
        }
        for name in PERSONS:
            new = await identity.sessions.create(made[name].id)
            another = await identity.sessions.create(made[name].id)
            self._callers[name].cookies = {"wrenn_sid": new.secret, "wrenn_csrf": new.csrf}
            ids |= {f"session of {name}": another.session_id, f"email of {name}": made[name].email or ""}
        self._callers["key"].key = key.plaintext
        channel = {**RECEIVER, "name": "channel", "events": ["host.up"]}
        ids["channel"] = (await self._callers["owner"]("POST", "/v1/channels", 201, json=channel))["id"]
        return Team(team.id, self._callers, ids)

    async def kept(self, *of: Team) -> bytes:
        """All that must be as it was when a call was refused. Of capsules only those of these teams: what has begun to
        happen to others may go on."""

        def job(connection: Any) -> bytes:
            rows = []
            for table in (teams, users, memberships, api_keys, sessions, hosts, tokens, channels, templates, capsules):
                # How far a channel has read the event log is no change that somebody made.
                columns = [each for each in table.c if not each.name.startswith("last_") and each.name != "position"]
                query = select(*columns).order_by(*table.primary_key)
                if table is capsules:
                    query = query.where(capsules.c.team_id.in_([team.id for team in of]))
                rows += [tuple(row) for row in connection.execute(query)]
            return msgspec.json.encode(rows)

        return await self.lab.wing.store.read(job)

    async def _enter(self, capsule: Mapping[str, Any], template: Mapping[str, Any]) -> None:
        def job(connection: Any) -> None:
            connection.execute(insert(capsules).values(capsule))
            connection.execute(insert(templates).values(template))

        await self.lab.wing.store.write(job)


def as_seen_by(caller: str, ids: Ids) -> dict[str, str]:
    """The ids as one caller of the team uses them."""
    person = caller if caller in PERSONS else "owner"
    session = ids["session of member" if person == "nowhere" else f"session of {person}"]
    own_team = ids.get(f"own_team of {caller}", ids["own_team"])
    return {**ids, "own_team": own_team, "session": session, "email": ids[f"email of {person}"]}


def missing(ids: Ids) -> dict[str, str]:
    """Ids of the same form that nothing has."""
    none = new_id()
    return {
        **ids,
        "team": to_wire("team", none),
        "key": to_wire("key", none),
        "channel": to_wire("ch", none),
        "host": to_wire("host", none),
        "capsule": to_wire("cl", none),
        "template": "nothing",
        "other": to_wire("usr", none),
        "session": none,
    }


def capsule_row(team_id: str, status: str = "paused") -> dict[str, Any]:
    """A capsule, of which there is nothing but its row."""
    now = utcnow()
    return {
        "id": new_id(),
        "team_id": team_id,
        "created_by": f"user:{new_id()}",
        "status": status,
        "driver": HelperDriver.name,
        "device_id": new_id(),
        "lease_id": new_id(),
        "template": "minimal",
        "vcpus": 1,
        "memory_mb": 512,
        "timeout_sec": 0,
        "created_at": now,
        "updated_at": now,
    }


def template_row(team_id: str, name: str) -> dict[str, Any]:
    """A template, of which there is nothing but its row."""
    id_ = new_id()
    return {
        "id": id_,
        "team_id": team_id,
        "name": name,
        "driver": HelperDriver.name,
        "reference": id_,
        "type": "base",
        "vcpus": 1,
        "memory_mb": 512,
        "disk_mb": 0,
        "size_bytes": 0,
        "ready": True,
        "created_by": "system",
        "created_at": utcnow(),
    }
