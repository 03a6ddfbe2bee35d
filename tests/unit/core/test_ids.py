"""Ids: version 7, distinct, ordered by age; and those of events."""

from __future__ import annotations

import os
import uuid

import pytest

from anvild.core.ids import event_of, id_of_event, new_id


def test_ids_are_uuids_of_version_seven_and_sort_by_age() -> None:
    made = [new_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert {uuid.UUID(each).version for each in made} == {7}
    assert {uuid.UUID(each).variant for each in made} == {uuid.RFC_4122}
    assert [each[:13] for each in made] == sorted(each[:13] for each in made)


def test_a_child_process_makes_other_ids() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, new_id()[14:].encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)
    assert new_id()[14:] != theirs


@pytest.mark.parametrize("number", [1, 255, 2**59, 2**60 - 1])
def test_an_events_number_as_an_id(number: int) -> None:
    written = uuid.UUID(id_of_event(number))
    assert (written.version, written.int & (2**60 - 1)) == (8, number)
    assert event_of(str(written)) == number


def test_other_ids_are_of_no_event() -> None:
    assert event_of(new_id()) is None
    assert event_of(str(uuid.UUID(int=0))) is None
