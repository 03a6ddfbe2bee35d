"""Encoded answers of hot reads, kept in memory until an event says that they may have changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence

from anvild.core.events import EventLog
from anvild.core.store import Store
from anvild.sdk import Event

__all__ = ["Remembered"]

Scopes = Callable[[Event], Iterable[str]]


class Remembered:
    """Answers by scope and key. An event forgets the scopes that it touches, each with all its answers.

    A caller that changed something and then reads sees its change: what this daemon writes is announced before its
    writer goes on. What another daemon of a fleet wrote is heard of with the event log, a moment later.

    :param scopes: names the scopes that an event touches.
    :param capacity: scopes that are kept; beyond it the one that was asked for longest ago goes.
    """

    def __init__(self, scopes: Scopes, *, capacity: int = 1024) -> None:
        self._scopes_of = scopes
        self._capacity = capacity
        self._scopes: OrderedDict[str, dict[str, bytes]] = OrderedDict()

    def listen(self, store: Store, events: EventLog) -> None:
        """Hear of changes from now on, for as long as the store is open."""
        store.on_announced(self._announced)
        events.on_commit(self._forget)

    async def get(self, scope: str, key: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the answer, making it where it is not known. Errors of ``make`` pass through and are not kept."""
        answers = self._scopes.get(scope)
        if answers is None:
            answers = self._scopes[scope] = {}
            if len(self._scopes) > self._capacity:
                self._scopes.popitem(last=False)
        else:
            self._scopes.move_to_end(scope)
            found = answers.get(key)
            if found is not None:
                return found
        # An event that comes while it is being made takes ``answers`` out of ``_scopes``: the answer then is given to
        # this caller, whose question is older than the event, and to nobody else.
        made = await make()
        answers[key] = made
        return made

    def _announced(self, items: Sequence[object]) -> None:
        self._forget([item for item in items if isinstance(item, Event)])

    def _forget(self, events: Sequence[Event]) -> None:
        for event in events:
            for scope in self._scopes_of(event):
                self._scopes.pop(scope, None)
