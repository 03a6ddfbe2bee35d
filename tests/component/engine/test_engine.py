"""Runs from submission to verdict, on both stores, with the real engine."""

from __future__ import annotations

import trio

from tests.support.lab import Lab, StartEngine, asks


async def test_a_run_passes(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"log": "hello"}, {"finding": "high"}, {"phase": "end"}))
    assert run.state == "queued"
    with trio.fail_after(10):
        ended = await running.until(run)
    assert (ended.state, ended.reason, ended.attempt) == ("passed", "all steps done", 1)
