"""Idempotency keys: one effect and one answer, whatever happens in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
import trio
import trio.lowlevel
import trio.testing
from sqlalchemy import select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Conflict, InvalidRequest
from anvild.core.identity import Idempotency, KeyReused, Principal, SecretBox, StillRunning, StoredAnswer, object_id
from anvild.core.identity.secret_texts import digest
from anvild.core.identity.tables import idempotency_keys
from anvild.core.store import Store
from anvild.sdk import Unavailable

ADA = Principal(kind="user", id="ada")
BOB = Principal(kind="user", id="bob")
CREATED = StoredAnswer(201, (("Location", "/x/1"), ("Content-Type", "application/json")), b'{"secret":"s3cret"}')

Handler = Callable[[], Awaitable[StoredAnswer]]


class Work:
    """A handler that notes its calls and answers as it is told."""

    def __init__(self, answer: StoredAnswer | Exception = CREATED) -> None:
        self.answer = answer
        self.objects: list[str] = []
        self.go = trio.Event()
        self.go.set()

    async def __call__(self) -> StoredAnswer:
        self.objects.append(object_id())
        await self.go.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def idempotency(store: Store) -> Idempotency:
    return Idempotency(store, SecretBox(b"k" * 32))


async def test_a_replay_is_equal_to_the_byte(idempotency: Idempotency, store: Store) -> None:
    work = Work()
    first = await idempotency.once(ADA, "POST /runs", "k1", "body", work)
    assert first == CREATED
    second = await Idempotency(store, SecretBox(b"k" * 32)).once(ADA, "POST /runs", "k1", "body", work)
    assert (second.status, second.headers, second.body) == (first.status, first.headers, first.body)
    assert second.replayed
    assert len(work.objects) == 1
    rows = await store.read(lambda connection: connection.execute(select(idempotency_keys)).all())
    assert "s3cret" not in repr(rows)


async def test_keys_are_apart_by_principal_and_operation(idempotency: Idempotency) -> None:
    work = Work()
    for principal, operation, key in (
        (ADA, "POST /a", "k"),
        (BOB, "POST /a", "k"),
        (ADA, "POST /b", "k"),
        (ADA, "POST /a", "l"),
    ):
        assert not (await idempotency.once(principal, operation, key, "body", work)).replayed
    assert len(set(work.objects)) == 4


async def test_another_content_under_the_same_key_is_refused(idempotency: Idempotency) -> None:
    await idempotency.once(ADA, "POST /a", "k", "one", Work())
    with pytest.raises(KeyReused) as caught:
        await idempotency.once(ADA, "POST /a", "k", "two", Work())
    assert caught.value.http == 422
    for key in ("", "x" * 256, "a\nb"):
        with pytest.raises(InvalidRequest):
            await idempotency.once(ADA, "POST /a", key, "one", Work())


async def test_a_refusal_is_not_stored(idempotency: Idempotency) -> None:
    for refusal in (StoredAnswer(400, (), b"no"), InvalidRequest("no"), Conflict("no")):
        if isinstance(refusal, StoredAnswer):
            assert await idempotency.once(ADA, "POST /a", "k", "wrong", Work(refusal)) == refusal
        else:
            with pytest.raises(type(refusal)):
                await idempotency.once(ADA, "POST /a", "k", "wrong", Work(refusal))
    assert await idempotency.once(ADA, "POST /a", "k", "right", Work()) == CREATED


async def test_after_a_failure_the_next_try_makes_the_same_object(idempotency: Idempotency) -> None:
    work = Work(Unavailable("the commit was lost"))
    with pytest.raises(Unavailable):
        await idempotency.once(ADA, "POST /a", "k", "body", work)
    work.answer = ValueError("a defect")
    with pytest.raises(ValueError, match="a defect"):
        await idempotency.once(ADA, "POST /a", "k", "body", work)
    with pytest.raises(KeyReused):
        await idempotency.once(ADA, "POST /a", "k", "other", work)
    work.answer = CREATED
    assert await idempotency.once(ADA, "POST /a", "k", "body", work) == CREATED
    assert len(work.objects) == 3
    assert len(set(work.objects)) == 1
    assert object_id() != work.objects[0]


async def test_a_cancelled_request_can_be_tried_again(idempotency: Idempotency) -> None:
    work = Work()
    work.go = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(idempotency.once, ADA, "POST /a", "k", "body", work)
        while not work.objects:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    work.go.set()
    assert await idempotency.once(ADA, "POST /a", "k", "body", work) == CREATED
    assert work.objects[0] == work.objects[1]


async def test_duplicates_at_the_same_time_have_one_effect(idempotency: Idempotency) -> None:
    work, answers = Work(), []
    work.go = trio.Event()

    async def send() -> None:
        answers.append(await idempotency.once(ADA, "POST /a", "k", "body", work))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(send)
        while not work.objects:
            await trio.lowlevel.checkpoint()
        work.go.set()
    assert len(work.objects) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 19
    assert {answer.body for answer in answers} == {CREATED.body}


async def test_a_duplicate_does_not_wait_for_ever(
    idempotency: Idempotency, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    work = Work()
    work.go = trio.Event()
    nursery.start_soon(idempotency.once, ADA, "POST /a", "k", "body", work)
    await trio.testing.wait_all_tasks_blocked()

    async def later() -> None:
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(10)

    nursery.start_soon(later)
    with pytest.raises(StillRunning) as caught:
        await idempotency.once(ADA, "POST /a", "k", "body", work)
    assert caught.value.http == 409
    assert caught.value.retry_after == 1.0
    work.go.set()


async def test_a_request_that_died_with_its_daemon(idempotency: Idempotency, store: Store) -> None:
    work = Work()
    work.go = trio.Event()
    dead = Idempotency(store, SecretBox(b"k" * 32))
    claim = await store.write(lambda connection: dead._claim(connection, *_slot("k", "body")))
    work.go.set()
    if store.dialect == "postgresql":  # another daemon may be alive: wait for its signs of life to end
        with pytest.raises(StillRunning) as caught:
            await idempotency.once(ADA, "POST /a", "k", "body", work)
        assert 50 < caught.value.retry_after <= 60
        silent = update(idempotency_keys).values(claimed_at=utcnow() - timedelta(seconds=61))
        await store.write(lambda connection: connection.execute(silent))
    assert await idempotency.once(ADA, "POST /a", "k", "body", work) == CREATED
    assert work.objects == [claim]


def _slot(key: str, fingerprint: str) -> tuple[str, str]:
    return digest(f"{ADA.actor}\0POST /a\0{key}"), digest(fingerprint)


async def test_long_requests_give_signs_of_life(
    idempotency: Idempotency, store: Store, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    async def claimed_at() -> object:
        await trio.testing.wait_all_tasks_blocked()
        return await store.write(
            lambda connection: connection.execute(select(idempotency_keys.c.claimed_at)).scalar_one()
        )

    work = Work()
    work.go = trio.Event()
    nursery.start_soon(idempotency.run)
    nursery.start_soon(idempotency.once, ADA, "POST /a", "k", "body", work)
    first = await claimed_at()
    mock_clock.jump(20)
    assert await claimed_at() != first
    work.go.set()


async def test_answers_are_kept_for_more_than_a_day_and_then_forgotten(idempotency: Idempotency, store: Store) -> None:
    await idempotency.once(ADA, "POST /a", "k", "body", Work())
    row = await store.read(lambda connection: connection.execute(select(idempotency_keys)).one())
    assert row.expires_at - row.claimed_at >= timedelta(hours=24)
    await idempotency.sweep()
    assert (await idempotency.once(ADA, "POST /a", "k", "body", Work())).replayed
    expired = update(idempotency_keys).values(expires_at=utcnow())
    await store.write(lambda connection: connection.execute(expired))
    assert not (await idempotency.once(ADA, "POST /a", "k", "other", Work())).replayed
    await store.write(lambda connection: connection.execute(expired))
    await idempotency.sweep()
    assert await store.read(lambda connection: connection.execute(select(idempotency_keys)).all()) == []
