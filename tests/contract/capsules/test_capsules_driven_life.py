"""Requests about a capsule that runs, which a generator makes up from the served document.

Whatever is asked, the answer is documented, fits its schema, and is no error of the server.
"""

from __future__ import annotations

import contextlib
import time
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

EXAMPLES = 4
ANSWERED = [status_code_conformance, content_type_conformance, response_schema_conformance]
SUBJECTS = {"capsules", "snapshots"}
ENDING = {"DELETE /v1/capsules/{id}", "POST /v1/capsules"}
"""The first would end the capsule, the second fill the lab."""

BELOW = {414, 431}
"""What the connection refuses before any operation sees it."""

SAID = {501, 502, 503}
"""What the machine behind the capsule cannot do, told in a sentence: no defect of the server."""


@pytest.fixture(scope="module")
def capsule(daemon_factory: Any) -> tuple[Any, str, dict[str, str]]:
    """A daemon, a capsule of it that runs, and the headers of a program."""
    daemon = daemon_factory("[drivers.microvm]\nenabled = false\n")
    daemon.bootstrap()
    daemon.start()
    daemon.wait_for_driver("sandbox")
    headers = {"X-API-Key": daemon.keys["api_key"]}
    with httpx2.Client(base_url=daemon.url, headers=headers, trust_env=False) as client:
        capsule = client.post("/v1/capsules", json={"template": "host"}).json()["id"]
        until = time.monotonic() + 30
        while client.get(f"/v1/capsules/{capsule}").json()["status"] != "running":
            assert time.monotonic() < until
            time.sleep(0.05)
    return daemon, capsule, headers


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_made_up_requests_about_a_capsule_get_documented_answers(
    capsule: tuple[Any, str, dict[str, str]], mode: GenerationMode
) -> None:
    """Bounded and the same every time: so many examples for each operation."""
    daemon, capsule_id, headers = capsule
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
            if "id" in case.path_parameters:
                case.path_parameters["id"] = capsule_id
            if isinstance(case.body, dict) and "sandbox_id" in case.body:
                case.body["sandbox_id"] = capsule_id
            answer = case.call(base_url=daemon.url, headers=headers, timeout=40, allow_redirects=False)
            asked.setdefault(case.operation.label, set()).add(answer.status_code)
            if answer.status_code not in BELOW:
                more = [] if answer.status_code in SAID else [not_a_server_error]
                case.validate_response(answer, checks=[*ANSWERED, *more])

        with contextlib.suppress(Unsatisfiable):  # there is nothing in it that could be wrong
            drive()
    assert len(asked) > 10
    assert 400 in set().union(*asked.values())
    assert daemon.process is not None
    assert daemon.process.poll() is None, daemon.tail()
