"""Commands at a Mac: through a real ssh and a real sshd."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from anvild.sdk import DeviceLost, InvalidArgument, NotFound, PermissionDenied, Unavailable
from anvild_macos.place import SESSIONS, LocalPlace, Place, finish
from anvild_macos.shell import SLOT
from anvild_macos.ssh import explain


async def test_words_arrive_as_they_are(place: Place) -> None:
    words = ["a b", "$HOME", "`id`", "'\"\\", "*", "", "line\nbreak", "-n", "ü;|&"]
    done = await place.run(["printf", "%s\\0", *words])
    assert done.out.decode().split("\0")[:-1] == words


async def test_environment_folder_and_exit_code(place: Place) -> None:
    child = await place.start(["sh", "-c", 'echo "$A $PWD"; exit 7'], env={"A": "x 'y' $z"}, cwd="/usr")
    assert await child.stdout.receive_some() == b"x 'y' $z /usr\n"
    assert await child.wait() == 7
    await child.aclose()


async def test_what_cannot_be_started(place: Place) -> None:
    with pytest.raises(NotFound, match="no program 'no-such-program'"):
        await place.run(["no-such-program"])
    with pytest.raises(PermissionDenied):
        await place.run(["/etc/passwd"])
    with pytest.raises(NotFound, match="folder"):
        await place.start(["true"], cwd="/no/such/folder")
    with pytest.raises(InvalidArgument, match="environment"):
        await place.run(["true"], env={"A-B": "1"})
    with pytest.raises(InvalidArgument, match="NUL"):
        await place.run(["echo", "a\0b"])


async def test_twenty_commands_at_once(place: Place) -> None:
    answers: dict[int, bytes] = {}

    async def one(number: int) -> None:
        answers[number] = (await place.run(["sh", "-c", f"echo {number}"])).out

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, number)
    assert answers == {number: f"{number}\n".encode() for number in range(20)}


async def test_housekeeping_never_waits_for_verbs(place: Place) -> None:
    held = [await place.start(["sleep", "60"]) for _ in range(SESSIONS)]
    with trio.fail_after(60):
        assert (await place.run(["echo", "here"], housekeeping=True)).out == b"here\n"
    with trio.move_on_after(0.2) as waiting:
        await place.run(["true"])
    assert waiting.cancelled_caught
    for child in held:
        await child.aclose()
    assert (await place.run(["true"])).code == 0


@pytest.mark.parametrize("silent", ["sleep 97", "trap '' TERM HUP; while :; do sleep 97; done"])
async def test_a_cancelled_command_leaves_nothing(place: Place, gone: Any, silent: str) -> None:
    pids: list[int] = []
    with trio.move_on_after(20) as scope:
        child = await place.start(["bash", "-c", silent])
        pids.append(child.pid)
        try:
            scope.cancel()
            await child.wait()
        finally:
            await child.aclose()
    assert scope.cancelled_caught
    assert await trio.to_thread.run_sync(gone, pids[0])


async def test_run_is_ended_by_cancellation(place: Place, gone: Any) -> None:
    child = await place.start(["sleep", "96"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(finish, child)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await trio.to_thread.run_sync(gone, child.pid)


async def test_what_a_command_leaves_in_its_group_ends_with_it(place: Place, gone: Any) -> None:
    done = await place.run(["sh", "-c", "sleep 95 & echo $!"])
    assert done.code == 0
    assert await trio.to_thread.run_sync(gone, int(done.out))


async def test_a_connection_that_is_cut(place: Place, sshd: Any, gone: Any) -> None:
    child = await place.start(["sleep", "94"])
    connection = place.connection
    sshd.cut()
    with pytest.raises(DeviceLost, match="'mini' broke"):
        await child.wait()
    await child.aclose()
    assert await trio.to_thread.run_sync(gone, child.pid)
    assert await place.connected() is not connection
    assert (await place.run(["echo", "again"])).out == b"again\n"


async def test_reconnect(place: Place) -> None:
    before = place.connection
    await place.reconnect()
    assert place.connection is not None
    assert place.connection is not before


async def test_the_exit_code_of_the_transport_is_not_mistaken(place: Place) -> None:
    assert (await place.run(["sh", "-c", "exit 255"])).code == 255


async def test_an_answer_in_a_file(place: Place) -> None:
    before = folders()
    done = await place.run_into_file(["sh", "-c", 'echo noise; printf answer >"$1"', "sh", SLOT])
    assert (done.code, done.out, done.err) == (0, b"answer", b"")
    done = await place.run_into_file(["sh", "-c", "echo complaint; exit 3", "sh", SLOT])
    assert (done.code, done.out, done.err) == (3, b"", b"complaint\n")
    assert folders() == before


async def test_streams_are_bytes(place: Place) -> None:
    data = os.urandom(300_000)
    async with place.feed(["cat"]) as child:
        received = b""

        async def send() -> None:
            await child.stdin.send_all(data)
            await child.stdin.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while chunk := await child.stdout.receive_some():
                received += chunk
    assert received == data


async def test_the_connection_leaves_nothing_here(at_place: Any) -> None:
    before = folders()
    async with at_place() as connected:
        await connected.connected()
        assert folders() != before
    assert folders() == before


def folders() -> set[Path]:
    return set(Path("/tmp").glob("anvild.*"))


HOLDER = """
import sys, msgspec, trio
from anvild_macos.settings import HostSettings
from anvild_macos.ssh import SshPlace

