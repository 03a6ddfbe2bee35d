"""Requests of people that a generator makes up; see :mod:`tests.support.made_up`."""

from __future__ import annotations

from typing import Any

import pytest
from schemathesis import GenerationMode

from tests.support.made_up import MODES, drive

SUBJECTS = {"auth", "me", "account", "api-keys", "users", "teams", "channels"}
ENDING = {"POST /v1/auth/logout", "POST /v1/auth/logout-all"}
"""They would end the session that the others are asked with; tests of sessions call them."""


@pytest.fixture(scope="module")
def headers(daemon: Any, sign_in: Any) -> dict[str, str]:
    """The headers of the first user's browser."""
    found: dict[str, str] = sign_in(daemon)
    return found


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_made_up_requests_of_people_get_documented_answers(
    daemon: Any, headers: dict[str, str], mode: GenerationMode
) -> None:
    answered = drive(
        daemon,
        "/v1/openapi.json",
        mode,
        asked=lambda each: bool(SUBJECTS & set(each.tags or ())) and each.label not in ENDING,
        headers=lambda: headers,
        examples=3,
    )
    assert len(answered) > 25
    assert {404, 403, 400, 204, 200} <= set().union(*answered.values())
