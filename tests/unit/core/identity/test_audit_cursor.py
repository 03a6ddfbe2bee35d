"""The audit cursor: an RFC 3339 time that also carries an event's id."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from anvild.core.errors import InvalidRequest
from anvild.core.identity import AuditCursor

AT = datetime(2026, 3, 1, 12, 30, 0, 45, tzinfo=UTC)


def test_a_cursor_survives_the_way_through_a_client() -> None:
    cursor = AuditCursor(AT, 42)
    assert cursor.text == "2026-03-01T12:30:00.0000450000000000000000042Z"
    assert AuditCursor.parse(cursor.text) == cursor


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-03-01T12:30:00.000045Z", AT),
        ("2026-03-01T13:30:00.000045+01:00", AT),
        ("2026-03-01t12:30:00.000045999z", AT),
        ("2026-03-01T12:30:00Z", AT.replace(microsecond=0)),
        ("2026-03-01T12:30:00.5Z", AT.replace(microsecond=500_000)),
    ],
)
def test_a_time_that_a_client_wrote(text: str, at: datetime) -> None:
    assert AuditCursor.parse(text) == AuditCursor(at)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-03-01", "2026-03-01T12:30:00", "2026-13-01T12:30:00Z", "0001-01-01T00:00:00+10:00"]
)
def test_a_wrong_cursor_is_refused_with_the_expectation(text: str) -> None:
    with pytest.raises(InvalidRequest, match="RFC 3339") as caught:
        AuditCursor.parse(text)
    assert caught.value.problems[0].field == "query.before"
