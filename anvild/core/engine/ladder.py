"""The health ladder: what is tried, one rung after the other, before a device that gives trouble is quarantined.

Trouble is a clean that failed, or attempts that could not even begin, several in a row. A device in trouble is out of
service until it has been cleaned. Each trouble takes the next rung that the driver offers (:class:`anvild.sdk.Remedy`);
one that comes after a quiet time begins at the bottom again. A rung has a budget, so that a device that is broken for
good is not restarted all day. Above the last rung is quarantine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio
from sqlalchemy import Connection

from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import AnvilError, Mend, Remedy, verbs_of

from .devices import device_event, device_row
from .journal import SYSTEM
from .persist import persist

if TYPE_CHECKING:
    from .hosting import HostedDriver

__all__ = ["BUDGETS", "BUDGET_SECONDS", "QUIET_SECONDS", "Ladder"]

BUDGETS: Mapping[Remedy, int] = {
    Remedy.RECONNECT: 10,
    Remedy.RESTART_HELPER: 5,
    Remedy.POWER_CYCLE: 3,
    Remedy.REBOOT: 2,
}
"""How often each remedy may be applied to a device within :data:`BUDGET_SECONDS`."""

BUDGET_SECONDS = 3600.0

QUIET_SECONDS = 600.0
"""After so long without a remedy, the next trouble begins at the lowest rung."""

_ORDER = tuple(Remedy)
_DEADLINES = verbs_of(Mend)

log = get_logger(__name__)


class Ladder:
    """The ladders of one driver's devices. What was tried is remembered in this process alone."""

    def __init__(self, hosted: HostedDriver, *, store: Store) -> None:
        self._hosted = hosted
        self._store = store
        self._trouble: dict[str, str] = {}
        self._tried: dict[str, list[tuple[float, Remedy]]] = {}

    def trouble(self, device_id: str, reason: str) -> None:
        """Note what is wrong with a device; whoever cleans it next climbs first."""
        self._trouble[device_id] = reason

    def take_trouble(self, device_id: str) -> str | None:
        """Return what was noted of a device, once."""
        return self._trouble.pop(device_id, None)

    async def climb(self, device_id: str, identity: str, reason: str) -> bool:
        """Apply the next remedy that works, and say whether there was one. Every remedy leaves an event."""
        for remedy in await self._rungs(device_id, identity):
            tried = self._tried.setdefault(device_id, [])
            tried.append((trio.current_time(), remedy))
            await self._tell(device_id, "mending", remedy=remedy, reason=reason)
            mender = self._hosted.mender
            if mender is None:
                return False
            try:
                done = await self._hosted.call("mend", _DEADLINES["mend"], mender.mend, identity, remedy)
            except AnvilError as error:
                log.warning("remedy_failed", device=device_id, remedy=remedy, error=error.message)
                reason = f"{remedy} did not help: {error.message}"
            else:
                await self._tell(device_id, "mended", remedy=remedy, done=done)
                return True
        return False

    def tried(self, device_id: str) -> str:
        """Say in words what was tried within the budgets' time; empty when nothing was."""
        names = [remedy.replace("_", " ") for _, remedy in self._recent(device_id)]
        return f"; tried: {', '.join(names)}" if names else ""

    async def _rungs(self, device_id: str, identity: str) -> list[Remedy]:
        """The remedies that are left above the last one, lowest first."""
        mender = self._hosted.mender
        if mender is None:
            return []
        try:
            offered = await self._hosted.call("remedies", _DEADLINES["remedies"], mender.remedies, identity)
        except AnvilError as error:
            log.warning("no_remedies", device=device_id, error=error.message)
            return []
        recent = self._recent(device_id)
        now = trio.current_time()
        below = _ORDER.index(recent[-1][1]) if recent and now - recent[-1][0] < QUIET_SECONDS else -1
        used = [remedy for _, remedy in recent]
        return [
            remedy
            for place, remedy in enumerate(_ORDER)
            if place > below and remedy in offered and used.count(remedy) < BUDGETS[remedy]
        ]

    def _recent(self, device_id: str) -> list[tuple[float, Remedy]]:
        horizon = trio.current_time() - BUDGET_SECONDS
        recent = [each for each in self._tried.get(device_id, []) if each[0] > horizon]
        if recent:
            self._tried[device_id] = recent
        else:
            self._tried.pop(device_id, None)
        return recent

    async def _tell(self, device_id: str, what: str, **data: str) -> None:
        def job(conn: Connection) -> None:
            device_event(conn, device_row(conn, device_id), what, by=SYSTEM, audit=False, **data)

        await persist(self._store, job)
