"""Requests that a generator makes up from the served document, against the running daemon.

Whatever is asked, the answer is documented, fits its schema, and is no error of the server.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
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

EXAMPLES = 6
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ENDLESS = {"/api/v1/events"}
"""Streams without an end; the tests of events follow them."""

BELOW = {414, 431}
"""What the connection refuses before any operation sees it."""


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_made_up_requests_get_documented_answers(daemon: Any, mode: GenerationMode) -> None:
    """Bounded and the same every time: so many examples for each operation, with a key and every fourth without."""
    schema = schemathesis.openapi.from_url(f"{daemon.url}/api/v1/openapi.json")
    asked = 0
    driven = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in ENDLESS or operation.label == "DELETE /api/v1/auth/session":
            continue

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def drive(case: Case) -> None:
            nonlocal asked
            asked += 1
            headers = {} if asked % 4 == 0 else {"Authorization": f"Bearer {daemon.keys['live_key']}"}
            answer = case.call(base_url=daemon.url, headers=headers, timeout=20)
            if answer.status_code not in BELOW:
                case.validate_response(answer, checks=CHECKS)

        with contextlib.suppress(Unsatisfiable):  # there is nothing in it that could be wrong
            drive()
        driven.append(operation.label)
    assert asked > 100
    assert len(driven) > 25
    assert daemon.process is not None
    assert daemon.process.poll() is None, daemon.tail()
