"""The exit codes are one table."""

from __future__ import annotations

import pytest

from anvild.cli.exits import EXIT_TABLE, ExitCode, exit_for_status
from anvild.core import errors
from anvild.sdk import ERROR_TABLE, AnvilError


def test_every_code_has_a_meaning() -> None:
    assert list(EXIT_TABLE) == list(ExitCode)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ExitCode.USAGE),
        (401, ExitCode.NOT_AUTHORISED),
        (402, ExitCode.CONFLICT),
        (404, ExitCode.NOT_FOUND),
        (409, ExitCode.CONFLICT),
        (413, ExitCode.USAGE),
        (429, ExitCode.UNREACHABLE),
        (500, ExitCode.FAULT),
        (503, ExitCode.UNREACHABLE),
        (504, ExitCode.TIMED_OUT),
        (507, ExitCode.CONFLICT),
    ],
)
def test_a_status_means_a_code(status: int, code: ExitCode) -> None:
    assert exit_for_status(status) is code


def test_only_defects_are_called_defects() -> None:
    known = {row.http for row in ERROR_TABLE}
    known |= {each.http for each in vars(errors).values() if isinstance(each, type) and issubclass(each, AnvilError)}
    assert {status for status in known if exit_for_status(status) is ExitCode.FAULT} <= {500}
