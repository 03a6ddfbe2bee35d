"""The hosts of the lab beside this one: made known, registered, heard of, and forgotten."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import chain, count
from typing import Any

import trio
from sqlalchemy import Connection, Row, delete, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Unauthenticated
from anvild.core.events import append
from anvild.core.identity import NOWHERE, Origin, Principal
from anvild.core.identity.host_tokens import HostGrant, HostTokens
from anvild.core.ids import new_id
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import AnvilError, NotFound, ResourceExhausted, WrongState

from .tables import hosts
from .values import Host, HostType, Machine

__all__ = ["Hosts"]

CHECK_SECONDS = 15.0
SILENT_SECONDS = 90.0
"""How often it is looked for hosts that are silent, and how long one may be."""

NAME_LENGTH = 63
MOST_DRIVERS = 32

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")

log = get_logger(__name__)


class Hosts:
    """All hosts that have joined, or may. Whether somebody may is the caller's question.

    :meth:`run` must be running for silent ones to be noticed.
    """

    def __init__(self, store: Store, tokens: HostTokens) -> None:
        self._store = store
        self._tokens = tokens
        self._beats: dict[str, tuple[datetime | None, float]] = {}

    # ----- what people do

    async def create(
        self,
        kind: HostType,
        *,
        team_id: str | None,
        provider: str | None = None,
        availability_zone: str | None = None,
        by: Principal,
        origin: Origin = NOWHERE,
    ) -> tuple[Host, str]:
        """Make a host known, and return it with the text that it registers with, once and within an hour."""
        now, id_ = utcnow(), new_id()

        def job(conn: Connection) -> None:
            conn.execute(
                insert(hosts).values(
                    id=id_,
                    type=kind,
                    team_id=team_id,
                    provider=provider,
                    availability_zone=availability_zone,
                    status="pending",
                    tags=[],
                    drivers=[],
                    created_by=by.actor,
                    created_at=now,
                    updated_at=now,
                )
            )
            _note(conn, "host.created", _get(conn, id_), by, origin)

        invited = await self._tokens.invite(id_, name=id_, team_id=team_id, by=by, origin=origin, also=job)
        return await self.get(id_), invited.secret

    async def get(self, host_id: str) -> Host:
        """Return a host. Raises NotFound."""
        return await self._store.read(lambda conn: _get(conn, host_id))

    async def list(self, team_id: str | None = None) -> Sequence[Host]:
        """Return all hosts, or those of one team, newest first."""
        query = select(hosts).order_by(hosts.c.id.desc())
        if team_id is not None:
            query = query.where(hosts.c.team_id == team_id)
        return await self._store.read(lambda conn: [_host(row) for row in conn.execute(query)])

    async def invite(self, host_id: str, *, by: Principal, origin: Origin = NOWHERE) -> tuple[Host, str]:
        """Return a host with a new text to register with; the older one ends. Raises NotFound, and WrongState for one
        that has registered."""

        def job(conn: Connection) -> None:
            status = _get(conn, host_id).status
            if status != "pending":
                raise WrongState(f"the host is {status}: only one that is pending registers")

        host = await self.get(host_id)
        invited = await self._tokens.invite(host_id, name=host_id, team_id=host.team_id, by=by, origin=origin, also=job)
        return await self.get(host_id), invited.secret

    async def tag(self, host_id: str, tag: str) -> None:
        """Put a tag on a host; twice is fine. Raises NotFound."""
        await self._write_tags(host_id, lambda tags: tags | {tag})

    async def untag(self, host_id: str, tag: str) -> None:
        """Take a tag off a host; twice is fine. Raises NotFound."""
        await self._write_tags(host_id, lambda tags: tags - {tag})

    async def drain(self, host_id: str) -> None:
        """Let nothing new come to a host, because it is being deleted."""
        change = update(hosts).where(hosts.c.id == host_id).values(status="draining", updated_at=utcnow())
        await self._store.write(lambda conn: conn.execute(change))

    async def delete(self, host_id: str, *, by: Principal, origin: Origin = NOWHERE) -> None:
        """Forget a host, and end its tokens. Raises NotFound."""
        host = await self.get(host_id)

        def job(conn: Connection) -> None:
            if conn.execute(delete(hosts).where(hosts.c.id == host_id)).rowcount:
                _note(conn, "host.deleted", host, by, origin)

        await self._tokens.revoke(host_id, team_id=host.team_id, by=by, origin=origin, also=job)

    # ----- what hosts do

    async def register(self, secret: str, machine: Machine, *, origin: Origin = NOWHERE) -> tuple[Host, HostGrant]:
        """Use up what a host registers with, and return it, online, with what it holds from now on.

        The text is used up even when the rest fails. Raises Unauthenticated.
        """
        grant = await self._tokens.register(secret, origin=origin)

        def job(conn: Connection) -> Host | None:
            change = update(hosts).where(hosts.c.id == grant.host_id, hosts.c.status == "pending")
            told = {name: getattr(machine, name) for name in machine.__struct_fields__}
            now = utcnow()
            values = {**told, "status": "online", "last_heartbeat_at": now, "updated_at": now}
            if not conn.execute(change.values(**values)).rowcount:
                return None
            host = _get(conn, grant.host_id)
            _tell(conn, "up", host)
            return host

        host = await self._store.write(job)
        if host is None:
            raise Unauthenticated("the host of this registration token has been deleted")
        return host, grant

    async def refresh(self, secret: str, *, origin: Origin = NOWHERE) -> tuple[Host, HostGrant]:
        """Use up a host's refresh token, and return the host with what it holds from now on. Raises Unauthenticated."""
        grant = await self._tokens.refresh(secret, origin=origin)
        try:
            return await self.get(grant.host_id), grant
        except NotFound:
            raise Unauthenticated("the host of this refresh token has been deleted") from None

    async def heartbeat(self, host_id: str) -> None:
        """Note that a host is there. Raises NotFound."""

        def job(conn: Connection) -> None:
            host = _get(conn, host_id)
            values: dict[str, Any] = {"last_heartbeat_at": utcnow()}
            if host.status in ("unreachable", "offline"):
                values |= {"status": "online", "updated_at": utcnow()}
            conn.execute(update(hosts).where(hosts.c.id == host_id).values(**values))
            if "status" in values:
                _tell(conn, "up", host)

        await self._store.write(job)

    async def report(self, host_id: str, what: str, subject: str, at: int | None) -> None:
        """Pass on to the event log what a host tells of something that is on it. Raises NotFound."""

        def job(conn: Connection) -> None:
            host = _get(conn, host_id)
            data = {"event": what, "subject": subject, **({} if at is None else {"timestamp": at})}
            append(
                conn,
                "host.reported",
                subject=("host", host.id),
                team_id=host.team_id,
                actor=f"host:{host.id}",
                data=data,
            )

        await self._store.write(job)

    async def lend(self, host_id: str, driver: str, name: str) -> Host:
        """Note that a host has connected with a driver, and return it as it is now: with a name of its own, which is
        ``name`` unless another host has that. Raises NotFound, WrongState for one that is being deleted,
        ResourceExhausted for one driver too many."""

        def job(conn: Connection) -> Host:
            host = _get(conn, host_id)
            if host.status == "draining":
                raise WrongState("the host is being deleted")
            if len({*host.drivers, driver}) > MOST_DRIVERS:
                raise ResourceExhausted(f"a host may lend {MOST_DRIVERS} drivers")
            values: dict[str, Any] = {}
            if host.name is None:
                values["name"] = _free_name(conn, name)
            if driver not in host.drivers:
                values["drivers"] = sorted({*host.drivers, driver})
            if not values:
                return host
            conn.execute(update(hosts).where(hosts.c.id == host_id).values(**values, updated_at=utcnow()))
            return _get(conn, host_id)

        return await self._store.write(job)

    # ----- silence

    async def run(self) -> None:
        """Look for silent hosts until cancelled."""
        while True:
            try:
                await self.check()
            except AnvilError as error:
                log.warning("hosts_not_checked", reason=error.message)
            await trio.sleep(CHECK_SECONDS)

    async def check(self) -> None:
        """Note the hosts that have been silent for too long.

        Measured is how long this daemon has seen the same last heartbeat, whichever daemon wrote it: a clock that is
        set anew makes no host silent, and nobody is blamed for the time in which no daemon ran.
        """
        query = select(hosts.c.id, hosts.c.last_heartbeat_at).where(hosts.c.status == "online")
        rows = await self._store.read(lambda conn: conn.execute(query).all())
        now, known = trio.current_time(), self._beats
        self._beats = {row.id: (row.last_heartbeat_at, now) for row in rows}
        self._beats |= {
            id_: known[id_] for id_, beat in self._beats.items() if id_ in known and known[id_][0] == beat[0]
        }
        silent = {id_: beat for id_, (beat, since) in self._beats.items() if now - since > SILENT_SECONDS}
        if silent:
            await self._store.write(lambda conn: _down(conn, silent))

    # ----- parts

    async def _write_tags(self, host_id: str, change: Callable[[set[str]], set[str]]) -> None:
        def job(conn: Connection) -> None:
            tags = sorted(change(set(_get(conn, host_id).tags)))
            conn.execute(update(hosts).where(hosts.c.id == host_id).values(tags=tags, updated_at=utcnow()))

        await self._store.write(job)


