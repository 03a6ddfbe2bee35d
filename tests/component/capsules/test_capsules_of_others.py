"""A capsule of another team is as good as none: every served operation on one answers as for an id that nothing has.

The cases are generated from the served document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert

from anvild.capsules.ids import to_wire
from anvild.capsules.tables import capsules
from anvild.core.ids import new_id
from tests.support.capsules import Lab, lab
from tests.support.contract import METHODS, Document, example_request
from tests.support.teams import capsule_row

__all__ = ["lab"]


async def someone_elses(lab: Lab, status: str) -> str:
    """Note down a capsule of another team, and return its id as the interface shows it."""
    row = capsule_row(new_id(), status)
    await lab.wing.store.write(lambda connection: connection.execute(insert(capsules).values(row)))
    return to_wire("cl", row["id"])


def requests_on(document: Document) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Make up a request for each operation on a capsule: method, path and the rest. WebSockets have tests of their
    own."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method not in item or not path.startswith("/v1/capsules/{id}") or "101" in item[method]["responses"]:
                continue
            yield method.upper(), path, example_request(document, item[method])


@pytest.mark.parametrize("status", ["running", "paused", "stopped"])
async def test_every_operation_answers_as_for_none(status: str, lab: Lab) -> None:
    foreign, missing = await someone_elses(lab, status), to_wire("cl", new_id())
    document = await lab.anybody()("GET", "/v1/openapi.json", 200, promised=False)
    owner = await lab.signed_in()
    asked = 0
    for method, path, request in requests_on(document):
        for caller in (lab.by_key(), owner):
            errors = [
                await caller(
                    method, path, 404, promised=False, values={"id": id_, "selector": "1", "name": "x"}, **request
                )
                for id_ in (foreign, missing)
            ]
            assert errors[0] == errors[1], f"{method} {path} tells what is foreign from what is missing"
            assert errors[0]["code"] == "not_found"
        asked += 1
    assert asked >= 5
    listed = await lab.by_key()("GET", "/v1/capsules", 200)
    assert listed == []
