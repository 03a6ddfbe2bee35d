from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anvild.capsules.ids import from_wire, to_wire
from anvild.sdk import NotFound


@given(st.uuids())
def test_an_id_comes_back(uuid: UUID) -> None:
    shown = to_wire("cl", str(uuid))
    assert len(shown) == len("cl-") + 25
    assert shown.removeprefix("cl-").isalnum()
    assert shown == shown.lower()
    assert from_wire("cl", shown) == str(uuid)


def test_the_ends_of_the_numbers() -> None:
    assert to_wire("team", str(UUID(int=0))) == "team-" + "0" * 25
    assert to_wire("usr", str(UUID(int=2**128 - 1))) == "usr-f5lxx1zz5pnorynqglhzmsp33"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cl-",
        "team-" + "0" * 25,
        "cl-" + "0" * 24,
        "cl-" + "0" * 26,
        "cl-" + "0" * 24 + "A",
        "cl-" + "0" * 24 + "é",
        "cl-" + "0" * 24 + "\n",
        "cl-f5lxx1zz5pnorynqglhzmsp34",
        "cl-" + "z" * 25,
        str(UUID(int=1)),
    ],
)
def test_what_is_no_id_names_nothing(text: str) -> None:
    with pytest.raises(NotFound):
        from_wire("cl", text)
