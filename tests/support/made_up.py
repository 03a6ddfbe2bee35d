"""Requests that a generator makes up from a served document, against the running daemon.

Whatever is asked, the answer is documented, fits its schema, and is no error of the server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.stateful import run_state_machine_as_test
from schemathesis import Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.schemas import APIOperation

from tests.daemon import Daemon

__all__ = ["MODES", "drive", "drive_linked"]

MODES = list(GenerationMode)

BELOW = {414, 431}
"""What the connection refuses before any operation sees it."""

_DOCUMENTED = [status_code_conformance, content_type_conformance, response_schema_conformance]


def drive(
    daemon: Daemon,
    document: str,
    mode: GenerationMode,
    *,
    asked: Callable[[APIOperation[Any, Any]], bool],
    headers: Callable[[], Mapping[str, str]],
    examples: int,
    patience: float = 20,
    prepare: Callable[[Case], None] | None = None,
    said: Collection[int] = (),
) -> dict[str, set[int]]:
    """Ask all operations for which ``asked`` says so, bounded and the same every time, and return with which statuses
    each has answered.

    ``prepare`` may change a request; ``said`` are statuses from 500 that tell, in a sentence, what the machine behind
    the daemon cannot do: no defect of the server.
    """
    schema = schemathesis.openapi.from_url(f"{daemon.url}{document}")
    answered: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        if not asked(operation):
            continue

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Case) -> None:
            if prepare is not None:
                prepare(case)
            answer = case.call(base_url=daemon.url, headers=dict(headers()), timeout=patience, allow_redirects=False)
            answered.setdefault(case.operation.label, set()).add(answer.status_code)
            _check(case, answer, said)

        with contextlib.suppress(Unsatisfiable):  # there is nothing in it that could be wrong
            ask()
    assert daemon.process is not None
    assert daemon.process.poll() is None, daemon.tail()
    return answered


def drive_linked(
    daemon: Daemon,
    document: str,
    *,
    asked: Callable[[APIOperation[Any, Any]], bool],
    headers: Mapping[str, str],
    sequences: int,
    steps: int,
    prepare: Callable[[Case], None] | None = None,
    said: Collection[int] = (),
) -> dict[str, set[int]]:
    """Ask in sequences, in which what one operation answers goes into the next, and return with which statuses each
    has answered. Which answers fit which parameters is inferred from the document.

    The words are those of :func:`drive`.
    """
    schema = schemathesis.openapi.from_url(f"{daemon.url}{document}").include(lambda context: asked(context.operation))
    answered: dict[str, set[int]] = {}

    class Sequence(schema.as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: Case) -> None:
            if prepare is not None:
                prepare(case)

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {"base_url": daemon.url, "headers": dict(headers), "timeout": 40, "allow_redirects": False}

        def validate_response(self, response: Any, case: Case, **_: Any) -> None:
            answered.setdefault(case.operation.label, set()).add(response.status_code)
            _check(case, response, said)

    chosen = settings(
        max_examples=1,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    # Each by itself: what the daemon answers depends on what it was asked before, so no sequence repeats another one.
    for number in range(sequences):
        run_state_machine_as_test(seed(number)(Sequence), settings=chosen)
    assert daemon.process is not None
    assert daemon.process.poll() is None, daemon.tail()
    return answered


def _check(case: Case, answer: Any, said: Collection[int]) -> None:
    if answer.status_code not in BELOW:
        more = [] if answer.status_code in said else [not_a_server_error]
        case.validate_response(answer, checks=[*_DOCUMENTED, *more])
