"""When credentials were last used: gathered in memory, written in the background."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Literal

import trio
from sqlalchemy import Column, Connection, bindparam, update

from anvild.core.clock import utcnow
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import AnvilError

from .tables import api_keys, sessions, tokens

__all__ = ["LastUse"]

Kind = Literal["api_key", "session", "token"]

_COLUMNS: Mapping[Kind, Column[datetime]] = MappingProxyType(
    {"api_key": api_keys.c.last_used_at, "session": sessions.c.last_seen_at, "token": tokens.c.last_used_at}
)
_INTERVAL = 60.0

log = get_logger("identity")


class LastUse:
    """Notes the last use of keys, sessions and tokens, each written at most once a minute, all in one transaction.

    A use is lost when the process dies within that minute; nothing but a display and the idle time of a session
    depends on it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: dict[tuple[Kind, str], datetime] = {}
        self._touched = trio.Event()

    def touch(self, kind: Kind, id_: str) -> None:
        """Note that it was used now. Costs no I/O."""
        self._pending[kind, id_] = utcnow()
        self._touched.set()

    def seen(self, kind: Kind, id_: str) -> datetime | None:
        """Return a last use that is not written yet."""
        return self._pending.get((kind, id_))

    async def run(self) -> None:
        """Write what was noted, then rest a minute, for ever. When cancelled it writes what is left, within 2 s."""
        try:
            while True:
                await self._touched.wait()
                await self.flush()
                await trio.sleep(_INTERVAL)
        finally:
            with trio.move_on_after(2, shield=True):
                await self.flush()

    async def flush(self) -> None:
        """Write all that was noted until now. When the store cannot, it is kept for the next time."""
        noted, self._pending = self._pending, {}
        self._touched = trio.Event()
        if not noted:
            return
        try:
            await self._store.write(lambda connection: _write(connection, noted))
        except AnvilError as error:
            log.warning("last_use_not_written", reason=error.message)
            self._pending = noted | self._pending


def _write(connection: Connection, noted: Mapping[tuple[Kind, str], datetime]) -> None:
    for kind, column in _COLUMNS.items():
        rows = [{"key": id_, "at": at} for (of, id_), at in noted.items() if of == kind]
        if rows:
            table = column.table
            connection.execute(
                update(table).where(table.c.id == bindparam("key")).values({column.name: bindparam("at")}), rows
            )
