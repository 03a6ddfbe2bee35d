"""The channels of teams: made, changed, tried, deleted. What they deliver is the delivery's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

from sqlalchemy import Connection, delete, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.engine import Actor
from anvild.core.errors import Conflict, FieldProblem, InvalidRequest
from anvild.core.events import append
from anvild.core.identity import SecretBox
from anvild.core.ids import new_id
from anvild.core.notify import Channel, Letter, LetterState, Notifiers, book
from anvild.core.notify.sealing import sealed
from anvild.core.notify.tables import channels
from anvild.core.store import Store
from anvild.sdk import AnvilError, NotFound

from .notices import KINDS, OWN_KINDS, Notices

__all__ = ["Channels"]

SECRET = "secret"  # noqa: S105  # the name of the one field of a configuration that is shown once

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Channels:
    """The channels of all teams. A channel of another team looks missing."""

    def __init__(self, store: Store, notifiers: Notifiers, box: SecretBox, notices: Notices) -> None:
        self._store = store
        self._notifiers = notifiers
        self._box = box
        self._notices = notices

    async def create(
        self, team_id: str, name: str, provider: str, config: Mapping[str, str], kinds: Sequence[str], by: Actor
    ) -> tuple[Channel, str | None]:
        """Make a channel, which tells of what happens from now on. Returns it with the secret that its messages are
        signed with, if the provider signs.

        Raises InvalidRequest, and Conflict for a name that the team has.
        """
        checked = self._notifiers.check(provider, config)
        now = utcnow()
        channel = Channel(
            id=new_id(),
            team_id=team_id,
            name=_checked_name(name),
            provider=provider,
            kinds=_checked_kinds(kinds),
            created_by=by.actor,
            created_at=now,
            updated_at=now,
        )
        row = {field: getattr(channel, field) for field in channel.__struct_fields__}
        row["config"] = sealed(self._box, channel.id, checked)

        def job(conn: Connection) -> None:
            _refuse_taken(conn, team_id, channel.name)
            _tell(conn, "created", channel, by)
            conn.execute(insert(channels).values(**row, position=book.newest_event(conn)))

        await self._store.write(job)
        return channel, checked.get(SECRET)

    async def list(self, team_id: str) -> Sequence[Channel]:
        """Return the channels of a team, newest first."""
        query = select(channels).where(channels.c.team_id == team_id).order_by(channels.c.id.desc())
        return await self._store.read(lambda conn: [book.channel_of(row) for row in conn.execute(query)])

    async def get(self, team_id: str, channel_id: str) -> Channel:
        """Return a channel. Raises NotFound."""
        return await self._store.read(partial(_get, team_id=team_id, channel_id=channel_id))

    async def update(self, team_id: str, channel_id: str, name: str, kinds: Sequence[str], by: Actor) -> Channel:
        """Give a channel another name and have it tell of other events, from now on.

        What has happened before is still delivered. Raises NotFound, InvalidRequest, Conflict.
        """
        name, kinds = _checked_name(name), _checked_kinds(kinds)

        def job(conn: Connection) -> Channel:
            now = utcnow()
            _get(conn, team_id, channel_id)
            _refuse_taken(conn, team_id, name, but=channel_id)
            book.take_in(conn, channel_id, now)
            values = {"name": name, "kinds": kinds, "updated_at": now}
            conn.execute(update(channels).where(channels.c.id == channel_id).values(**values))
            changed = _get(conn, team_id, channel_id)
            _tell(conn, "updated", changed, by)
            return changed

        return await self._store.write(job)

    async def rotate(self, team_id: str, channel_id: str, config: Mapping[str, str], by: Actor) -> Channel:
        """Configure a channel anew; what waits in it is sent at once. Raises NotFound, InvalidRequest."""
        channel = await self.get(team_id, channel_id)
        text = sealed(self._box, channel_id, self._notifiers.check(channel.provider, config))

        def job(conn: Connection) -> Channel:
            now = utcnow()
            _get(conn, team_id, channel_id)
            conn.execute(update(channels).where(channels.c.id == channel_id).values(config=text, updated_at=now))
            book.hasten(conn, channel_id, now)
            changed = _get(conn, team_id, channel_id)
            _tell(conn, "config_rotated", changed, by)
            return changed

        return await self._store.write(job)

    async def delete(self, team_id: str, channel_id: str, by: Actor) -> None:
        """Delete a channel with all that it has not delivered. Raises NotFound."""

        def job(conn: Connection) -> None:
            channel = _get(conn, team_id, channel_id)
            conn.execute(delete(channels).where(channels.c.id == channel_id))
            _tell(conn, "deleted", channel, by)

        await self._store.write(job)

    async def test(self, provider: str, config: Mapping[str, str]) -> str:
        """Send a test to a receiver, keep nothing, and return its answer.

        Raises InvalidRequest, with the receiver's own answer where there was one.
        """
        checked = self._notifiers.check(provider, config)
        try:
            return await self._notifiers.send(provider, checked, self._notices.test())
        except AnvilError as error:
            raise InvalidRequest(f"the test did not arrive: {error.message}") from None

    async def undelivered(
        self, team_id: str, channel_id: str, *, state: LetterState | None, limit: int
    ) -> Sequence[Letter]:
        """Return what a channel has not delivered, newest first. Raises NotFound."""

        def job(conn: Connection) -> Sequence[Letter]:
            _get(conn, team_id, channel_id)
            return book.letters_of(conn, channel_id, state=state, limit=limit)

        return await self._store.read(job)

    async def replay(self, team_id: str, channel_id: str, letter_id: str, by: Actor) -> Letter:
        """Have a delivery sent anew, a dead one as well. Raises NotFound."""

        def job(conn: Connection) -> Letter:
            channel = _get(conn, team_id, channel_id)
            letter = book.replay(conn, channel_id, letter_id, utcnow())
            _tell(conn, "delivery_replayed", channel, by)
            return letter

        return await self._store.write(job)


def _checked_name(name: str) -> str:
    found = "-".join(name.strip().lower().split(" "))
    if not _NAME.fullmatch(found):
        expected = "a letter or digit, then up to 63 letters, digits, dots, underscores, dashes or spaces"
        raise InvalidRequest("the name is not as expected", (FieldProblem("body.name", expected),))
    return found


def _checked_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    known = (*KINDS, *OWN_KINDS)
    if not kinds or any(kind not in known for kind in kinds):
        expected = f"at least one of {', '.join(known)}"
        raise InvalidRequest("the events are not as expected", (FieldProblem("body.events", expected),))
    return tuple(dict.fromkeys(kinds))


def _refuse_taken(conn: Connection, team_id: str, name: str, *, but: str | None = None) -> None:
    query = select(channels.c.id).where(channels.c.team_id == team_id, channels.c.name == name)
    if conn.execute(query).scalar() not in (None, but):
        raise Conflict(f"the team has a channel {name!r}")


def _get(conn: Connection, team_id: str, channel_id: str) -> Channel:
    query = select(channels).where(channels.c.id == channel_id, channels.c.team_id == team_id)
    row = conn.execute(query).one_or_none()
    if row is None:
        raise NotFound("there is no such channel")
    return book.channel_of(row)


def _tell(conn: Connection, what: str, channel: Channel, by: Actor) -> None:
    append(
        conn,
        f"channel.{what}",
        subject=("channel", channel.id),
        team_id=channel.team_id,
        actor=by.actor,
        data={"name": channel.name, "provider": channel.provider},
        audit=True,
        ip=by.ip,
        user_agent=by.user_agent,
    )
