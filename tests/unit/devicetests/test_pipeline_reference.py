"""The reference of pipelines says all that the model knows, and its example works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from anvild.devicetests.pipelines import (
    ExecExpectation,
    ListExpectation,
    Pipeline,
    TestExpectation,
    freeze,
    parse,
)
from anvild.devicetests.pipelines.model import AnyStep, Input, Make, Parameter, Requires

REFERENCE = (Path(__file__).parents[3] / "docs" / "pipelines.md").read_text()
STEPS = get_args(AnyStep)


@pytest.mark.parametrize(
    "kind", [Pipeline, Requires, Make, Parameter, Input, ExecExpectation, ListExpectation, TestExpectation, *STEPS]
)
def test_every_key_is_in_the_reference(kind: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(kind):
        assert re.search(rf"\b{field.encode_name}\b", REFERENCE), f"{kind.__name__}.{field.encode_name} is not told of"


def test_every_verb_is_in_the_reference() -> None:
    for step in STEPS:
        assert f"| `{step.__struct_config__.tag}` |" in REFERENCE


def test_the_example_works() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", REFERENCE, re.DOTALL)
    frozen = freeze(parse(example, name="example", file="example.toml"), {})
    assert frozen.parameters == {"target": "all"}
