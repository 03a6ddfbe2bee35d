"""Delivery: in order, at least once, each channel by itself, for three days, and over restarts."""

from __future__ import annotations

from datetime import timedelta
from typing import NoReturn

import pytest
import trio
from sqlalchemy import Connection, delete, select, update
from trio.testing import MockClock

from anvild.core.clock import utcnow
from anvild.core.events import append
from anvild.core.identity import SecretBox
from anvild.core.identity.tables import teams
from anvild.core.notify import book
from anvild.core.notify.book import GIVE_UP, PAGE, PAUSES
from anvild.core.notify.delivery import STRETCH
from anvild.core.notify.notifiers import SEND_SECONDS
from anvild.core.notify.tables import channels
from anvild.sdk import InvalidArgument, Unavailable

from .conftest import Office


async def refuse(_: int) -> NoReturn:
    raise Unavailable("closed")


async def hang(_: int) -> NoReturn:
    await trio.sleep_forever()


async def test_what_happens_is_delivered_in_order(office: Office, mock_clock: MockClock) -> None:
    async with office.delivering() as delivery:
        channel = await office.channel("a")
        made = await office.happens(30)
        assert await office.until_sent("a", 30) == made
        await office.until_empty(channel)
        assert await office.until_sent("a", 30) == made
        await office.until_counted(delivery, delivered=30, failed=0, given_up=0, channels=1)


async def test_what_happened_while_nobody_delivered_is_delivered_later(office: Office, mock_clock: MockClock) -> None:
    channel = await office.channel("a")
    made = await office.happens(PAGE + 5)
    async with office.delivering():
        assert await office.until_sent("a", PAGE + 5) == made
        await office.until_empty(channel)
    made += await office.happens(3)
    async with office.delivering():
        assert await office.until_sent("a", PAGE + 8) == made


async def test_three_days_of_tries_and_then_a_dead_letter(office: Office, mock_clock: MockClock) -> None:
    office.receivers.answers["a"] = refuse
    async with office.delivering() as delivery:
        channel = await office.channel("a")
        (first,) = await office.happens()
        letter = await office.until_tried(channel, 1)
        began = letter.taken_at
        for attempt, pause in enumerate(PAUSES, 1):
            assert letter.tried_at is not None
            wait = (letter.due_at - letter.tried_at).total_seconds()
            assert pause <= wait <= pause * (1 + STRETCH)
            assert letter.answer == "closed"
            office.jump_to(letter.due_at)
            letter = await office.until_tried(channel, attempt + 1)
        assert letter.due_at == letter.give_up_at == began + GIVE_UP
        (later,) = await office.happens()
        office.jump_to(letter.due_at)
        letter = await office.until_tried(channel, len(PAUSES) + 2)
        assert letter.state == "dead"
        assert letter.attempts == 10
        # The next one is tried by itself, and not given up with it.
        second = await office.until_tried(channel, 1, position=1)
        assert (second.event.id, second.state) == (later, "waiting")
        assert office.receivers.of("a") == [first] * 10 + [later]
        await office.until_counted(delivery, delivered=0, failed=11, given_up=1)
        office.receivers.answers.clear()
        await office.store.write(lambda conn: book.replay(conn, channel, letter.id, office.now()))
        office.jump_to(second.due_at)
        await office.until_empty(channel)
        assert sorted(office.receivers.of("a")[11:]) == [first, later]


async def test_a_receiver_that_asks_for_peace_gets_it(office: Office, mock_clock: MockClock) -> None:
    async def busy(_: int) -> NoReturn:
        raise Unavailable("busy", retry_after=1000.5)

    office.receivers.answers["a"] = busy
    async with office.delivering():
        channel = await office.channel("a")
        await office.happens()
        letter = await office.until_tried(channel, 1)
        assert letter.tried_at is not None
        assert letter.due_at - letter.tried_at == timedelta(seconds=1000.5)
        office.jump_to(letter.due_at - timedelta(seconds=1))
        await office.happens(3)  # wakes the channel, but not its head
        await office.until_tried(channel, 0, position=3)
        assert len(office.receivers.of("a")) == 1
        office.jump_to(letter.due_at)
        await office.until_sent("a", 2)


