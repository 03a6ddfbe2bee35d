"""Requests about a capsule that runs, which a generator makes up; see :mod:`tests.support.made_up`."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest
from schemathesis import Case, GenerationMode

from tests.support.made_up import MODES, drive

SUBJECTS = {"capsules", "snapshots"}
ENDING = {"DELETE /v1/capsules/{id}", "POST /v1/capsules"}
"""The first would end the capsule, the second fill the lab."""

SAID = {501, 502, 503}
"""What the machine behind the capsule cannot do."""


@pytest.fixture(scope="module")
def capsule(daemon_factory: Any) -> tuple[Any, str, dict[str, str]]:
    """A daemon, a capsule of it that runs, and the headers of a program."""
    daemon = daemon_factory("[drivers.microvm]\nenabled = false\n")
    daemon.bootstrap()
    daemon.start()
    daemon.wait_for_driver("sandbox")
    headers = {"X-API-Key": daemon.keys["api_key"]}
    with httpx2.Client(base_url=daemon.url, headers=headers, trust_env=False) as client:
        capsule = client.post("/v1/capsules", json={"template": "host"}).json()["id"]
        until = time.monotonic() + 30
        while client.get(f"/v1/capsules/{capsule}").json()["status"] != "running":
            assert time.monotonic() < until
            time.sleep(0.05)
    return daemon, capsule, headers


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_made_up_requests_about_a_capsule_get_documented_answers(
    capsule: tuple[Any, str, dict[str, str]], mode: GenerationMode
) -> None:
    daemon, capsule_id, headers = capsule

    def prepare(case: Case) -> None:
        if "id" in case.path_parameters:
            case.path_parameters["id"] = capsule_id
        if isinstance(case.body, dict) and "sandbox_id" in case.body:
            case.body["sandbox_id"] = capsule_id

    answered = drive(
        daemon,
        "/v1/openapi.json",
        mode,
        asked=lambda each: bool(SUBJECTS & set(each.tags or ())) and each.label not in ENDING,
        headers=lambda: headers,
        examples=4,
        patience=40,
        prepare=prepare,
        said=SAID,
    )
    assert len(answered) > 10
    assert 400 in set().union(*answered.values())
