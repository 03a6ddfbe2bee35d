"""Sequences of requests that a generator makes up, in which answers go into the next ones; see
:mod:`tests.support.made_up`."""

from __future__ import annotations

from typing import Any

import pytest
from schemathesis import Case
from schemathesis.schemas import APIOperation

from tests.support.made_up import drive_linked

ENDING = {
    "POST /v1/auth/login",
    "POST /v1/auth/logout",
    "POST /v1/auth/logout-all",
    "POST /v1/auth/switch-team",
    "DELETE /v1/me/sessions/{id}",
    "DELETE /v1/teams/{id}",
    "DELETE /v1/account",
    "DELETE /v1/admin/teams/{id}",
    "DELETE /v1/api-keys/{id}",
}
"""They would end the session, the team or the keys that the others are asked with; tests of these call them."""

SAID = {501, 502, 503}
"""What the machine behind a capsule cannot do."""


@pytest.fixture(scope="module")
def lab(daemon_factory: Any) -> Any:
    """A daemon that can make sandboxes, and nothing else."""
    daemon = daemon_factory("[drivers.microvm]\nenabled = false\n")
    daemon.bootstrap()
    daemon.start()
    daemon.wait_for_driver("sandbox")
    return daemon


def test_made_up_sequences_get_documented_answers(lab: Any, sign_in: Any) -> None:
    def asked(operation: APIOperation[Any, Any]) -> bool:
        endless = operation.path.endswith(("/stream", "/pty")) or operation.path.startswith("/auth/oauth")
        return not endless and operation.label not in ENDING and "documents" not in (operation.tags or ())

    def prepare(case: Case) -> None:
        if case.operation.label == "POST /v1/capsules":
            case.body = {
                "template": "host"
            }  # so that there are capsules to go on with; made-up bodies are asked elsewhere

    answered = drive_linked(
        lab, "/v1/openapi.json", asked=asked, headers=sign_in(lab), sequences=40, steps=15, prepare=prepare, said=SAID
    )
    assert len(answered) > 50, sorted(answered)
    assert {200, 201, 202, 204, 400, 404} <= set().union(*answered.values())
    assert 202 in answered["POST /v1/capsules"]