async def main():
    place = SshPlace(msgspec.json.decode(sys.argv[1], type=HostSettings), lambda *_words, **_values: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.serve)
        child = await place.start(["sleep", "86"])
        print(place._master.pid, child.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def test_a_daemon_that_is_killed_leaves_nothing(sshd: Any, gone: Any) -> None:
    before = folders()
    settings = msgspec.json.encode(sshd.settings()).decode()
    with subprocess.Popen([sys.executable, "-c", HOLDER, settings], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        pids = [int(word) for word in daemon.stdout.readline().split()]
        daemon.kill()
    assert [gone(pid) for pid in pids] == [True, True]
    until = time.monotonic() + 60
    while not folders() <= before:  # the far side removes its own when it sees the connection end
        assert time.monotonic() < until
        time.sleep(0.02)


# what goes wrong on the way


async def refusal(at_place: Any, **changes: Any) -> str:
    async with at_place(**changes) as unreachable:
        with trio.fail_after(60):
            changed = unreachable.changed
            await changed.wait()
        with pytest.raises(Unavailable) as raised:
            await unreachable.connected(patience=0)
        return str(raised.value)


async def test_an_unknown_host_key(at_place: Any, sshd: Any, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n  UserKnownHostsFile /dev/null\n  GlobalKnownHostsFile /dev/null\n")
    said = await refusal(at_place, ssh_config=str(config))
    assert "host key of the Mac 'mini' is not known: run `ssh -F" in said


async def test_another_host_key_than_before(at_place: Any, sshd: Any, tmp_path: Path) -> None:
    known, config = tmp_path / "known", tmp_path / "config"
    known.write_text(f"[127.0.0.1]:{sshd.port} {(sshd.folder / 'stranger.pub').read_text()}")
    config.write_text(f"Host *\n  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n")
    said = await refusal(at_place, ssh_config=str(config))
    assert f"ssh-keygen -R [127.0.0.1]:{sshd.port}" in said


async def test_a_key_that_is_refused(at_place: Any, sshd: Any) -> None:
    said = await refusal(at_place, identity_file=str(sshd.folder / "stranger"))
    assert "authorized_keys" in said


async def test_nothing_listens(at_place: Any) -> None:
    assert "Remote Login" in await refusal(at_place, port=1)


async def test_a_name_that_cannot_be_resolved(at_place: Any) -> None:
    assert "cannot be resolved" in await refusal(at_place, address="no-such-mac.invalid")


def test_a_mac_that_sleeps(sshd: Any) -> None:
    assert "awake" in explain(sshd.settings(), "ssh: connect to host x port 22: Connection timed out")
    assert "ssh gave no reason" in explain(sshd.settings(), "")


# the daemon's own host


async def test_commands_here_live_by_the_same_line(gone: Any) -> None:
    place = LocalPlace()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.serve)
        assert (await place.run(["echo", "a b"])).out == b"a b\n"
        child = await place.start(["sleep", "93"])
        await child.aclose()
        assert await trio.to_thread.run_sync(gone, child.pid)
        nursery.cancel_scope.cancel()
