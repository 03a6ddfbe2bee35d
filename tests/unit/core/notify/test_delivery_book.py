"""The delivery book as a state machine: whatever happens, nothing is lost and a channel's order is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import create_engine, event, insert, select, update

from anvild.core.events import append
from anvild.core.ids import new_id
from anvild.core.notify import Advance, Failure, book
from anvild.core.notify.tables import channels, letters
from anvild.core.store.threads import ANNOUNCED
from anvild.core.tables import metadata

KINDS = ("run.passed", "run.failed", "device.lost")
DAEMONS = ("one", "other")
TEAM, FOREIGN = new_id(), new_id()


class DeliveryBook(RuleBasedStateMachine):
    """One channel, two daemons that serve it, and a model of what must come of each event."""

    def __init__(self) -> None:
        super().__init__()
        engine = create_engine("sqlite://")
        event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys = ON"))
        metadata.create_all(engine)
        self.engine = engine
        self.conn = engine.connect()
        self.conn.info[ANNOUNCED] = []
        self.now = datetime(2026, 3, 10, tzinfo=UTC)
        self.kinds: tuple[str, ...] = KINDS[:1]
        self.expected: list[int] = []  # the events that the channel must deliver, in the order of the log
        self.arrived: list[int] = []
        self.dead: set[int] = set()
        self.replayed: set[int] = set()
        self.sending: dict[str, Advance] = {}
        self.held_until: dict[str, datetime] = {}
        self.channel = new_id()

    def teardown(self) -> None:
        self.conn.close()
        self.engine.dispose()

    @initialize()
    def make(self) -> None:
        append(self.conn, KINDS[0], subject=("run", "before"), team_id=TEAM)
        values = {
            "id": self.channel,
            "team_id": TEAM,
            "name": "n",
            "provider": "p",
            "config": "sealed",
            "kinds": self.kinds,
            "created_by": "system",
            "created_at": self.now,
            "updated_at": self.now,
        }
        self.conn.execute(insert(channels).values(**values, position=book.newest_event(self.conn)))

    @rule(
        kind=st.sampled_from(KINDS),
        team=st.sampled_from([TEAM, FOREIGN, None]),
        count=st.sampled_from([1, 1, 1, 1, 1, 250]),
    )
    def happens(self, kind: str, team: str | None, count: int) -> None:
        for _ in range(count):
            number = append(self.conn, kind, subject=("run", "r"), team_id=team)
            if kind in self.kinds and team != FOREIGN:
                self.expected.append(number)

    @rule(kinds=st.sets(st.sampled_from(KINDS), min_size=1))
    def listens_to_others(self, kinds: set[str]) -> None:
        """What the wing does when a channel is changed."""
        book.take_in(self.conn, self.channel, self.now)
        self.kinds = tuple(sorted(kinds))
        self.conn.execute(update(channels).values(kinds=self.kinds))

    @rule(seconds=st.sampled_from([1.0, 10.0, 31.0, 3600.0, 86400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(daemon=st.sampled_from(DAEMONS))
    def advances(self, daemon: str) -> None:
        """A daemon asks what is to be done; one that was sending has been killed and started again."""
        self.sending.pop(daemon, None)
        next_ = book.advance(self.conn, self.channel, sender=daemon, now=self.now)
        assert next_ is not None
        assert next_.config == "sealed"
        if next_.letter is None:
            waiting = self._rows("waiting")
            assert (next_.due is None) == (not waiting)
            assert next_.due is None or next_.due > self.now
            return
        assert next_.letter.event.id == self._rows("waiting")[0].event_id
        for other, held in self.sending.items():
            assert held.letter is not None
            assert held.letter.id != next_.letter.id or self.held_until[other] <= self.now
        self.sending[daemon] = next_
        self.held_until[daemon] = self.now + book.SENDER

    @precondition(lambda self: self.sending)
    @rule(data=st.data())
    def arrives(self, data: Any) -> None:
        letter = self._take(data)
        self.arrived.append(letter.event.id)
        book.delivered(self.conn, letter.id)
        self.dead.discard(letter.event.id)

    @precondition(lambda self: self.sending)
    @rule(data=st.data(), final=st.booleans(), retry_after=st.sampled_from([0.0, 60.0, 1e12, float("nan")]))
    def fails(self, data: Any, final: bool, retry_after: float) -> None:
        letter = self._take(data)
        before = self._row(letter.id)
        failure = Failure(answer="no", final=final, retry_after=retry_after, stretch=0.1)
        state = book.failed(self.conn, letter.id, failure, self.now)
        after = self._row(letter.id)
        if before is None:
            assert state is None
            assert letter.event.id in self.arrived
            return
        assert after is not None
        assert state == after.state
        assert after.attempts == before.attempts + 1
        assert (state == "dead") == (final or self.now >= before.give_up_at)
        if state == "dead":
            self.dead.add(letter.event.id)
        else:
            assert self.now < after.due_at <= after.give_up_at

    @rule(data=st.data())
    def is_sent_anew(self, data: Any) -> None:
        rows = self._rows("dead") + self._rows("waiting")
        if not rows:
            return
        row = data.draw(st.sampled_from(rows))
        letter = book.replay(self.conn, self.channel, row.id, self.now)
        assert (letter.state, letter.attempts, letter.due_at) == ("waiting", 0, self.now)
        self.dead.discard(row.event_id)
        self.replayed.add(row.event_id)

    @rule()
    def is_mended(self) -> None:
        book.hasten(self.conn, self.channel, self.now)
        assert all(row.due_at <= self.now for row in self._rows("waiting"))

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every event has arrived, waits, is dead (and not yet too old to keep), or is not taken in yet."""
        position = self.conn.execute(select(channels.c.position)).scalar()
        if position is None:
            return
        waiting = {row.event_id for row in self._rows("waiting")}
        dead = {row.event_id for row in self._rows("dead")}
        assert dead <= self.dead
        arrived = set(self.arrived)
        for number in self.expected:
            assert number in arrived or number in waiting or number in self.dead or number > position
        assert waiting <= set(self.expected)

    @invariant()
    def order_is_kept(self) -> None:
        """What arrives for the first time, and was never given up, arrives in the order of the log."""
        first = list(dict.fromkeys(self.arrived))
        steady = [number for number in first if number not in self.replayed]
        assert steady == sorted(steady)

    def _take(self, data: Any) -> Any:
        daemon = data.draw(st.sampled_from(sorted(self.sending)))
        return self.sending.pop(daemon).letter

    def _rows(self, state: str) -> list[Any]:
        query = select(letters).where(letters.c.state == state).order_by(letters.c.event_id)
        return list(self.conn.execute(query))

    def _row(self, id_: str) -> Any:
        return self.conn.execute(select(letters).where(letters.c.id == id_)).one_or_none()


TestDeliveryBook = DeliveryBook.TestCase
TestDeliveryBook.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
