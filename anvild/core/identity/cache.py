"""What the authenticator remembers of good credentials, so that a busy client costs no read of the store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
import trio

__all__ = ["CredentialCache"]

T = TypeVar("T")


class _Entry(msgspec.Struct, frozen=True):
    value: Any
    tags: frozenset[str]
    good_until: float


class CredentialCache:
    """A bounded memory of authenticated credentials by the hash of their secret.

    Each entry has tags (``user:ID``, ``api_key:ID``, ``team:ID`` …); a change of one of those drops it at once.
    ``lifetime`` seconds after it was read an entry is read again, whatever happened: that bounds how long a change
    made by another daemon could stay unseen if its event were late. Used from the loop only.
    """

    def __init__(self, *, capacity: int = 8192, lifetime: float = 30.0) -> None:
        self._capacity = capacity
        self._lifetime = lifetime
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._by_tag: dict[str, set[tuple[str, str]]] = {}
        self._generation = 0

    @property
    def generation(self) -> int:
        """Counts the invalidations. Take it before reading the store and give it to :meth:`put`."""
        return self._generation

    def get(self, kind: str, digest: str, expected: type[T]) -> T | None:
        """Return what was put for this credential, or None."""
        key = (kind, digest)
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.good_until <= trio.current_time():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        assert isinstance(entry.value, expected)
        return entry.value

    def put(self, kind: str, digest: str, value: object, tags: Iterable[str], generation: int) -> None:
        """Remember a credential that was read when the cache had this generation.

        When something was invalidated since, the read may be older than that change: then nothing is remembered.
        """
        if generation != self._generation:
            return
        key = (kind, digest)
        self._drop(key)
        entry = _Entry(value, frozenset(tags), trio.current_time() + self._lifetime)
        self._entries[key] = entry
        for tag in entry.tags:
            self._by_tag.setdefault(tag, set()).add(key)
        if len(self._entries) > self._capacity:
            self._drop(next(iter(self._entries)))

    def invalidate(self, *tags: str) -> None:
        """Forget every credential that has one of the tags."""
        self._generation += 1
        for tag in tags:
            for key in tuple(self._by_tag.get(tag, ())):
                self._drop(key)

    def __len__(self) -> int:
        return len(self._entries)

    def _drop(self, key: tuple[str, str]) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        for tag in entry.tags:
            keys = self._by_tag[tag]
            keys.discard(key)
            if not keys:
                del self._by_tag[tag]
