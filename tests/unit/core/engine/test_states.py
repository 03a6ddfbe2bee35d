"""The rules of runs: transitions, and what follows a failed attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anvild.core.engine.states import FALSE_STARTS, TRANSITIONS, Ending, check_transition, ending_of, next_state
from anvild.core.engine.values import RunState
from anvild.core.errors import Conflict, StorageFull
from anvild.sdk import DeadlineExceeded, DeviceLost, InvalidArgument, RunFailed, Unavailable


def test_every_state_has_a_way_out_and_terminal_ones_have_none() -> None:
    for state in RunState:
        reached, todo = {state}, [state]
        while todo:
            new = TRANSITIONS[todo.pop()] - reached
            reached |= new
            todo += new
        assert any(each.terminal for each in reached)
        assert state.terminal == (not TRANSITIONS[state])
        if not state.terminal:
            check_transition(state, RunState.CANCELLED)


def test_a_transition_that_is_not_there_is_a_conflict() -> None:
    with pytest.raises(Conflict, match="a run that is passed cannot become queued"):
        check_transition(RunState.PASSED, RunState.QUEUED)


@pytest.mark.parametrize(
    ("error", "began", "code", "retry"),
    [
        (RunFailed("bad", "no"), True, "bad", False),
        (RunFailed("flaky", "no", retry=True), True, "flaky", True),
        (DeviceLost("gone"), True, "device_lost", True),
        (Unavailable("later"), False, "unavailable", True),
        (StorageFull("full"), True, "storage_full", True),
        (DeadlineExceeded("slow"), True, "deadline_exceeded", False),
        (DeadlineExceeded("slow"), False, "deadline_exceeded", True),
        (InvalidArgument("wrong"), True, "invalid_argument", False),
        (ZeroDivisionError("oops"), True, "workload_error", False),
        (ExceptionGroup("", [ValueError(), ExceptionGroup("", [DeviceLost("gone")])]), True, "device_lost", True),
        (ExceptionGroup("", [DeviceLost("gone"), RunFailed("bad", "no")]), True, "bad", False),
    ],
)
def test_how_an_error_is_judged(error: Exception, began: bool, code: str, retry: bool) -> None:
    ending = ending_of(error, began=began)
    assert (ending.state, ending.code, ending.retry, ending.began) == (RunState.FAILED, code, retry, began)


@given(
    endings=st.lists(
        st.builds(
            Ending,
            state=st.just(RunState.FAILED),
            code=st.sampled_from(["device_lost", "daemon_restart", "bad"]),
            reason=st.just(""),
            began=st.booleans(),
            retry=st.booleans(),
        ),
        max_size=40,
    ),
    max_attempts=st.integers(1, 5),
)
def test_attempts_come_to_an_end_and_restarts_are_free(endings: list[Ending], max_attempts: int) -> None:
    spent = false_starts = counted = 0
    for ending in endings:
        state, spent, false_starts = next_state(
            ending, spent=spent, false_starts=false_starts, max_attempts=max_attempts
        )
        if ending.code == "daemon_restart":
            assert state is RunState.QUEUED
            continue
        counted += 1
        assert counted <= max_attempts + FALSE_STARTS
        if state is not RunState.QUEUED:
            break
        assert ending.retry
        assert spent < max_attempts
