"""Memory by its changed pages: on a fake pagemap, and on real memory of this very process."""

from __future__ import annotations

import array
import itertools
import mmap
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anvild.sdk import WrongState
from anvild_microvm.files import new_sparse
from anvild_microvm.memory import PAGE, apply_delta, dirty_ranges, merge_delta, ram_address, save_delta

PRESENT, SWAPPED, FILE = 1 << 63, 1 << 62, 1 << 61
PAGES = 600

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pagemap is Linux's")


def entries(pages: dict[int, int], count: int = PAGES) -> bytes:
    return array.array("Q", (pages.get(page, 0) for page in range(count))).tobytes()


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ({}, []),
        ({0: PRESENT}, [(0, PAGE)]),
        ({3: SWAPPED, 4: PRESENT | 77}, [(3 * PAGE, 5 * PAGE)]),
        ({5: PRESENT | FILE, 6: FILE}, []),
        ({511: PRESENT, 512: PRESENT, 599: PRESENT}, [(511 * PAGE, 513 * PAGE), (599 * PAGE, 600 * PAGE)]),
    ],
)
def test_a_page_is_changed_when_it_is_the_process_s_own(pages: dict[int, int], expected: list[tuple[int, int]]) -> None:
    assert dirty_ranges(entries(pages)) == expected


@given(st.sets(st.integers(0, PAGES - 1)))
def test_ranges_hold_exactly_the_changed_pages(pages: set[int]) -> None:
    found = dirty_ranges(entries(dict.fromkeys(pages, PRESENT)))
    assert {page for start, end in found for page in range(start // PAGE, end // PAGE)} == pages
    assert all(before[1] < after[0] for before, after in itertools.pairwise(found))


def private_map(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


@settings(max_examples=25, deadline=None)
@given(writes=st.dictionaries(st.integers(0, PAGES - 1), st.binary(min_size=1, max_size=3), max_size=20))
def test_a_delta_brings_real_memory_back(tmp_path_factory: pytest.TempPathFactory, writes: dict[int, bytes]) -> None:
    folder = tmp_path_factory.mktemp("memory")
    ram, delta, merged = folder / "ram", folder / "delta", folder / "merged"
    ram.write_bytes(os.urandom(PAGE) * 4 + bytes(PAGE * (PAGES - 4)))
    before = ram.read_bytes()
    with private_map(ram) as memory:
        memory[2 * PAGE]  # a page that is only read stays the file's
        for page, data in writes.items():
            memory[page * PAGE : page * PAGE + len(data)] = data
        changed = save_delta(os.getpid(), ram, PAGE * PAGES, delta)
        assert changed == PAGE * len(writes)
        expected = memory[:]
    merge_delta(ram, delta, merged)
    assert merged.read_bytes() == expected
    assert ram.read_bytes() == before, "the file that others map is never written"
    with private_map(ram) as memory:
        apply_delta(os.getpid(), ram, PAGE * PAGES, delta)
        assert memory[:] == expected
        again = folder / "again"
        assert save_delta(os.getpid(), ram, PAGE * PAGES, again) == changed, "what was put back counts as changed"


def test_a_file_is_known_by_its_inode_without_a_name(tmp_path: Path) -> None:
    ram, other_name = tmp_path / "ram", tmp_path / "other"
    new_sparse(ram, PAGE * 8)
    os.link(ram, other_name)
    with private_map(ram):
        ram.unlink()
        assert ram_address(os.getpid(), other_name, PAGE * 8) > 0
    with pytest.raises(WrongState, match="does not map its memory file"):
        ram_address(os.getpid(), other_name, PAGE * 8)


def test_a_delta_cut_short_is_refused(tmp_path: Path) -> None:
    ram, delta = tmp_path / "ram", tmp_path / "delta"
    new_sparse(ram, PAGE * 8)
    with private_map(ram) as memory:
        memory[0:4] = b"full"
        save_delta(os.getpid(), ram, PAGE * 8, delta)
    os.truncate(delta, delta.stat().st_size - 1)
    with pytest.raises(WrongState, match="cut short"):
        merge_delta(ram, delta, tmp_path / "merged")
