"""The comparison itself: it finds every kind of difference, so that finding none means something."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

Document = dict[str, Any]
Compare = Callable[[Document, Document], list[str]]


def test_the_contract_fits_itself(contract: Document, compare: Compare) -> None:
    assert compare(contract, contract) == []


def _schema(document: Document, name: str) -> Document:
    schema: Document = document["components"]["schemas"][name]
    return schema


CHANGES: dict[str, Callable[[Document], object]] = {
    "a path is missing": lambda d: d["paths"].pop("/runs"),
    "a method is missing": lambda d: d["paths"]["/devices"].pop("post"),
    "an operation is new": lambda d: d["paths"].update({"/new": d["paths"]["/runs"]}),
    "a status is missing": lambda d: d["paths"]["/devices"]["post"]["responses"].pop("402"),
    "a status is new": lambda d: d["paths"]["/devices"]["get"]["responses"].update({"418": {"description": "tea"}}),
    "a parameter is missing": lambda d: d["paths"]["/audit-log"]["get"]["parameters"].pop(),
    "a limit has moved": lambda d: d["paths"]["/audit-log"]["get"]["parameters"][0]["schema"].update(maximum=500),
    "a field is missing": lambda d: _schema(d, "Run")["properties"].pop("deviceId"),
    "a field is new": lambda d: _schema(d, "Run")["properties"].update(phase={"type": "string"}),
    "a field is not required any more": lambda d: _schema(d, "Device")["required"].remove("status"),
    "a field may not be null any more": lambda d: _schema(d, "Device")["properties"]["model"].pop("nullable"),
    "a field may be null": lambda d: _schema(d, "Device")["properties"]["name"].update(nullable=True),
    "an enumeration has another value": lambda d: _schema(d, "Run")["properties"]["status"]["enum"].append("paused"),
    "a format is another": lambda d: _schema(d, "Run")["properties"]["createdAt"].update(format="date"),
    "a type is another": lambda d: _schema(d, "ApiKeyListed")["properties"]["scopes"].update(type="string"),
    "a body has another shape": lambda d: _schema(d, "RunCreateBody")["required"].append("deviceId"),
    "an error has another shape": lambda d: _schema(d, "Error")["properties"].update(detail={"type": "string"}),
    "a credential is not needed any more": lambda d: d["paths"]["/runs"]["get"].update(security=[]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_difference_is_found(change: Callable[[Document], object], contract: Document, compare: Compare) -> None:
    served = copy.deepcopy(contract)
    change(served)
    assert compare(contract, served)


def test_other_words_for_the_same_are_no_difference(contract: Document, compare: Compare) -> None:
    served = copy.deepcopy(contract)
    device = _schema(served, "Device")
    device["properties"]["model"] = {"anyOf": [{"type": "string", "maxLength": 120}, {"type": "null"}], "default": None}
    device["properties"]["metadata"] = {"type": ["object", "null"], "title": "Metadata"}
    device["required"].reverse()
    served["paths"] = {f"/api/v1{path}": item for path, item in served["paths"].items()}
    assert compare(contract, served) == []
