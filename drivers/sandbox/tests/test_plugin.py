"""How the driver joins the daemon."""

from __future__ import annotations

import importlib.metadata

import msgspec
import pytest

from anvild.sdk import API_VERSION, incompatibility
from anvild_sandbox.driver import SandboxDriver
from anvild_sandbox.settings import SandboxSettings


def test_the_entry_point_offers_the_driver() -> None:
    (entry,) = importlib.metadata.entry_points(group="anvil", name="sandbox")
    plugin = entry.load()
    assert plugin.anvil_drivers() == [SandboxDriver]
    assert incompatibility(plugin.ANVIL_API) is None, API_VERSION


def test_settings() -> None:
    assert msgspec.convert({"slots": 5}, SandboxSettings).slots == 5
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"slots": 0}, SandboxSettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"slot": 1}, SandboxSettings)
    properties = msgspec.json.schema(SandboxSettings)["$defs"]["SandboxSettings"]["properties"]
    assert all("description" in str(field) for field in properties.values())
