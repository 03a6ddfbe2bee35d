"""Who may do what with hosts, and how one is deleted with the capsules that are on it."""

from __future__ import annotations

from collections.abc import Sequence

from anvild.core.engine import Actor
from anvild.core.errors import FieldProblem, Forbidden, InvalidRequest
from anvild.core.hosts import Host, Hosts, HostType, Links
from anvild.core.identity import NOWHERE, Identity, Origin, Principal
from anvild.sdk import NotFound

from .book import Book
from .errors import HostHasCapsules
from .ids import to_wire
from .life import Capsules
from .templates import Templates
from .values import ALIVE, Capsule, Status

__all__ = ["HostDesk"]

BLOCKING: tuple[Status, ...] = ("pending", "starting", "running", "pausing", "resuming", "stopping", "missing")
"""The capsules that keep their host from being deleted: all that are not paused."""


class HostDesk:
    """Hosts as people see them. One that somebody does not see looks missing.

    The platform's admins see and manage all; a team sees its own, which its owner and admins manage.
    """

    def __init__(
        self, hosts: Hosts, links: Links, identity: Identity, book: Book, capsules: Capsules, templates: Templates
    ) -> None:
        self._hosts = hosts
        self._identity = identity
        self._links = links
        self._book = book
        self._capsules = capsules
        self._templates = templates

    async def create(
        self,
        kind: HostType,
        *,
        team_id: str | None,
        provider: str | None,
        availability_zone: str | None,
        by: Principal,
        origin: Origin = NOWHERE,
    ) -> tuple[Host, str]:
        """Make a host known; see :meth:`Hosts.create`. Raises Forbidden, InvalidRequest."""
        if kind == "regular":
            if not by.is_admin:
                raise Forbidden("only the platform's admins make hosts that all teams use")
            if team_id is not None:
                raise InvalidRequest("a regular host has no team", (FieldProblem("body.team_id", "nothing"),))
        elif team_id is None and by.is_admin:
            raise InvalidRequest("a host of type byoc has a team", (FieldProblem("body.team_id", "a team's id"),))
        else:
            await self._check_byoc(team_id, by)
        return await self._hosts.create(
            kind, team_id=team_id, provider=provider, availability_zone=availability_zone, by=by, origin=origin
        )

    async def list(self, by: Principal) -> Sequence[Host]:
        """Return the hosts that somebody sees, newest first."""
        if by.is_admin:
            return await self._hosts.list()
        return [] if by.team_id is None else await self._hosts.list(by.team_id)

    async def get(self, host_id: str, by: Principal) -> Host:
        """Return a host that somebody sees. Raises NotFound."""
        host = await self._hosts.get(host_id)
        if not (by.is_admin or (by.team_id is not None and host.team_id == by.team_id)):
            raise NotFound("there is no such host")
        return host

    async def managed(self, host_id: str, by: Principal) -> Host:
        """Return a host that somebody manages. Raises NotFound for one that they do not see, Forbidden."""
        host = await self.get(host_id, by)
        if not (by.is_admin or by.role in ("admin", "owner")):
            raise Forbidden("only the owner and the admins of its team manage a host")
        return host

    async def invite(self, host_id: str, by: Principal, origin: Origin = NOWHERE) -> tuple[Host, str]:
        """Give a pending host a new text to register with. Raises NotFound, Forbidden, WrongState."""
        host = await self.managed(host_id, by)
        await self._check_byoc(host.team_id, by)
        return await self._hosts.invite(host_id, by=by, origin=origin)

    async def capsules_on(self, host: Host) -> Sequence[Capsule]:
        """Return the capsules that keep a host from being deleted."""
        return await self._book.on(host.places, BLOCKING)

    async def delete(self, host_id: str, *, force: bool, by: Principal, origin: Origin = NOWHERE) -> None:
        """Delete a host with its paused capsules and, if forced, all others, and the templates that are on it.

        Raises NotFound, Forbidden, and HostHasCapsules unless forced.
        """
        host = await self.managed(host_id, by)
        blocking = await self.capsules_on(host)
        if blocking and not force:
            raise HostHasCapsules(
                f"{len(blocking)} capsules are on this host: force ends them",
                [to_wire("cl", each.id) for each in blocking],
            )
        await self._hosts.drain(host_id)
        actor = Actor(actor=by.actor, team_id=host.team_id, ip=origin.ip, user_agent=origin.user_agent)
        await self._capsules.end(await self._book.on(host.places, ALIVE), actor)
        await self._links.cut(host, "its host was deleted")
        await self._templates.forsake(host.places)
        await self._hosts.delete(host_id, by=by, origin=origin)

    async def _check_byoc(self, team_id: str | None, by: Principal) -> None:
        """Raise unless somebody may bring a host for a team."""
        if by.is_admin:
            if team_id is not None:
                await self._known_team(team_id)
        elif team_id is None or team_id != by.team_id or by.role not in ("admin", "owner"):
            raise Forbidden("only the owner and the admins of a team bring hosts for it")
        elif not (await self._identity.teams.get(team_id)).byoc:
            raise Forbidden("this team may not bring hosts of its own: the platform's admins can allow it")

    async def _known_team(self, team_id: str) -> None:
        try:
            await self._identity.teams.get(team_id)
        except NotFound:
            raise InvalidRequest("there is no such team", (FieldProblem("body.team_id", "a team's id"),)) from None
