"""Archives that come with builds: whatever is in them, nothing that is read leads out of them."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from anvild.capsules.build_files import Archive, open_archive
from anvild.core.errors import InvalidRequest
from anvild.sdk import NotFound

FOLDER = Path(tempfile.gettempdir())
PARTS = st.sampled_from(["a", "b", "..", ".", "", "...", "a b", "ä"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30
)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])


def as_tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a"
            info.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"abc"))
    return written.getvalue()


def as_zip(members: Sequence[tuple[str, bytes]]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name in dict(members):
            archive.writestr(zipfile.ZipInfo(name), b"abc")
    return written.getvalue()


async def whole(archive: Archive) -> dict[str, bytes | None]:
    """All that COPY could take, with its content."""
    found: dict[str, bytes | None] = {}
    for entry in await archive.entries("."):
        assert not entry.path.startswith("/")
        assert ".." not in entry.path.split("/")
        if entry.directory:
            found[entry.path] = None
        else:
            found[entry.path] = b"".join([piece async for piece in archive.content(entry)])
    return found


def read(content: bytes) -> dict[str, bytes | None] | None:
    """What an archive holds; None for one that is refused."""

    async def opened() -> dict[str, bytes | None] | None:
        try:
            async with open_archive(io.BytesIO(content), FOLDER) as archive:
                return await whole(archive)
        except InvalidRequest:
            return None

    return trio.run(opened)


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, KINDS), min_size=1, max_size=4), st.sampled_from([as_tar, as_zip]))
def test_nothing_leads_out_of_an_archive(members: list[tuple[str, bytes]], pack: object) -> None:
    assert callable(pack)
    found = read(pack(members))
    special = pack is as_tar and any(kind not in (tarfile.REGTYPE, tarfile.DIRTYPE) for _, kind in members)
    if special or any(".." in name.split("/") for name, _ in members):
        assert found is None
    if found is not None:
        assert all(content in (None, b"abc") for content in found.values())


@settings(deadline=None)
@given(st.binary(max_size=2000), st.sampled_from([b"", b"PK\x03\x04", b"\x1f\x8b\x08\x00"]))
def test_any_bytes_are_read_or_refused(content: bytes, head: bytes) -> None:
    read(head + content)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from([as_tar, as_zip]))
def test_a_damaged_archive_is_read_or_refused(place: int, byte: int, pack: object) -> None:
    assert callable(pack)
    content = bytearray(pack([("a/b", tarfile.REGTYPE), ("c", tarfile.REGTYPE)]))
    content[place % len(content)] = byte
    read(bytes(content))


async def test_what_is_asked_for_is_found_or_missing() -> None:
    content = as_tar([("a/b", tarfile.REGTYPE), ("./c", tarfile.REGTYPE)])
    async with open_archive(io.BytesIO(content), FOLDER) as archive:
        assert [entry.path for entry in archive.find("a/")] == ["", "b"]
        assert [entry.path for entry in archive.find("/")] == ["", "a", "a/b", "c"]
        assert [entry.place for entry in archive.find("./c")] == ["c"]
        for missing in ("b", "a/c", "../c", "a/../c", "c/d"):
            with pytest.raises(NotFound):
                archive.find(missing)
