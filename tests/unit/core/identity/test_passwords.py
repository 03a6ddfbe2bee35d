"""Passwords: off the loop, few at a time, equal work for everybody."""

from __future__ import annotations

import threading

import argon2
import pytest
import trio
import trio.testing

from anvild.core.errors import InvalidRequest
from anvild.core.identity import Passwords
from anvild.sdk import Unavailable


class CountingHasher(argon2.PasswordHasher):
    """Notes which hashes it was asked to verify, and in which threads; may be held up."""

    def __init__(self, **cost: int) -> None:
        super().__init__(**{"time_cost": 1, "memory_cost": 8, "parallelism": 1, **cost})
        self.verified: list[str] = []
        self.threads: set[int] = set()
        self.at_work = self.most_at_work = 0
        self.lock = threading.Lock()
        self.two = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # noqa: A002
        self.threads.add(threading.get_ident())
        with self.lock:
            self.verified.append(str(hash))
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
            if self.at_work == 2:
                self.two.set()
        self.go.wait()
        try:
            return super().verify(hash, password)
        finally:
            with self.lock:
                self.at_work -= 1


async def test_right_and_wrong() -> None:
    passwords = Passwords(CountingHasher())
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$")
    assert await passwords.verify(stored, "correct horse")
    assert not await passwords.verify(stored, "wrong horse")
    assert not await passwords.verify("not a hash", "correct horse")
    assert await passwords.verify(await passwords.hash("päss wörd \udcff"), "päss wörd \udcff")


async def test_an_unknown_account_costs_the_same_work() -> None:
    hasher = CountingHasher(time_cost=2, memory_cost=16)
    passwords = Passwords(hasher)
    stored = await passwords.hash("correct horse")
    assert not await passwords.verify(None, "correct horse")
    assert not await passwords.verify(stored, "wrong horse")
    nobody, somebody = hasher.verified
    assert argon2.extract_parameters(nobody) == argon2.extract_parameters(somebody)
    assert threading.get_ident() not in hasher.threads


async def test_a_hash_of_another_cost_is_outdated() -> None:
    cheap = await Passwords(CountingHasher()).hash("correct horse")
    assert not Passwords(CountingHasher()).outdated(cheap)
    assert Passwords(CountingHasher(time_cost=2)).outdated(cheap)


@pytest.mark.parametrize("password", ["", "seven77", "é" * 3, "x" * 1025])
async def test_the_length_is_counted_in_bytes(password: str) -> None:
    with pytest.raises(InvalidRequest, match="8 to 1024 bytes"):
        await Passwords(CountingHasher()).hash(password)


async def test_two_at_a_time_and_a_bounded_queue() -> None:
    hasher = CountingHasher()
    passwords = Passwords(hasher)
    hasher.go.clear()
    async with trio.open_nursery() as nursery:
        for _ in range(2 + 32):
            nursery.start_soon(passwords.verify, None, "x")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Unavailable):
            await passwords.verify(None, "x")
        await trio.to_thread.run_sync(hasher.two.wait)
        hasher.go.set()
    assert hasher.most_at_work == 2
    assert len(hasher.verified) == 34
