"""Whatever mix of jobs is run and cancelled: the database holds exactly what was acknowledged."""

from __future__ import annotations

from typing import Literal, NamedTuple

import hypothesis.strategies as st
import trio
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Column, Connection, Integer, MetaData, Table, UniqueConstraint, delete, insert, select
from sqlalchemy.exc import IntegrityError

from anvild.core.events import EventLog, append
from anvild.core.store import Store, open_store

effects = Table(
    "effects",
    MetaData(),
    Column("job", Integer, nullable=False),
    Column("part", Integer, nullable=False),
    Column("exclusive", Integer, unique=True),
    UniqueConstraint("job", "part"),
)


class Step(NamedTuple):
    """One job: how it ends, after how many loop turns it is submitted, and after how many it is cancelled."""

    kind: Literal["good", "raises", "violates", "exclusive"]
    start: int
    cancel: int | None


class Failed(Exception):
    pass


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["good", "good", "raises", "violates", "exclusive"]),
        st.integers(0, 6),
        st.one_of(st.none(), st.integers(0, 12)),
    ),
    min_size=1,
    max_size=24,
)


def job(number: int, step: Step, connection: Connection) -> int:
    connection.execute(insert(effects).values(job=number, part=1))
    append(connection, "job.ran", subject=("job", str(number)))
    if step.kind == "raises":
        raise Failed
    if step.kind == "violates":
        connection.execute(insert(effects).values(job=number, part=1))
    connection.execute(insert(effects).values(job=number, part=2, exclusive=1 if step.kind == "exclusive" else None))
    return number


async def play(store: Store, plan: list[Step]) -> tuple[set[int], list[int]]:
    """Run the plan; return the jobs that were acknowledged and those that the live tail told of."""
    acknowledged: set[int] = set()

    async def submit(number: int, step: Step) -> None:
        for _ in range(step.start):
            await trio.lowlevel.checkpoint()
        try:
            acknowledged.add(await store.write(lambda connection: job(number, step, connection)))
        except (Failed, IntegrityError):
            assert step.kind != "good"

    async def cancel(scope: trio.CancelScope, turns: int) -> None:
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async def run(number: int, step: Step) -> None:
        async with trio.open_nursery() as nursery:
            if step.cancel is not None:
                nursery.start_soon(cancel, nursery.cancel_scope, step.cancel)
            await submit(number, step)
            nursery.cancel_scope.cancel()

    log = EventLog(store)
    async with trio.open_nursery() as background:
        await background.start(log.run)
        async with log.follow(after=None, buffer=1000) as follower:
            async with trio.open_nursery() as nursery:
                for number, step in enumerate(plan):
                    nursery.start_soon(run, number, step)
            last = await store.write(lambda connection: append(connection, "job.ran", subject=("job", "-1")))
            told = []
            async for event in follower:
                if event.id == last:
                    break
                told.append(int(event.subject_id))
        background.cancel_scope.cancel()
    return acknowledged, told


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=steps)
def test_exactly_the_acknowledged_jobs_took_effect(store_url: str, plan: list[Step]) -> None:
    async def check() -> None:
        async with open_store(store_url) as store:
            await store.write(lambda connection: effects.create(connection, checkfirst=True))
            await store.write(lambda connection: connection.execute(delete(effects)))
            acknowledged, told = await play(store, plan)
            rows = await store.read(lambda c: c.execute(select(effects.c.job, effects.c.part)).all())
        assert {tuple(row) for row in rows} == {(number, part) for number in acknowledged for part in (1, 2)}
        assert sorted(told) == sorted(acknowledged)
        kinds = [plan[number].kind for number in acknowledged]
        assert not {"raises", "violates"} & set(kinds)
        uncancelled = any(step.kind == "exclusive" and step.cancel is None for step in plan)
        assert kinds.count("exclusive") <= 1
        assert kinds.count("exclusive") == 1 or not uncancelled
        wanted = {number for number, step in enumerate(plan) if step.kind == "good" and step.cancel is None}
        assert wanted <= acknowledged

    trio.run(check)
