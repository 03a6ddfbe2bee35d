"""A Mac as a device: programs, files, screen, log and tests, through ssh and the stubs of Apple's tools."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import (
    AlreadyExists,
    Command,
    DeviceLost,
    EntryType,
    Exit,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Stream,
    TerminalSize,
    WrongState,
    run,
)
from anvild_macos.mac import MacSession

SELF = Path(__file__)


@pytest.fixture
async def mac(lab: Any) -> AsyncIterator[MacSession]:
    async with lab.open("mini") as session:
        yield session


def shell(text: str, **more: Any) -> Command:
    return Command(argv=("bash", "-c", text), **more)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def names(folder: Path | str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


async def content(stream: trio.abc.ReceiveStream) -> bytes:
    async with stream:
        return b"".join([chunk async for chunk in stream])


# programs


async def test_a_program(mac: MacSession) -> None:
    done = await run(mac, shell('echo "$A in $PWD"; echo oops >&2; exit 3', env={"A": "$x"}, cwd="/usr"))
    assert (done.exit, done.stdout, done.stderr) == (Exit(code=3), b"$x in /usr\n", b"oops\n")


async def test_standard_input(mac: MacSession) -> None:
    data = os.urandom(200_000)
    done = await run(mac, Command(argv=("cat",)), stdin=data)
    assert done.exit.ok
    assert done.stdout == data
    process = await mac.start(Command(argv=("true",)))
    with pytest.raises(WrongState):
        await process.send(b"x")
    await process.aclose()


async def test_a_program_that_reads_nothing_of_its_input(mac: MacSession) -> None:
    done = await run(mac, Command(argv=("true",)), stdin=b"x" * 300_000)
    assert done.exit.ok


async def test_the_end_by_a_signal(mac: MacSession) -> None:
    async with await mac.start(Command(argv=("sleep", "92"))) as process:
        await process.signal(signal.SIGTERM)
        assert await process.wait() == Exit(code=None, signal=signal.SIGTERM)
        await process.signal(signal.SIGTERM)


async def test_letting_go_ends_a_program(mac: MacSession, gone: Any) -> None:
    process = await mac.start(Command(argv=("sleep", "91"), stdin=True))
    await process.aclose()
    await process.aclose()
    assert await trio.to_thread.run_sync(gone, process.pid)
    with pytest.raises(WrongState):
        await process.wait()


async def test_the_end_of_the_session_ends_programs(lab: Any, gone: Any) -> None:
    async with lab.open("mini") as mac:
        process = await mac.start(Command(argv=("sleep", "90")))
        terminal = await mac.start(Command(argv=("sleep", "89"), terminal=TerminalSize()))
    for each in (process, terminal):
        assert await trio.to_thread.run_sync(gone, each.pid)


RESIZED = "trap 'stty size; exit' WINCH; stty size; read line; echo got $line; while :; do read -t 5; done"


async def test_a_terminal(mac: MacSession) -> None:
    async with await mac.start(shell(RESIZED, terminal=TerminalSize(columns=91, rows=17))) as process:
        output = b""
        async for chunk in process:
            assert chunk.stream is Stream.STDOUT
            output += chunk.data
            if output == b"17 91\r\n":
                await process.send(b"words\n")
            if output.endswith(b"got words\r\n"):
                await process.resize(TerminalSize(columns=60, rows=20))
        assert (await process.wait()).ok
    assert output.splitlines()[-1] == b"20 60"


async def test_a_terminal_and_the_end_of_input(mac: MacSession) -> None:
    async with await mac.start(Command(argv=("cat",), terminal=TerminalSize())) as process:
        await process.close_stdin()
        assert (await process.wait()).ok


async def test_what_cannot_be_started(mac: MacSession) -> None:
    with pytest.raises(NotFound):
        await mac.start(Command(argv=("no-such-program",)))
    with pytest.raises(PermissionDenied, match="reached as"):
        await mac.start(Command(argv=("true",), user="somebody"))
    for tag in ("kept", "../x"):
        with pytest.raises(NotFound, match="tag"):
            await mac.attach(tag)


async def test_a_program_with_a_tag(lab: Any, gone: Any) -> None:
    text = "echo one; echo oops >&2; read line; echo two $line; exit 5"
    async with lab.open("mini") as mac:
        async with await mac.start(shell(text, tag="kept", stdin=True)) as process:
            assert await read_until(process, b"one\n", b"oops\n")
        with pytest.raises(AlreadyExists):
            await mac.start(shell("true", tag="kept"))
    async with lab.open("mini") as mac:
        (found,) = [each for each in await mac.processes() if each.tag]
        assert (found.tag, found.pid) == ("kept", process.pid)
        async with await mac.attach("kept", replay=True) as process:
            assert await read_until(process, b"one\n", b"oops\n")
        async with await mac.attach("kept") as process:
            # Only now: without a replay, what was said before is not heard.
            await process.send(b"more\n")
            assert await read_until(process, b"two more\n", b"")
            assert await process.wait() == Exit(code=5)
        with pytest.raises(NotFound):
            await mac.attach("kept")
        for wrong, error in (
            (Command(argv=("no-such-program",), tag="b"), NotFound),
            (Command(argv=("true",), cwd="/no/such", tag="b"), NotFound),
            (Command(argv=("/etc/passwd",), tag="b"), PermissionDenied),
            (Command(argv=("true",), tag="b", terminal=TerminalSize()), InvalidArgument),
        ):
            with pytest.raises(error):
                await mac.start(wrong)
        process = await mac.start(Command(argv=("sleep", "85"), tag="b"))
        await process.aclose()
    await lab.driver.clean(lab.device("mini"))
    assert await trio.to_thread.run_sync(gone, process.pid)
    assert not there(mac.folder)


async def read_until(process: Any, out: bytes, err: bytes) -> bool:
    """Read until the two outputs are what is wanted."""
    found = {Stream.STDOUT: b"", Stream.STDERR: b""}
    async for chunk in process:
        found[chunk.stream] += chunk.data
        if found == {Stream.STDOUT: out, Stream.STDERR: err}:
            return True
    return False


async def test_a_program_with_a_tag_outlives_the_connection(lab: Any, sshd: Any) -> None:
    async with lab.open("mini") as mac:
        process = await mac.start(shell("sleep 0.3; seq 1 2000000 | tail -c 5000000; exit 3", tag="long"))
        sshd.cut()
        with pytest.raises(DeviceLost):
            await process.wait()
        await process.aclose()
    await lab.until(lambda seen: seen[-1].device.status == "offline")
    await lab.until(lambda seen: seen[-1].device.status == "ready")
    async with lab.open("mini") as mac, await mac.attach("long", replay=True) as process:
        output = b"".join([chunk.data async for chunk in process])
        assert await process.wait() == Exit(code=3)
        assert output.endswith(b"\n1999999\n2000000\n")
        assert 4 * 2**20 - 65536 <= len(output) <= 4 * 2**20


async def test_processes_and_kill(mac: MacSession, gone: Any) -> None:
    async with await mac.start(Command(argv=("sleep", "88"))) as process:
        (found,) = [each for each in await mac.processes() if each.pid == process.pid]
        assert found.command == "sleep 88"
        await mac.kill(process.pid)
        assert await process.wait() == Exit(code=None, signal=9)
    assert await trio.to_thread.run_sync(gone, process.pid)
    with pytest.raises(NotFound):
        await mac.kill(2**22 - 1)


async def test_a_program_on_a_connection_that_is_cut(lab: Any, sshd: Any, gone: Any) -> None:
    async with lab.open("mini") as mac:
        process = await mac.start(Command(argv=("sleep", "87")))
        sshd.cut()
        with pytest.raises(DeviceLost):
            await process.wait()
        await process.aclose()
    assert await trio.to_thread.run_sync(gone, process.pid)
    await lab.until(lambda seen: seen[-1].device.status == "offline")
    assert "closed by remote host" in lab.sightings[-1].device.reason
    await lab.until(lambda seen: seen[-1].device.status == "ready")


# files


async def test_files_come_and_go_as_they_are(mac: MacSession, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    path = f"{tmp_path}/a new folder/some 'file'"
    assert await mac.write(path, chunks(data[:100], data[100:]), mode=0o640) == len(data)
    assert await content(await mac.read(path)) == data
    found = await mac.stat(path)
    assert (found.type, found.size, found.mode, found.name) == (EntryType.FILE, len(data), 0o640, "some 'file'")
    assert await mac.write(path, chunks()) == 0
    assert await content(await mac.read(path)) == b""
    assert [entry.name for entry in await mac.list(str(tmp_path / "a new folder"))] == ["some 'file'"]


async def test_a_write_that_fails_leaves_nothing(mac: MacSession, tmp_path: Path) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise ValueError("the source broke")

    with pytest.raises(ValueError, match="the source broke"):
        await mac.write(f"{tmp_path}/file", source())
    with trio.move_on_after(20) as scope:

        async def endless() -> AsyncIterator[bytes]:
            yield b"x"
            scope.cancel()
            await trio.sleep_forever()

        await mac.write(f"{tmp_path}/file", endless())
    assert scope.cancelled_caught
    assert await mac.list(str(tmp_path)) == []


async def test_listing(mac: MacSession, tmp_path: Path) -> None:
    odd = "tab\t, line\nbreak and ü"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / odd).write_text("1")
    (tmp_path / "link").symlink_to("sub/with\ttab")
    found = await mac.list(str(tmp_path), depth=2)
    assert [entry.path for entry in found] == [f"{tmp_path}/{name}" for name in ("link", "sub", f"sub/{odd}")]
    assert (found[0].type, found[0].target) == (EntryType.SYMLINK, "sub/with\ttab")
    assert len(await mac.list(f"{tmp_path}/")) == 2
    with pytest.raises(NotFound):
        await mac.list(f"{tmp_path}/none")
    with pytest.raises(InvalidArgument):
        await mac.list(f"{tmp_path}/sub/{odd}")
    with pytest.raises(InvalidArgument):
        await mac.list(str(tmp_path), depth=0)


async def test_folders(mac: MacSession, tmp_path: Path) -> None:
    made = await mac.mkdir(f"{tmp_path}/a/b", mode=0o700)
    assert (made.type, made.mode, made.path) == (EntryType.DIRECTORY, 0o700, f"{tmp_path}/a/b")
    with pytest.raises(AlreadyExists):
        await mac.mkdir(f"{tmp_path}/a")
    with pytest.raises(InvalidArgument):
        await mac.write(f"{tmp_path}/a", chunks(b"x"))
    await mac.remove(f"{tmp_path}/a")
    for verb in (mac.remove, mac.stat, mac.read):
        with pytest.raises(NotFound):
            await verb(f"{tmp_path}/a")
    with pytest.raises(InvalidArgument):
        await mac.read(str(tmp_path))
    with pytest.raises(PermissionDenied):
        await mac.remove("/usr/..")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument):
        await mac.write(f"{tmp_path}/file/below", chunks(b"x"))
    with pytest.raises(PermissionDenied):
        await mac.write(f"{tmp_path}/x", chunks(b"x"), user="somebody")


# screen, log, tests


async def test_the_screen(mac: MacSession, stub: Any) -> None:
    assert (await content(await mac.screenshot())).startswith(b"\x89PNG")
    await mac.start_recording()
    with pytest.raises(WrongState):
        await mac.start_recording()
    while not (stub.home / "recording").exists():  # screencapture does not say when it has begun
        await mac.place.run(["true"])
    (part,) = await mac.stop_recording()
    assert (part.name, part.media_type) == ("screen.mov", "video/quicktime")
    assert len(await content(await mac.fetch(part.reference))) == part.size == 5000
    with pytest.raises(WrongState):
        await mac.stop_recording()
    with pytest.raises(NotFound):
        await mac.fetch("another")


async def test_the_log(mac: MacSession) -> None:
    assert b"an old line\na new line" in await content(await mac.logs())
    mark = await mac.log_mark()
    assert (await content(await mac.logs(since=mark))).startswith(b"a new line since @")
    stream = await mac.logs(since=mark, follow=True)
    read = b""
    while b"live line" not in read:
        read += await stream.receive_some()
    assert read.startswith(b"a new line since @")
    await stream.aclose()
    for wrong in ("another@1900000000", f"{mac.device.identity}@5", "now"):
        with pytest.raises(InvalidArgument):
            await mac.logs(since=wrong)


async def test_a_session_leaves_no_files(lab: Any, stub: Any) -> None:
    async with lab.open("mini") as mac:
        await content(await mac.screenshot())
        await mac.start_recording()
        assert names(mac.folder) != []
    assert not there(mac.folder)
    async with lab.open("mini") as mac:
        await mac.mkdir(f"{mac.folder}/products")
    assert there(mac.folder)
    await lab.driver.clean(lab.device("mini"))
    assert not there(mac.folder)


def there(folder: str) -> bool:
    return Path(folder).exists()
