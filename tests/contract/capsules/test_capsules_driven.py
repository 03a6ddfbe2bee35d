"""Requests of people that a generator makes up from the served document, against the running daemon.

Whatever is asked, the answer is documented, fits its schema, and is no error of the server.
"""

from __future__ import annotations

import contextlib
from typing import Any

import httpx2
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

from tests.daemon import EMAIL, PASSWORD

EXAMPLES = 3
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SUBJECTS = {"auth", "me", "account", "api-keys", "users", "teams"}
ENDING = {"POST /v1/auth/logout", "POST /v1/auth/logout-all"}
"""They would end the session that the others are asked with; tests of sessions call them."""

BELOW = {414, 431}
"""What the connection refuses before any operation sees it."""


@pytest.fixture(scope="module")
def headers(daemon: Any) -> dict[str, str]:
    """The headers of the first user's browser. There is one login, since attempts are limited."""
    login = httpx2.post(f"{daemon.url}/v1/auth/login", json={"email": EMAIL, "password": PASSWORD}, trust_env=False)
    assert login.status_code == 200, login.text
    cookies = dict(line.partition(";")[0].split("=", 1) for line in login.headers.get_list("set-cookie"))
    return {
        "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
        "X-CSRF-Token": cookies["wrenn_csrf"],
    }


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_made_up_requests_of_people_get_documented_answers(
    daemon: Any, headers: dict[str, str], mode: GenerationMode
) -> None:
    """Bounded and the same every time: so many examples for each operation."""
    schema = schemathesis.openapi.from_url(f"{daemon.url}/v1/openapi.json")
    asked: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        if not SUBJECTS & set(operation.tags or ()) or operation.label in ENDING:
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
            answer = case.call(base_url=daemon.url, headers=headers, timeout=20, allow_redirects=False)
            asked.setdefault(case.operation.label, set()).add(answer.status_code)
            if answer.status_code not in BELOW:
                case.validate_response(answer, checks=CHECKS)

        with contextlib.suppress(Unsatisfiable):  # there is nothing in it that could be wrong
            drive()
    assert len(asked) > 25
    assert {404, 403, 400, 204, 200} <= set().union(*asked.values())
    assert daemon.process is not None
    assert daemon.process.poll() is None, daemon.tail()
