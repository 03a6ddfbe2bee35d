"""Requests that a generator makes up from a served document, against the running daemon.

Whatever is asked, the answer is documented, fits its schema, and is no error of the server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.schemas import APIOperation

from tests.daemon import Daemon

__all__ = ["MODES", "drive"]

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
            if answer.status_code not in BELOW:
                more = [] if answer.status_code in said else [not_a_server_error]
                case.validate_response(answer, checks=[*_DOCUMENTED, *more])

        with contextlib.suppress(Unsatisfiable):  # there is nothing in it that could be wrong
            ask()
    assert daemon.process is not None
    assert daemon.process.poll() is None, daemon.tail()
    return answered
