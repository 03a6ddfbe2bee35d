"""Ids: version 7, distinct, ordered by age."""

from __future__ import annotations

import os
import uuid

from anvild.core.ids import new_id


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
