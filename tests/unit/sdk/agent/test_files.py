"""Files of a guest."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import AlreadyExists, EntryType, InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from anvild.sdk.agent import AgentSession
from anvild.sdk.agent.protocol import MAGIC

ODD_NAMES = ["with space", "new\nline", "ünïcode ☃", "-dash", "quote'\"", "*", os.fsdecode(b"not\xffutf8")]
BIG = 96 * 2**20


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def read_bytes(path: str) -> bytes:
    return Path(path).read_bytes()


async def slurp(session: AgentSession, path: str) -> bytes:
    async with await session.read(path) as file:
        return b"".join([chunk async for chunk in file])


async def test_there_and_back(session: AgentSession, tmp_path: Path) -> None:
    data = os.urandom(300_000) + MAGIC + b"x" + MAGIC[:5]
    path = f"{tmp_path}/new/folders/file"
    assert await session.write(path, stream(data[:7], b"", data[7:]), mode=0o640) == len(data)
    assert read_bytes(path) == data == await slurp(session, path)
    entry = await session.stat(path)
    assert (entry.type, entry.size, entry.mode, entry.name) == (EntryType.FILE, len(data), 0o640, "file")
    assert await session.write(path, stream()) == 0
    assert await slurp(session, path) == b""
    assert [entry.name for entry in await session.list(f"{tmp_path}/new", depth=3)] == ["folders", "file"]


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names(session: AgentSession, tmp_path: Path, name: str) -> None:
    path = f"{tmp_path}/folder/{name}"
    await session.write(path, stream(b"data"))
    assert [entry.name for entry in await session.list(f"{tmp_path}/folder")] == [name]
    assert await slurp(session, path) == b"data"
    await session.remove(path)
    with pytest.raises(NotFound):
        await session.stat(path)


async def test_a_listing_tells_links_truly_and_keeps_to_its_depth(session: AgentSession, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a/b/c").mkdir(parents=True)
    (root / "link").symlink_to("a")
    os.mkfifo(root / "pipe")
    entries = await session.list(str(root), depth=2)
    assert [(Path(entry.path).relative_to(root).as_posix(), entry.type.value) for entry in entries] == [
        ("a", "directory"),
        ("a/b", "directory"),
        ("link", "symlink"),
        ("pipe", "other"),
    ]
    assert entries[2].target == "a"
    with pytest.raises(InvalidArgument):
        await session.list(str(root), depth=0)


async def test_a_long_listing(session: AgentSession, tmp_path: Path) -> None:
    for number in range(3000):
        os.close(os.open(tmp_path / f"file-{number:05}", os.O_CREAT | os.O_WRONLY))
    entries = [entry for entry in await session.list(str(tmp_path)) if entry.name.startswith("file-")]
    assert [entry.name for entry in entries] == [f"file-{number:05}" for number in range(3000)]


async def test_folders(session: AgentSession, tmp_path: Path) -> None:
    entry = await session.mkdir(f"{tmp_path}/a/b/", mode=0o700)
    assert (entry.path, entry.type, entry.mode) == (f"{tmp_path}/a/b", EntryType.DIRECTORY, 0o700)
    with pytest.raises(AlreadyExists):
        await session.mkdir(f"{tmp_path}/a/b")
    (tmp_path / "a/b/deep/er").mkdir(parents=True)
    (tmp_path / "a/b/deep/link").symlink_to("/")
    await session.remove(f"{tmp_path}/a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(NotFound):
        await session.remove(f"{tmp_path}/a")


async def test_what_is_refused(session: AgentSession, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for call, error in (
        (session.read(f"{tmp_path}/none"), NotFound),
        (session.read(str(tmp_path)), InvalidArgument),
        (session.read(f"{tmp_path}/pipe"), InvalidArgument),
        (session.read("relative"), InvalidArgument),
        (session.list(f"{tmp_path}/file"), InvalidArgument),
        (session.list(f"{tmp_path}/none"), NotFound),
        (session.write(str(tmp_path), stream(b"x")), InvalidArgument),
        (session.write(f"{tmp_path}/pipe", stream(b"x")), InvalidArgument),
        (session.write("/proc/none", stream(b"x")), NotFound),
        (session.write(f"{tmp_path}/x", stream(b"x"), user="no-such-user"), NotFound),
        (session.stat("/a\0b"), InvalidArgument),
    ):
        with pytest.raises(error):
            await call
    if os.geteuid() != 0:
        with pytest.raises(PermissionDenied):
            await session.mkdir("/etc/anvil-test")


async def test_a_file_that_finds_no_room(session: AgentSession, guest: Any, tmp_path: Path) -> None:
    resource.prlimit(guest.process.pid, resource.RLIMIT_FSIZE, (2**20, 2**20))
    with pytest.raises(ResourceExhausted, match="file too large"):
        await session.write(f"{tmp_path}/new/file", stream(bytes(2**21)))
    assert await session.list(f"{tmp_path}/new") == []


async def test_a_link_is_written_through(session: AgentSession, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    await session.write(f"{tmp_path}/link", stream(b"new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


async def test_a_write_that_fails_or_is_cancelled_leaves_nothing(session: AgentSession, tmp_path: Path) -> None:
    async def fails() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise RuntimeError("the source broke")

    async def never_ends(started: trio.Event) -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        started.set()
        await trio.sleep_forever()

    (tmp_path / "keep").write_text("old")
    with pytest.raises(RuntimeError, match="broke"):
        await session.write(f"{tmp_path}/keep", fails())
    started = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.write, f"{tmp_path}/none", never_ends(started))
        await started.wait()
        nursery.cancel_scope.cancel()
    assert [entry.name for entry in await session.list(str(tmp_path)) if entry.type is EntryType.FILE] == ["keep"]
    assert (tmp_path / "keep").read_text() == "old"


async def test_a_big_file_moves_with_flat_memory(session: AgentSession, guest: Any, tmp_path: Path) -> None:
    await slurp(session, "/etc/passwd")
    before = guest.memory()
    block = hashlib.sha256(b"block").digest() * 2**13

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(BIG // len(block)):
            yield block

    assert await session.write(f"{tmp_path}/big", blocks()) == BIG
    size = 0
    async with await session.read(f"{tmp_path}/big") as file:
        async for chunk in file:
            size += len(chunk)
    assert size == BIG
    assert guest.memory() - before < 4 * 2**20


async def test_a_reader_that_stops_early(session: AgentSession) -> None:
    async with await session.read("/proc/self/status") as file:
        assert await file.receive_some(3) == b"Nam"
    async with await session.read("/proc/kallsyms") as file:
        await file.receive_some()
    await session.agent.ping()


async def test_memory_of_the_guest(session: AgentSession) -> None:
    assert (await session.agent.memory())["MemTotal"] > 2**20
