"""Rules about files on a device."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from functools import partial

import trio

from ...capabilities import Files
from ...errors import AlreadyExists, InvalidArgument, NotFound
from ...values import Entry, EntryType
from ..bench import Bench
from ..rules import Broken, Level, require
from ..trying import cancelled, described, leaf, refused, valid
from .book import BOOK

CHUNK = 64 * 1024
LARGE = 8 * 2**20
AT_ONCE = 8
ALONGSIDE = 20


@BOOK.of(Files, "roundtrip", Level.BRONZE)
async def roundtrip(bench: Bench, device: Files) -> None:
    """What is written comes back byte for byte: nothing, one byte, and a megabyte."""
    folder = await bench.folder(device)
    for size in (0, 1, 2**20 + 7):
        data = _bytes(size)
        written = await device.write(f"{folder}/file", _chunks(data))
        require(written == size, f"writing {size} bytes returned {written}")
        found = await _read(device, f"{folder}/file")
        require(_hash(found) == _hash(data), f"{size} bytes came back as {len(found)} bytes, or changed")
        entry = await device.stat(f"{folder}/file")
        require(entry.size == size, f"the size of {size} bytes is told as {entry.size}")


@BOOK.of(Files, "list", Level.BRONZE)
async def lists(bench: Bench, device: Files) -> None:
    """A directory lists what is in it: whole paths, sorted, as deep as asked for."""
    folder = await bench.folder(device)
    await device.mkdir(f"{folder}/sub/deep")
    for name in ("b", "a", "sub/c"):
        await device.write(f"{folder}/{name}", _chunks(b"data"))
    for depth, names in ((1, ["a", "b", "sub"]), (2, ["a", "b", "sub", "sub/c", "sub/deep"])):
        found = await device.list(folder, depth=depth)
        valid(list(found), list[Entry], "list")
        paths = [each.path for each in found]
        require(paths == [f"{folder}/{name}" for name in names], f"depth {depth} listed {paths}")
        types = {each.path.removeprefix(f"{folder}/"): each.type for each in found}
        require(types["a"] is EntryType.FILE, f"a file is listed as {types['a']}")
        require(types["sub"] is EntryType.DIRECTORY, f"a directory is listed as {types['sub']}")
    require(all(each.name == each.path.rpartition("/")[2] for each in found), "a name is not the end of its path")
    empty = await device.list(f"{folder}/sub/deep")
    require(not empty, f"an empty directory lists {empty}")


@BOOK.of(Files, "stat", Level.SILVER)
async def stats(bench: Bench, device: Files) -> None:
    """`stat` tells type, size and, where the device keeps it, the mode that a file was written with."""
    folder = await bench.folder(device)
    await device.write(f"{folder}/file", _chunks(b"12345"), mode=0o600)
    found = await device.stat(f"{folder}/file")
    valid(found, Entry, "stat")
    require(
        (found.path, found.name, found.type, found.size) == (f"{folder}/file", "file", EntryType.FILE, 5),
        f"stat told {found}",
    )
    require(found.mode & 0o077 == 0 or not bench.profile.files.modes, f"mode 600 is told as {found.mode:o}")
    require((await device.stat(folder)).type is EntryType.DIRECTORY, "a directory is told as something else")


@BOOK.of(Files, "mkdir", Level.SILVER)
async def mkdirs(bench: Bench, device: Files) -> None:
    """`mkdir` makes parents too, returns the directory, and raises AlreadyExists for what is there."""
    folder = await bench.folder(device)
    made = await device.mkdir(f"{folder}/a/b/c")
    valid(made, Entry, "mkdir")
    require((made.path, made.type) == (f"{folder}/a/b/c", EntryType.DIRECTORY), f"mkdir returned {made}")
    await refused("mkdir of a directory", AlreadyExists, lambda: device.mkdir(f"{folder}/a/b"))
    await device.write(f"{folder}/file", _chunks(b"x"))
    await refused("mkdir of a file", AlreadyExists, lambda: device.mkdir(f"{folder}/file"))


@BOOK.of(Files, "parents", Level.SILVER)
async def parents(bench: Bench, device: Files) -> None:
    """`write` makes the directories above its file."""
    folder = await bench.folder(device)
    await device.write(f"{folder}/x/y/file", _chunks(b"data"))
    require(await _read(device, f"{folder}/x/y/file") == b"data", "the file is not there")


@BOOK.of(Files, "remove", Level.SILVER)
async def removes(bench: Bench, device: Files) -> None:
    """`remove` removes a file, or a directory with all in it, and raises NotFound for what is not there."""
    folder = await bench.folder(device)
    await device.write(f"{folder}/tree/deep/file", _chunks(b"data"))
    await device.write(f"{folder}/file", _chunks(b"data"))
    for name in ("file", "tree"):
        await device.remove(f"{folder}/{name}")
        await refused(f"remove of what is not there ({name})", NotFound, partial(device.remove, f"{folder}/{name}"))
    require(not await device.list(folder), "something is left")


@BOOK.of(Files, "missing", Level.SILVER)
async def missing(bench: Bench, device: Files) -> None:
    """A path that there is not raises NotFound, of every verb that needs one."""
    path = f"{await bench.folder(device)}/missing/file"
    await refused("read of a missing file", NotFound, lambda: _read(device, path))
    await refused("stat of a missing file", NotFound, lambda: device.stat(path))
    await refused("list of a missing directory", NotFound, lambda: device.list(path))
    await refused("remove of a missing file", NotFound, lambda: device.remove(path))


@BOOK.of(Files, "wrong-input", Level.SILVER)
async def wrong_input(bench: Bench, device: Files) -> None:
    """A relative path, a path with a NUL character, a directory where a file belongs and a file where a directory
    belongs raise InvalidArgument."""
    folder = await bench.folder(device)
    await device.write(f"{folder}/file", _chunks(b"data"))
    for path in ("relative/file", f"{folder}/nul\0"):
        await refused(f"read of {path!r}", InvalidArgument, partial(_read, device, path))
        await refused(f"stat of {path!r}", InvalidArgument, partial(device.stat, path))
        await refused(f"write of {path!r}", InvalidArgument, partial(device.write, path, _chunks(b"data")))
    await refused("read of a directory", InvalidArgument, lambda: _read(device, folder))
    await refused("write of a directory", InvalidArgument, lambda: device.write(folder, _chunks(b"data")))
    await refused("list of a file", InvalidArgument, lambda: device.list(f"{folder}/file"))
    await refused("list to depth 0", InvalidArgument, lambda: device.list(folder, depth=0))


@BOOK.of(Files, "odd-names", Level.SILVER)
async def odd_names(bench: Bench, device: Files) -> None:
    """Files may have names with spaces, quotes, signs that a shell knows, line ends and letters beyond ASCII."""
    folder = await bench.folder(device)
    names = bench.profile.files.names
    for name in names:
        await device.write(f"{folder}/{name}", _chunks(name.encode()))
    listed = sorted(each.name for each in await device.list(folder))
    require(listed == sorted(names), f"{sorted(names)} are listed as {listed}")
    for name in names:
        require(await _read(device, f"{folder}/{name}") == name.encode(), f"{name!r} came back as another file")
        await device.remove(f"{folder}/{name}")


@BOOK.of(Files, "whole-or-not", Level.SILVER)
async def whole_or_not(bench: Bench, device: Files) -> None:
    """While a file is written over, the old one is there whole; then the new one is."""
    folder = await bench.folder(device)
    path = f"{folder}/file"
    await device.write(path, _chunks(b"old"))
    seen = []

    async def slowly() -> AsyncIterator[bytes]:
        yield b"new " * CHUNK
        seen.append(await _read(device, path))
        yield b"new"

    await device.write(path, slowly())
    require(seen == [b"old"], f"while it was written over, the file was {len(seen[0]) if seen else 'not read'} bytes")
    require(len(await _read(device, path)) == 4 * CHUNK + 3, "the new file is not whole")


@BOOK.of(Files, "broken-source", Level.GOLD)
async def broken_source(bench: Bench, device: Files) -> None:
    """A source that raises leaves nothing on the device, and its error comes back."""
    folder = await bench.folder(device)

    async def source() -> AsyncIterator[bytes]:
        yield b"half " * CHUNK
        raise InvalidArgument("the source broke")

    try:
        await device.write(f"{folder}/file", source())
    except Exception as error:
        found = leaf(error)
        require(isinstance(found, InvalidArgument), f"the error of the source came back as {described(found)}")
    else:
        raise Broken("a write whose source raised returned")
    await _empty(device, folder)


@BOOK.of(Files, "write-cancelled", Level.GOLD)
async def write_cancelled(bench: Bench, device: Files) -> None:
    """A write that is cancelled ends within a second and leaves nothing, or the old file, on the device."""
    folder = await bench.folder(device)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"half " * CHUNK
        await trio.sleep_forever()

    await cancelled("write", lambda: device.write(f"{folder}/file", stuck()))
    await _empty(device, folder)
    await device.write(f"{folder}/file", _chunks(b"old"))
    await cancelled("write", lambda: device.write(f"{folder}/file", stuck()))
    require(await _read(device, f"{folder}/file") == b"old", "a cancelled write changed the file")
    await device.remove(f"{folder}/file")
    await _empty(device, folder)


@BOOK.of(Files, "read-let-go", Level.GOLD)
async def read_let_go(bench: Bench, device: Files) -> None:
    """A reader may close a file in the middle, twice, and the session goes on; so it does when reading is
    cancelled."""
    folder = await bench.folder(device)
    data = _bytes(LARGE // 2)
    await device.write(f"{folder}/file", _chunks(data))
    for _ in range(3):
        stream = await device.read(f"{folder}/file")
        require(data.startswith(await stream.receive_some(100)), "the file begins otherwise")
        await stream.aclose()
        await stream.aclose()
    await cancelled("read", lambda: _read(device, f"{folder}/file"), after=0.001)
    require(_hash(await _read(device, f"{folder}/file")) == _hash(data), "the file changed")


@BOOK.of(Files, "at-once", Level.GOLD)
async def at_once(bench: Bench, device: Files) -> None:
    """Eight files are written and read at the same time in one session."""
    folder = await bench.folder(device)

    async def one(number: int) -> None:
        data = _bytes(3 * CHUNK + number, seed=number)
        await device.write(f"{folder}/{number}", _chunks(data))
        require(await _read(device, f"{folder}/{number}") == data, f"file {number} came back changed")

    async with trio.open_nursery() as nursery:
        for number in range(AT_ONCE):
            nursery.start_soon(one, number)


@BOOK.of(Files, "slow-reader", Level.PLATINUM)
async def slow_reader(bench: Bench, device: Files) -> None:
    """A reader that stops in the middle of a large file stops nothing else, and goes on where it was."""
    folder = await bench.folder(device)
    data = _bytes(LARGE)
    await device.write(f"{folder}/large", _chunks(data))
    stream = await device.read(f"{folder}/large")
    try:
        found = bytearray(await stream.receive_some(1))
        for number in range(ALONGSIDE):
            await device.write(f"{folder}/small", _chunks(b"%d" % number))
            require(await _read(device, f"{folder}/small") == b"%d" % number, "a verb alongside gave something else")
        while chunk := await stream.receive_some():
            found += chunk
    finally:
        await stream.aclose()
    require(_hash(bytes(found)) == _hash(data), f"{len(data)} bytes came back as {len(found)}, or changed")


@BOOK.of(Files, "slow-source", Level.PLATINUM)
async def slow_source(bench: Bench, device: Files) -> None:
    """A write whose source takes its time stops nothing else."""
    folder = await bench.folder(device)
    go = trio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"a" * CHUNK
        await go.wait()
        yield b"b"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.write, f"{folder}/slow", source())
        for number in range(ALONGSIDE):
            await device.write(f"{folder}/small", _chunks(b"%d" % number))
            require(await _read(device, f"{folder}/small") == b"%d" % number, "a verb alongside gave something else")
        go.set()
    require((await device.stat(f"{folder}/slow")).size == CHUNK + 1, "the slow file is not whole")


def _bytes(size: int, *, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - it shall be the same each time


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


async def _read(device: Files, path: str) -> bytes:
    stream = await device.read(path)
    try:
        data = bytearray()
        while chunk := await stream.receive_some():
            data += chunk
        return bytes(data)
    finally:
        await stream.aclose()


async def _empty(device: Files, folder: str) -> None:
    found = [each.name for each in await device.list(folder)]
    require(not found, f"this is left behind: {', '.join(found)}")
