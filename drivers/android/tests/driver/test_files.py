"""Files of a simulated device, through the real adb server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from anvild.sdk import (
    AlreadyExists,
    Command,
    DeviceLost,
    EntryType,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    run,
)
from anvild_android.session.session import AndroidSession

ROOM = "/data/local/tmp"
Collect = Callable[[trio.abc.ReceiveStream], Awaitable[bytes]]


@pytest.fixture
def server(both_servers: str) -> str:
    return both_servers


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def names(session: AndroidSession, folder: str = ROOM) -> list[str]:
    return [each.name for each in await session.list(folder)]


async def test_a_file_is_written_and_read(session: AndroidSession, collect: Collect) -> None:
    content = bytes(range(256)) * 1000
    path = f"{ROOM}/new/folder/a 'file' $x.bin"
    assert await session.write(path, chunks(content, b"", content), mode=0o640) == 2 * len(content)
    assert await collect(await session.read(path)) == content * 2
    entry = await session.stat(path)
    assert (entry.name, entry.type, entry.size, entry.mode) == ("a 'file' $x.bin", EntryType.FILE, 512_000, 0o640)
    assert await session.write(path, chunks(b"short")) == 5
    assert await collect(await session.read(path)) == b"short"
    assert await names(session, f"{ROOM}/new/folder") == ["a 'file' $x.bin"]


async def test_an_empty_file(session: AndroidSession, collect: Collect) -> None:
    assert await session.write(f"{ROOM}/empty", chunks()) == 0
    assert await collect(await session.read(f"{ROOM}/empty")) == b""


async def test_what_cannot_be_read(session: AndroidSession) -> None:
    await session.write(f"{ROOM}/file", chunks(b"x"))
    for path, error in (
        (f"{ROOM}/none", NotFound),
        (ROOM, InvalidArgument),
        ("relative", InvalidArgument),
        ("/data/" + "x" * 2000, InvalidArgument),
    ):
        with pytest.raises(error):
            await session.read(path)
    for path, error in ((f"{ROOM}/none", NotFound), (f"{ROOM}/file", InvalidArgument)):
        with pytest.raises(error):
            await session.list(path)
    with pytest.raises(InvalidArgument):
        await session.list(ROOM, depth=0)


async def test_what_cannot_be_written(session: AndroidSession) -> None:
    for path, error in (
        ("/system/x", PermissionDenied),
        (ROOM, InvalidArgument),
        ("relative", InvalidArgument),
    ):
        with pytest.raises(error):
            await session.write(path, chunks(b"x"))
    with pytest.raises(PermissionDenied):
        await session.write(f"{ROOM}/x", chunks(b"x"), user="root")
    assert await names(session) == []


async def test_links_and_modes_are_told_truly(session: AndroidSession) -> None:
    script = f"cd {ROOM} && mkdir d && echo x >d/f && chmod 751 d && ln -s d/f link && ln -s nowhere bad && ln -s d dir"
    assert (await run(session, Command(argv=("sh", "-c", script)))).exit.ok
    found = {each.path.removeprefix(ROOM): each for each in await session.list(ROOM, depth=2)}
    assert list(found) == ["/bad", "/d", "/d/f", "/dir", "/link"]
    assert (found["/link"].type, found["/link"].target) == (EntryType.SYMLINK, "d/f")
    assert found["/bad"].target == "nowhere"
    assert (found["/d"].type, found["/d"].mode) == (EntryType.DIRECTORY, 0o751)
    assert (await session.stat(f"{ROOM}/bad")).type is EntryType.SYMLINK
    assert await names(session, f"{ROOM}/dir") == ["f"]
    assert await names(session, f"{ROOM}/d/") == ["f"]


async def test_folders(session: AndroidSession) -> None:
    made = await session.mkdir(f"{ROOM}/a/b", mode=0o700)
    assert (made.path, made.type, made.mode) == (f"{ROOM}/a/b", EntryType.DIRECTORY, 0o700)
    with pytest.raises(AlreadyExists):
        await session.mkdir(f"{ROOM}/a/b")
    await session.write(f"{ROOM}/a/b/file", chunks(b"x"))
    await session.remove(f"{ROOM}/a")
    assert await names(session) == []
    with pytest.raises(NotFound):
        await session.remove(f"{ROOM}/a")
    with pytest.raises(PermissionDenied):
        await session.remove("/system/bin/sh")
    with pytest.raises(InvalidArgument):
        await session.remove("/")


class Broken(Exception):
    """What a source of bytes may raise."""


async def test_a_source_that_fails_leaves_nothing(session: AndroidSession, collect: Collect) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise Broken

    await session.write(f"{ROOM}/old", chunks(b"old"))
    for path in (f"{ROOM}/old", f"{ROOM}/no/such/folder/file"):
        with pytest.raises(Broken):
            await session.write(path, failing())
    assert await names(session) == ["old"]
    assert await collect(await session.read(f"{ROOM}/old")) == b"old"


async def test_a_cancelled_write_leaves_nothing(session: AndroidSession) -> None:
    with trio.CancelScope() as scope:

        async def stopping() -> AsyncIterator[bytes]:
            yield b"x" * 100_000
            scope.cancel()
            await trio.sleep_forever()

        await session.write(f"{ROOM}/file", stopping())
    assert scope.cancelled_caught
    assert await names(session) == []


async def test_a_full_disk(make_phone: Any) -> None:
    async def endless() -> AsyncIterator[bytes]:
        sent = 0
        while True:
            yield b"x" * 65536
            sent += 65536
            assert sent < 200 * 2**20, "the device took far more than it has room for"

    async with make_phone(quota=8 * 2**20) as phone, phone.session() as session:
        with pytest.raises(ResourceExhausted, match="No space left"):
            await session.write(f"{ROOM}/big", endless())
        assert await names(session) == []
        assert await session.write(f"{ROOM}/small", chunks(b"x" * 2**20)) == 2**20


async def test_a_reader_that_stops_stops_the_device(session: AndroidSession) -> None:
    await session.write(f"{ROOM}/big", chunks(*[b"x" * 2**20] * 30))
    stream = await session.read(f"{ROOM}/big")
    assert await stream.receive_some(10) == b"x" * 10
    assert len(await stream.receive_some()) <= 65536
    await stream.aclose()
    assert (await session.stat(f"{ROOM}/big")).size == 30 * 2**20


async def test_a_device_that_goes_in_the_middle(phone: Any, collect: Collect) -> None:
    async with phone.session() as session:
        await session.write(f"{ROOM}/big", chunks(*[b"x" * 2**20] * 30))
        stream = await session.read(f"{ROOM}/big")
        await phone.device.unplug()
        with pytest.raises(DeviceLost):
            await collect(stream)

        async def slow() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536

        with pytest.raises(DeviceLost):
            await session.write(f"{ROOM}/other", slow())


async def test_a_device_of_before_android_7(make_phone: Any, collect: Collect) -> None:
    """No second shell protocol, no second stat: exit codes are told all the same."""
    async with make_phone(features=(), android="6.0", sdk=23) as phone, phone.session() as session:
        done = await run(session, Command(argv=("sh", "-c", "echo out; echo err >&2; exit 3")))
        assert (done.exit.code, done.stdout) == (3, b"out\nerr\n")
        assert (await run(session, Command(argv=("head", "-c", "200000", "/dev/zero")))).stdout == bytes(200_000)
        await session.write(f"{ROOM}/d/file", chunks(b"hello"))
        assert await collect(await session.read(f"{ROOM}/d/file")) == b"hello"
        assert [each.path for each in await session.list(ROOM, depth=2)] == [f"{ROOM}/d", f"{ROOM}/d/file"]
        assert (await session.stat(f"{ROOM}/d/file")).size == 5
        with pytest.raises(NotFound):
            await session.stat(f"{ROOM}/none")
        with pytest.raises(InvalidArgument):
            await session.list(f"{ROOM}/d/file")
