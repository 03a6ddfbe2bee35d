"""The published SDK, as it is on PyPI, works against the real daemon: each of its public methods is driven."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tests.sdk_client.conftest import Drive

KINDS = ("sync", "async")

NOT_DRIVEN = {
    "wrenn.exceptions.WrennHostHasCapsulesError.sandbox_ids": "no call of the SDK raises it: hosts take no API key",
}
"""Public methods that no program can reach by the SDK, with the reason."""

Driven = Callable[[str, str], frozenset[str]]


@pytest.fixture(scope="module")
def driven(request: pytest.FixtureRequest) -> Driven:
    """Runs a program with one client, once, and returns the names of what it called."""

    @cache
    def run(kind: str, part: str) -> frozenset[str]:
        drive: Drive = request.getfixturevalue("machines" if part == "rest" else "sandboxes")
        return drive(kind, part)

    return run


@pytest.mark.parametrize("part", ["work", "notebook"])
@pytest.mark.parametrize("kind", KINDS)
def test_with_sandboxes(driven: Driven, kind: str, part: str) -> None:
    assert driven(kind, part)


@pytest.mark.parametrize("kind", KINDS)
def test_with_machines(driven: Driven, kind: str) -> None:
    assert driven(kind, "rest")


def test_every_public_method_was_driven(driven: Driven, sandboxes: Drive) -> None:
    methods = sandboxes("sync", "methods")
    assert len(methods) > 150
    called = {name for kind in KINDS for part in ("work", "notebook", "rest") for name in driven(kind, part)}
    assert sorted(methods - called) == sorted(NOT_DRIVEN)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_the_code_runner_with_its_own_image(code_runners: Drive, kind: str) -> None:
    assert code_runners(kind, "notebook", "code-runner-beta")
