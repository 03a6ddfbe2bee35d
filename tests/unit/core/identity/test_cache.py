"""The authenticator's memory: dropped at once by a change, by age, and by size."""

from __future__ import annotations

from trio.testing import MockClock

from anvild.core.identity.cache import CredentialCache


async def test_a_change_drops_what_has_its_tag() -> None:
    cache = CredentialCache()
    cache.put("api_key", "d1", "one", ["api_key:1", "team:t"], cache.generation)
    cache.put("api_key", "d2", "two", ["api_key:2", "team:t"], cache.generation)
    cache.invalidate("api_key:1", "api_key:unknown")
    assert cache.get("api_key", "d1", str) is None
    assert cache.get("api_key", "d2", str) == "two"
    cache.invalidate("team:t")
    assert len(cache) == 0


async def test_what_was_read_before_a_change_is_not_kept_after_it() -> None:
    cache = CredentialCache()
    generation = cache.generation
    cache.invalidate("api_key:1")
    cache.put("api_key", "d1", "old", ["api_key:1"], generation)
    assert cache.get("api_key", "d1", str) is None


async def test_entries_age(mock_clock: MockClock) -> None:
    cache = CredentialCache(lifetime=30)
    cache.put("api_key", "d1", "one", [], cache.generation)
    mock_clock.jump(29)
    assert cache.get("api_key", "d1", str) == "one"
    mock_clock.jump(1)
    assert cache.get("api_key", "d1", str) is None
    assert len(cache) == 0


async def test_the_least_used_entry_makes_room() -> None:
    cache = CredentialCache(capacity=2)
    for name in ("a", "b"):
        cache.put("session", name, name, [f"session:{name}"], cache.generation)
    assert cache.get("session", "a", str) == "a"
    cache.put("session", "c", "c", ["session:c"], cache.generation)
    assert [cache.get("session", name, str) for name in "abc"] == ["a", None, "c"]
