"""A filter chooses the same events in memory and in the database."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Connection, create_engine, delete, insert, select

from anvild.core.clock import utcnow
from anvild.core.events import ALL, EventFilter
from anvild.core.events.tables import events
from anvild.core.ids import new_id
from anvild.sdk import Event

IDS = [new_id() for _ in range(3)]
KINDS = ["run.passed", "run.failed", "Run.passed", "runs.x", "run", "key.made", "ä%_."]

some_id = st.sampled_from([None, *IDS])
some_event = st.builds(
    Event,
    id=st.just(0),
    at=st.builds(utcnow),
    kind=st.sampled_from(KINDS),
    subject_type=st.sampled_from(["run", "key"]),
    subject_id=st.sampled_from(["1", "2"]),
    team_id=some_id,
    run_id=some_id,
    actor=st.sampled_from(["system", "user:1"]),
    audit=st.booleans(),
)
some_filter = st.builds(
    EventFilter,
    team_id=some_id,
    include_lab=st.booleans(),
    run_id=some_id,
    kinds=st.lists(st.sampled_from([*KINDS, "run.", "r.", "."]), max_size=3).map(tuple),
    subject_type=st.sampled_from([None, "run", "key"]),
    subject_id=st.sampled_from([None, "1", "2"]),
    actor=st.sampled_from([None, "system", "user:1"]),
    audit_only=st.booleans(),
)


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.connect() as opened:
        events.create(opened)
        yield opened
    engine.dispose()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=st.lists(some_event, max_size=12), where=some_filter)
def test_memory_and_database_agree(connection: Connection, log: list[Event], where: EventFilter) -> None:
    connection.execute(delete(events))
    fields = [name for name in Event.__struct_fields__ if name != "id"]
    for number, event in enumerate(log):
        connection.execute(insert(events).values(id=number, **{name: getattr(event, name) for name in fields}))
    chosen = list(connection.scalars(select(events.c.id).where(where.condition()).order_by(events.c.id)))
    assert chosen == [number for number, event in enumerate(log) if where.matches(event)]


def test_an_empty_filter_wants_all() -> None:
    event = Event(id=1, at=utcnow(), kind="run.passed", subject_type="run", subject_id="1")
    assert ALL.matches(event)


def test_a_noun_with_its_dot_is_all_of_the_noun() -> None:
    event = Event(id=1, at=utcnow(), kind="run.passed", subject_type="run", subject_id="1")
    assert EventFilter(kinds=("run.",)).matches(event)
    assert not EventFilter(kinds=("run",)).matches(event)
    assert not EventFilter(kinds=("ru.",)).matches(event)


def test_the_lab_s_own_events_are_included_on_demand() -> None:
    event = Event(id=1, at=utcnow(), kind="host.lost", subject_type="host", subject_id="1")
    assert not EventFilter(team_id=IDS[0]).matches(event)
    assert EventFilter(team_id=IDS[0], include_lab=True).matches(event)
