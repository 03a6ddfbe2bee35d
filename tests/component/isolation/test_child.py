"""Children of the daemon end with their whole group: by word of the daemon, by themselves, and with the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from anvild.core.isolation import child as module
from anvild.core.isolation.child import Child, plain_environment
from anvild.sdk import Unavailable

ENVIRON = {"PATH": os.environ["PATH"]}

LIBC_OWN = 0b11 << 31
"""The two signals that the C library keeps for itself: nobody can set them, and some are started with them ignored."""


@asynccontextmanager
async def spawned(*command: str, data_limit: int = 0, go: bool = True) -> AsyncIterator[Child]:
    """A child that has begun; it is ended with the block, if it has not ended by then."""
    async with trio.open_nursery() as nursery:
        child = await Child.spawn(command, environ=ENVIRON, directory=Path("/"))
        try:
            await nursery.start(child.listen)
            if go:
                await child.go(data_limit)
            yield child
        finally:
            await child.end(gently=False)
        nursery.cancel_scope.cancel()


async def line_of(child: Child) -> str:
    text = b""
    while not text.endswith(b"\n"):
        data = await child.stdout.receive_some()
        assert data, f"no line came: {text!r} {(await child.stderr.receive_some())!r}"
        text += data
    return text.decode().strip()


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def lives(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


async def gone(*pids: int) -> None:
    """Wait for processes whose end nobody tells us of."""
    with trio.fail_after(60):
        while any(lives(pid) for pid in pids):  # noqa: ASYNC110  # nobody tells of it
            await trio.sleep(0.005)


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", text)


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        (("sh", "-c", "exit 3"), "its process ended with exit code 3"),
        (("sh", "-c", "kill -SEGV $$"), "its process ended with signal 11 (segmentation fault)"),
        (("no-such-program",), "its command cannot be run: No such file or directory: no-such-program"),
    ],
)
async def test_an_end_is_told_in_words(command: tuple[str, ...], ending: str) -> None:
    async with spawned(*command) as child:
        await child.ended.wait()
        assert child.ending == ending


async def test_it_talks_by_its_standard_streams() -> None:
    async with spawned("sh", "-c", "read word; echo got $word; echo oops >&2") as child:
        await child.stdin.send_all(b"hello\n")
        assert await line_of(child) == "got hello"
        assert await child.stderr.receive_some() == b"oops\n"
        assert await child.stdout.receive_some() == b""
        await child.ended.wait()


async def test_it_does_not_begin_before_it_is_told_to() -> None:
    async with spawned("sh", "-c", "echo begun", go=False) as child:
        assert "keeper.py" in await trio.Path(f"/proc/{child.pid}/cmdline").read_text()
        await child.go()
        assert await line_of(child) == "begun"


async def test_it_leads_a_session_of_its_own_with_default_signals_and_no_other_descriptor() -> None:
    code = (
        "import os, signal; print(os.getsid(0), sorted(os.listdir('/proc/self/fd')), +signal.getsignal(signal.SIGTERM))"
    )
    async with spawned(*python(code)) as child:
        assert await line_of(child) == f"{child.pid} ['0', '1', '2', '3'] 0"  # 3 is the listing itself
    async with spawned("grep", "SigIgn", "/proc/self/status") as child:
        ignored = int((await line_of(child)).split()[1], 16)
        assert ignored & ~LIBC_OWN == 0


async def test_its_environment_is_what_was_given() -> None:
    async with spawned("env") as child:
        told = await line_of(child)
        assert {line.partition("=")[0] for line in told.splitlines()} <= {"PATH", "PWD", "SHLVL", "_", "LC_CTYPE"}


def test_secrets_are_not_handed_on() -> None:
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C.UTF-8",
        "ANVIL_BEARER_TOKEN": "x",
        "ANVIL_STORE_URL": "postgresql://u:p@h/d",
        "CREDENTIALS_DIRECTORY": "/run/credentials",
        "NOTIFY_SOCKET": "/run/notify",
        "PGPASSWORD": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    assert plain_environment(environ) == {"PATH": "/bin", "LC_ALL": "C.UTF-8"}


async def test_its_data_is_bounded_where_nothing_else_bounds_it() -> None:
    code = "b = bytearray(300 * 2**20); print('got it')"
    async with spawned(*python(code), data_limit=100 * 2**20) as child:
        await child.ended.wait()
        assert child.ending == "its process ended with exit code 1"
        assert b"MemoryError" in await child.stderr.receive_some()


async def test_closing_its_input_is_asked_first() -> None:
    async with spawned("cat") as child:
        await child.end()
        assert child.ending == "its process ended with exit code 0"


async def test_it_is_terminated_then_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    async with spawned("sleep", "1000") as child:
        await child.end()
        assert child.ending == "its process ended with signal 15 (terminated)"
    monkeypatch.setattr(module, "TERM_SECONDS", 0.05)
    async with spawned("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done") as child:
        await line_of(child)
        await child.end()
        assert child.ending == "its process ended with signal 9 (killed)"


async def test_its_descendants_end_with_it() -> None:
    async with spawned("sh", "-c", "trap '' TERM; (trap '' TERM; sleep 1000 & echo $!; wait) & wait") as child:
        descendant = int(await line_of(child))
        assert lives(descendant)
        await child.end(gently=False)
        await gone(descendant)


async def test_descendants_end_when_it_ends_by_itself() -> None:
    async with spawned("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!") as child:
        descendant = int(await line_of(child))
        await child.ended.wait()
        await gone(descendant)


async def test_it_ends_when_its_keeper_is_killed() -> None:
    async with spawned("sh", "-c", "sleep 1000 & echo $!; wait") as child:
        descendant = int(await line_of(child))
        os.kill(child._keeper.pid, signal.SIGKILL)
        await child.ended.wait()
        assert child.ending == "its process was killed together with its keeper"
        await gone(child.pid, descendant)


async def test_it_ends_with_the_daemon() -> None:
    """Whoever has spawned it is killed: the stuck child, which does not look at its input, goes with all of its own."""
    spawner = f"""
