"""A driver that keeps all rules: the one that ``anvil driver new`` writes. Tests break it in one way each."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from anvild.cli.driver_new import write_driver


@pytest.fixture(scope="session")
def lamp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The module of a driver ``lamp``, as it is written."""
    path = write_driver("lamp", tmp_path_factory.mktemp("lamp"), single_file=True)
    yield from _module("anvild_driver_lamp_for_tests", path)


@pytest.fixture(scope="session")
def pocket() -> Iterator[ModuleType]:
    """The module of a driver of devices that people carry, which stands beside the tests."""
    yield from _module("anvild_driver_pocket_for_tests", Path(__file__).with_name("pocket.py"))


def _module(name: str, path: Path) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]