def _get(conn: Connection, host_id: str) -> Host:
    row = conn.execute(select(hosts).where(hosts.c.id == host_id)).one_or_none()
    if row is None:
        raise NotFound("there is no such host")
    return _host(row)


def _host(row: Row[Any]) -> Host:
    return Host(**{**row._asdict(), "tags": tuple(row.tags), "drivers": tuple(row.drivers)})


def _free_name(conn: Connection, wanted: str) -> str:
    """Return a name that no other host has, and that can stand in the name of a driver."""
    name = _NOT_IN_NAMES.sub("-", wanted).strip("-.")[:NAME_LENGTH] or "host"
    taken = set(conn.execute(select(hosts.c.name).where(hosts.c.name.is_not(None))).scalars())
    return next(each for each in chain([name], (f"{name}-{n}" for n in count(2))) if each not in taken)


def _down(conn: Connection, silent: Mapping[str, datetime | None]) -> None:
    """Note that hosts are silent, unless they have been heard of meanwhile."""
    for host_id, beat in silent.items():
        unheard = (hosts.c.id == host_id, hosts.c.status == "online", hosts.c.last_heartbeat_at == beat)
        if conn.execute(update(hosts).where(*unheard).values(status="unreachable", updated_at=utcnow())).rowcount:
            _tell(conn, "down", _get(conn, host_id), reason=f"it has been silent for {SILENT_SECONDS:g} s")


def _tell(conn: Connection, what: str, host: Host, **data: str) -> None:
    """Append that a host is there, or is not."""
    told = {"name": host.name, **data} if host.name is not None else data
    append(conn, f"host.{what}", subject=("host", host.id), team_id=host.team_id, data=told, audit=True)


def _note(conn: Connection, kind: str, host: Host, by: Principal, origin: Origin) -> None:
    append(
        conn,
        kind,
        subject=("host", host.id),
        team_id=host.team_id,
        actor=by.actor,
        audit=True,
        ip=origin.ip,
        user_agent=origin.user_agent,
    )
