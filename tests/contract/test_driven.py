"""Requests to the device-testing wing that a generator makes up; see :mod:`tests.support.made_up`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest
from schemathesis import GenerationMode

from tests.support.made_up import MODES, drive

ENDLESS = {"/api/v1/events"}
"""Streams without an end; the tests of events follow them."""


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_made_up_requests_get_documented_answers(daemon: Any, mode: GenerationMode) -> None:
    """With a key, and every fourth without."""
    asked = count(1)

    def headers() -> Mapping[str, str]:
        return {} if next(asked) % 4 == 0 else {"Authorization": f"Bearer {daemon.keys['live_key']}"}

    answered = drive(
        daemon,
        "/api/v1/openapi.json",
        mode,
        asked=lambda each: each.path not in ENDLESS and each.label != "DELETE /api/v1/auth/session",
        headers=headers,
        examples=6,
    )
    assert next(asked) > 100
    assert len(answered) > 25
