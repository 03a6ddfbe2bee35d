"""What is served is the contract's: every path, parameter, field and status."""

from __future__ import annotations

from openapi_spec_validator import validate

from tests.support.capsules import Lab
from tests.support.contract import METHODS, Document, differences, schemes


async def _document(lab: Lab) -> Document:
    found: Document = await lab.anybody()("GET", "/v1/openapi.json", 200, promised=False)
    return found


async def test_what_is_served_is_the_contracts(lab: Lab, contract: Document) -> None:
    served = await _document(lab)
    validate(served)
    found = differences(contract, served)
    assert not found, "\n".join(found)


async def test_all_operations_are_served(lab: Lab, contract: Document) -> None:
    promised, served = _operations(contract), _operations(await _document(lab))
    assert len(promised) == 111
    assert promised <= served


async def test_each_operation_takes_the_credentials_that_the_contract_names(lab: Lab, contract: Document) -> None:
    served = await _document(lab)
    for path, item in contract["paths"].items():
        for method in METHODS:
            if method in item:
                assert schemes(served["paths"][path][method]) == schemes(item[method]), f"{method} {path}"


def _operations(document: Document) -> set[str]:
    return {
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in METHODS if method in item
    }