@pytest.mark.parametrize("seconds", [1e9, float("inf"), float("nan"), -5.0])
async def test_a_receiver_cannot_ask_for_more_than_there_is(
    seconds: float, office: Office, mock_clock: MockClock
) -> None:
    async def odd(_: int) -> NoReturn:
        raise Unavailable("odd", retry_after=seconds)

    office.receivers.answers["a"] = odd
    async with office.delivering():
        channel = await office.channel("a")
        await office.happens()
        letter = await office.until_tried(channel, 1)
        assert letter.tried_at is not None
        assert letter.tried_at < letter.due_at <= letter.give_up_at


async def test_what_will_never_be_taken_is_given_up_at_once(office: Office, mock_clock: MockClock) -> None:
    async def picky(number: int) -> str:
        if number == made[0]:
            raise InvalidArgument("not this one")
        return "taken"

    made: list[int] = []
    office.receivers.answers["a"] = picky
    channel = await office.channel("a")
    made += await office.happens(2)
    async with office.delivering():
        assert await office.until_sent("a", 2) == made
        letter = await office.until_tried(channel, 1)
    assert (letter.state, letter.attempts, letter.answer) == ("dead", 1, "not this one")


async def test_a_channel_that_hangs_holds_nobody_up(office: Office, mock_clock: MockClock) -> None:
    slow = [await office.channel(f"slow{number}") for number in range(100)]
    for number in range(100):
        office.receivers.answers[f"slow{number}"] = hang
    fast = await office.channel("fast")
    async with office.delivering() as delivery:
        made = await office.happens(20)
        assert await office.until_sent("fast", 20) == made
        await office.until_empty(fast)
        for number in range(100):
            await office.until_sent(f"slow{number}", 1)
        assert delivery.statistics().sending >= 100
        office.clock.jump(SEND_SECONDS)
        for channel in slow:
            letter = await office.until_tried(channel, 1)
            assert letter.answer == "the provider did not answer within 10 s"
            assert letter.state == "waiting"


async def test_a_stop_in_the_middle_loses_nothing(office: Office, mock_clock: MockClock) -> None:
    office.receivers.answers["a"] = hang
    channel = await office.channel("a")
    made = await office.happens(3)
    async with office.delivering():
        await office.until_sent("a", 1)
    office.receivers.answers.clear()
    async with office.delivering():
        assert await office.until_sent("a", 4) == [made[0], *made]
        await office.until_empty(channel)


async def test_a_stop_right_after_the_answer_repeats_nothing(office: Office, mock_clock: MockClock) -> None:
    stop = trio.CancelScope()

    async def stopping(_: int) -> str:
        stop.cancel()
        return "taken"

    office.receivers.answers["a"] = stopping
    channel = await office.channel("a")
    made = await office.happens(2)
    with stop:
        async with office.delivering():
            await trio.sleep_forever()
    office.receivers.answers.clear()
    async with office.delivering():
        await office.until_empty(channel)
    assert office.receivers.of("a") == made


async def test_two_daemons_on_one_database_share_the_work(office: Office, mock_clock: MockClock) -> None:
    channel_ids = {name: await office.channel(name) for name in "abcdefgh"}
    async with office.delivering("one"), office.delivering("other"):
        made = await office.happens(25)
        for name, channel in channel_ids.items():
            await office.until_sent(name, 25)
            await office.until_empty(channel)
    for name in "abcdefgh":
        assert office.receivers.of(name) == made


