"""How the driver joins the daemon."""

from __future__ import annotations

import importlib.metadata

import msgspec
import pytest

from anvild.sdk import API_VERSION, incompatibility
from anvild_macos.driver import MacosDriver
from anvild_macos.settings import HostSettings, MacosSettings
from anvild_macos.shell import line


def test_the_entry_point_offers_the_driver() -> None:
    (entry,) = importlib.metadata.entry_points(group="anvil", name="macos")
    plugin = entry.load()
    assert plugin.anvil_drivers() == [MacosDriver]
    assert incompatibility(plugin.ANVIL_API) is None, API_VERSION


def test_settings() -> None:
    found = msgspec.convert({"hosts": [{"name": "mini", "address": "mini.lan", "port": 2222}]}, MacosSettings)
    assert found.hosts[0].port == 2222
    for wrong in ({"name": "mini"}, {"name": "a b", "address": "x"}, {"name": "m", "address": "x", "prot": 1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"hosts": [wrong]}, MacosSettings)
    schema = msgspec.json.schema(MacosSettings)["$defs"]
    for name in ("MacosSettings", "HostSettings"):
        assert all("description" in str(field) for field in schema[name]["properties"].values())


@pytest.mark.parametrize("word", ["-oProxyCommand=touch /tmp/x", "", " x", "a\nb"])
def test_no_setting_becomes_an_option_of_ssh(word: str) -> None:
    for field in ("address", "user", "identity_file", "ssh_config"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"name": "mini", "address": "x", field: word}, HostSettings)


def test_a_line_is_quoted() -> None:
    assert line(["a", "b c", "$x;'y'"]) == """exec a 'b c' '$x;'"'"'y'"'"''"""
