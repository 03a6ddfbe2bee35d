"""Files: whole or not at all, and never outside of where they shall lie."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import trio

from anvild.cli.exits import Failure
from anvild.cli.output import Output
from anvild.cli.transfer import Bar, inside, read_file, save


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "."])
def test_no_name_leads_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(Failure, match="outside"):
        inside(tmp_path, name)


def test_a_name_may_have_directories(tmp_path: Path) -> None:
    assert inside(tmp_path, "logs/a b.txt") == tmp_path / "logs/a b.txt"


async def test_a_file_is_saved_whole(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    count = await save(httpx2.Response(200, content=_chunks(content)), tmp_path / "deep/file", Output())
    assert count == len(content)
    assert (tmp_path / "deep/file").read_bytes() == content
    assert [each.name for each in (tmp_path / "deep").iterdir()] == ["file"]


@pytest.mark.parametrize("ending", ["broken", "cancelled"])
async def test_a_file_that_ends_early_leaves_nothing(tmp_path: Path, ending: str) -> None:
    (tmp_path / "file").write_text("before")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        if ending == "broken":
            raise httpx2.ReadError("reset")
        await trio.sleep_forever()

    response = httpx2.Response(200, content=chunks())
    if ending == "broken":
        with pytest.raises(Failure, match="reset"):
            await save(response, tmp_path / "file", Output())
    else:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(save, response, tmp_path / "file", Output())
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
    assert files(tmp_path) == {"file": "before"}


async def test_a_file_is_read_piece_by_piece(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 600_000)
    bar = Bar(None, None)
    pieces = [len(piece) async for piece in read_file(tmp_path / "file", bar)]
    assert len(pieces) == 3
    assert bar.count == sum(pieces) == 600_000


def files(directory: Path) -> dict[str, str]:
    return {each.name: each.read_text() for each in directory.iterdir()}


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 10_000):
        yield content[start : start + 10_000]
