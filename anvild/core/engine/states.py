"""The life of a run: which state may follow which, and when a failed attempt is followed by a new one.

The rule for new attempts:

- A verdict on the thing under test ends the run, unless the workload raised ``RunFailed(retry=True)``.
- An attempt that began its workload and was ended by the infrastructure (:data:`INFRASTRUCTURE`), or by
  ``RunFailed(retry=True)``, counts against ``max_attempts``.
- An attempt that never began its workload (no session, no device made) is free :data:`FALSE_STARTS` times a run; then
  it counts.
- An attempt that a restart of the daemon ended is always free: a restart by itself never fails a run.
- So is one whose driver cannot make what was asked for, while another driver may.
"""

from __future__ import annotations

import msgspec

from anvild.core.errors import Conflict
from anvild.sdk import (
    AnvilError,
    DeadlineExceeded,
    DeviceLost,
    DriverFault,
    ResourceExhausted,
    RunFailed,
    Unavailable,
)

from .values import RunState

__all__ = ["FALSE_STARTS", "INFRASTRUCTURE", "TRANSITIONS", "Ending", "check_transition", "ending_of", "next_state"]

TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.DRAFT: frozenset({RunState.QUEUED, RunState.CANCELLED}),
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.PAUSED, RunState.FAILED, RunState.CANCELLED}),
    RunState.RUNNING: frozenset(
        {RunState.QUEUED, RunState.PAUSED, RunState.PASSED, RunState.FAILED, RunState.CANCELLED}
    ),
    RunState.PAUSED: frozenset({RunState.QUEUED, RunState.RUNNING, RunState.FAILED, RunState.CANCELLED}),
    RunState.PASSED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
}

FALSE_STARTS = 3
"""How many attempts of a run may fail before their workload begins without being counted."""

DAEMON_RESTART = "daemon_restart"

INFRASTRUCTURE = frozenset({DeviceLost.code, DriverFault.code, Unavailable.code, "storage_full"})
"""Codes of endings that say nothing about the thing under test."""

FALSE_START = INFRASTRUCTURE | {DeadlineExceeded.code, ResourceExhausted.code}
"""Codes that also say nothing about it while the workload has not begun."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended: PASSED, FAILED or CANCELLED, with a stable code and one sentence.

    ``began`` says that the workload had begun. ``retry`` says that a new attempt may follow, ``elsewhere`` that it
    costs the run nothing, for only the place was wrong.
    """

    state: RunState
    code: str
    reason: str
    began: bool
    retry: bool = False
    elsewhere: bool = False


def check_transition(old: RunState, new: RunState) -> None:
    """Raise Conflict when no run goes from ``old`` to ``new``."""
    if new not in TRANSITIONS[old]:
        raise Conflict(f"a run that is {old} cannot become {new}", state=str(old))


def ending_of(error: BaseException, *, began: bool) -> Ending:
    """Judge what a workload or a session raised. Of a group, the most telling member counts."""
    cause = _most_telling(error)
    if isinstance(cause, RunFailed):
        return Ending(state=RunState.FAILED, code=cause.code, reason=cause.message, began=began, retry=cause.retry)
    if isinstance(cause, AnvilError):
        codes = INFRASTRUCTURE if began else FALSE_START
        return Ending(
            state=RunState.FAILED, code=cause.code, reason=cause.message, began=began, retry=cause.code in codes
        )
    return Ending(
        state=RunState.FAILED,
        code="workload_error",
        reason=f"the workload failed with {type(cause).__name__}: {cause}",
        began=began,
    )


def next_state(ending: Ending, *, spent: int, false_starts: int, max_attempts: int) -> tuple[RunState, int, int]:
    """Return the run's state after an attempt, and the new counts of spent attempts and of false starts."""
    if ending.code == DAEMON_RESTART or ending.elsewhere:
        return RunState.QUEUED, spent, false_starts
    if not ending.retry:
        return ending.state, spent + 1, false_starts
    if not ending.began and false_starts < FALSE_STARTS:
        return RunState.QUEUED, spent, false_starts + 1
    spent += 1
    return (RunState.QUEUED if spent < max_attempts else ending.state), spent, false_starts


def _most_telling(error: BaseException) -> BaseException:
    """A judged failure before an error of the interface before anything else."""
    leaves = list(_leaves(error))
    for kind in (RunFailed, DeviceLost, AnvilError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