import sys, trio
from pathlib import Path
sys.path[:] = {sys.path!r}
from anvild.core.isolation.child import Child
async def main():
    async with trio.open_nursery() as nursery:
        child = await Child.spawn(["sh", "-c", "trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1000; done"],
                                  environ={ENVIRON!r}, directory=Path("/"))
        await nursery.start(child.listen)
        await child.go()
        own = (await child.stdout.receive_some()).decode().strip()
        sys.stdout.write(f"{{child.pid}} {{child._keeper.pid}} {{own}}\\n")
        sys.stdout.flush()
        await trio.sleep_forever()
trio.run(main)
"""
    process = await trio.lowlevel.open_process([sys.executable, "-c", spawner], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pids = [int(word) for word in (await process.stdout.receive_some()).split()]
    assert len(pids) == 3
    assert all(lives(pid) for pid in pids)
    process.kill()
    await process.wait()
    await process.stdout.aclose()
    await gone(*pids)


async def test_a_hundred_leave_nothing_behind() -> None:
    before = descriptors()
    pids: list[int] = []
    for number in range(100):
        async with spawned("sh", "-c", "sleep 1000 & echo $!; cat") as child:
            pids += [child.pid, child._keeper.pid, int(await line_of(child))]
            if number % 2:
                await child.end()
    await gone(*pids)
    assert descriptors() == before


async def test_cancelled_while_it_is_spawned(nursery: trio.Nursery) -> None:
    before = descriptors()
    for _ in range(10):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with spawned("cat"):
                pass
    assert descriptors() == before


async def test_no_room_for_a_process_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="its process cannot be started: No such file or directory"):
        await Child.spawn(["true"], environ=ENVIRON, directory=tmp_path / "missing")