async def test_what_a_daemon_left_is_taken_over(office: Office, mock_clock: MockClock) -> None:
    office.receivers.answers["a"] = hang
    channel = await office.channel("a")
    made = await office.happens()
    async with office.delivering("one"):
        await office.until_sent("a", 1)
    office.receivers.answers.clear()
    async with office.delivering("other"):
        await office.store.read(lambda conn: conn.execute(select(channels)).all())
        office.clock.jump(book.SENDER.total_seconds() - 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(office.receivers.of("a")) == 1
        office.clock.jump(1.001)
        assert await office.until_sent("a", 2) == made * 2
        await office.until_empty(channel)


async def test_a_defect_of_a_notifier_is_its_own(office: Office, mock_clock: MockClock) -> None:
    async def broken(_: int) -> NoReturn:
        raise ZeroDivisionError("of the notifier")

    office.receivers.answers["a"] = broken
    async with office.delivering():
        channel, other = await office.channel("a"), await office.channel("b")
        await office.happens()
        letter = await office.until_tried(channel, 1)
        assert letter.answer == "the notifier 'played' failed with ZeroDivisionError; see the log"
        assert letter.state == "waiting"
        await office.until_sent("b", 1)
        await office.until_empty(other)


async def test_what_cannot_be_told_is_given_up(office: Office, mock_clock: MockClock) -> None:
    async with office.delivering():
        channel = await office.channel("a")
        await office.happens(unspeakable=True)
        letter = await office.until_tried(channel, 1)
        assert letter.state == "dead"
        assert office.receivers.of("a") == []


async def test_a_provider_that_is_gone_and_back(office: Office, mock_clock: MockClock) -> None:
    channel = await office.channel("a")
    made = await office.happens()
    async with office.delivering(installed=False):
        letter = await office.until_tried(channel, 1)
        assert letter.answer == "the provider 'played' is not installed any more"
    async with office.delivering():
        office.jump_to(letter.due_at)
        assert await office.until_sent("a", 1) == made


async def test_a_configuration_that_does_not_open_is_told(office: Office, mock_clock: MockClock) -> None:
    async with office.delivering():
        channel = await office.channel("a", box=SecretBox(bytes([1]) * 32))
        await office.happens()
        letter = await office.until_tried(channel, 1)
        assert letter.answer is not None
        assert "sealed with another key" in letter.answer
        assert letter.state == "waiting"


async def test_a_deleted_channel_is_left_at_once(office: Office, mock_clock: MockClock) -> None:
    left = trio.Event()

    async def patient(_: int) -> NoReturn:
        try:
            await trio.sleep_forever()
        finally:
            left.set()

    office.receivers.answers["a"] = patient
    async with office.delivering() as delivery:
        channel = await office.channel("a")
        await office.happens()
        await office.until_sent("a", 1)

        def drop(conn: Connection) -> None:
            conn.execute(delete(channels).where(channels.c.id == channel))
            append(conn, "channel.deleted", subject=("channel", channel), team_id=office.team)

        await office.store.write(drop)
        await left.wait()
        assert await office.letters(channel) == []
        assert delivery.statistics().channels == 0


async def test_channels_of_a_team_that_was_deleted_meanwhile_are_gone(office: Office, mock_clock: MockClock) -> None:
    channel = await office.channel("a")
    await office.happens()
    ended = update(teams).where(teams.c.id == office.team).values(deleted_at=utcnow())
    await office.store.write(lambda conn: conn.execute(ended))
    async with office.delivering():

        async def gone() -> bool:
            return not await office.store.read(lambda conn: conn.execute(select(channels)).all())

        await office.until(gone)
    assert office.receivers.sent == []
    assert await office.letters(channel) == []


async def test_a_mended_channel_does_not_wait(office: Office, mock_clock: MockClock) -> None:
    office.receivers.answers["a"] = refuse
    async with office.delivering():
        channel = await office.channel("a")
        made = await office.happens(2)
        await office.until_tried(channel, 1)
        office.receivers.answers.clear()

        def mend(conn: Connection) -> None:
            book.hasten(conn, channel, office.now())
            append(conn, "channel.config_rotated", subject=("channel", channel), team_id=office.team)

        await office.store.write(mend)
        assert await office.until_sent("a", 3) == [made[0], *made]
        assert office.receivers.times("a") == [office.receivers.times("a")[0]] * 3
