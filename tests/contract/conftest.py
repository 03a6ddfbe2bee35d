"""The contract of the device-testing interface."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import contract as law
from tests.support.contract import Document
from tests.support.wing import served_wing, wing

__all__ = ["served_wing", "wing"]

CONTRACT = Path(__file__).parent / "device-testing.openapi.json"


@pytest.fixture(scope="session")
def contract() -> Document:
    """The contract as its authors wrote it."""
    document: Document = json.loads(CONTRACT.read_text())
    return document


@pytest.fixture(scope="session")
def compare() -> Callable[[Document, Document], list[str]]:
    return partial(law.differences, prefix="/api/v1")


@pytest.fixture(scope="session")
def check_answer(contract: Document) -> Callable[[str, str, int, Any], None]:
    """Hold one answer against the contract: its status is promised and its body fits."""
    return partial(law.check_answer, contract)
