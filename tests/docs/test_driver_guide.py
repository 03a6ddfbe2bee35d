"""The driver guide tells the truth: its error table is the code's, its example loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from anvild.core.plugins import Plugins, PluginState
from anvild.sdk import ERROR_TABLE

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "driver.md").read_text()


def test_the_error_table_is_the_one_of_the_code() -> None:
    rows = [
        f"| `{row.code}` | {row.condition} | {row.remedy} | {'yes' if row.retry else 'no'} |" for row in ERROR_TABLE
    ]
    assert [row for row in rows if row not in GUIDE] == []


def test_the_driver_in_one_file_loads(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert example is not None
    (tmp_path / "lamp.py").write_text(example.group(1))
    plugins = Plugins(allow=["lamp"], drop_ins=tmp_path)
    assert [each.state for each in plugins.listing() if each.name == "lamp"] == [PluginState.LOADED]
    assert list(plugins.drivers()) == ["lamp"]


@pytest.mark.parametrize("name", re.findall(r"`(drivers/\w+)`", GUIDE))
def test_the_examples_exist(name: str) -> None:
    assert (Path(__file__).resolve().parents[2] / name).is_dir()
