"""What is served of the contract is served exactly; what is not yet is listed here, and nowhere else."""

from __future__ import annotations

from typing import Any

from openapi_spec_validator import validate

from tests.support.capsules import Lab
from tests.support.contract import METHODS, Document, differences, schemes

# Operations that are not served yet. The list only ever gets shorter.
UNSERVED: frozenset[str] = frozenset(
    {
    }
)


def without(contract: Document, names: frozenset[str]) -> Document:
    """The contract less some operations."""
    paths: dict[str, Any] = {}
    for path, item in contract["paths"].items():
        kept = {key: value for key, value in item.items() if f"{key.upper()} {path}" not in names}
        shared = item.get("parameters", [])
        for method in METHODS:
            if method in kept:
                kept[method] = kept[method] | {"parameters": [*shared, *kept[method].get("parameters", [])]}
        paths[path] = kept
    return contract | {"paths": paths}


async def _document(lab: Lab) -> Document:
    found: Document = await lab.anybody()("GET", "/v1/openapi.json", 200, promised=False)
    return found


async def test_what_is_served_is_the_contracts(lab: Lab, contract: Document) -> None:
    served = await _document(lab)
    validate(served)
    found = differences(without(contract, UNSERVED), served)
    assert not found, "\n".join(found)


async def test_each_operation_takes_the_credentials_that_the_contract_names(lab: Lab, contract: Document) -> None:
    served = await _document(lab)
    for path, item in without(contract, UNSERVED)["paths"].items():
        for method in METHODS:
            if method in item:
                assert schemes(served["paths"][path][method]) == schemes(item[method]), f"{method} {path}"


async def test_the_list_names_operations_of_the_contract(contract: Document) -> None:
    known = {
        f"{method.upper()} {path}" for path, item in contract["paths"].items() for method in METHODS if method in item
    }
    assert known >= UNSERVED
    assert len(known) == 111
