"""The simulated device through the real adb: connection, shell, files, power."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from anvild.sdk import Unavailable
from anvild_android.simulator import DeviceSpec, SimulatedDevice

Adb = Connect = MakeDevice = Any  # the types of the fixtures' values, which stand in conftest.py
TREE = {"a": b"x" * 300_000, "sub/b": b"", "sub/deep/c d": b"\0\1\2", "sub/ü": "ü".encode()}


def make_tree(root: Path) -> Path:
    for name, content in TREE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def same(left: Path, right: Path) -> bool:
    found = filecmp.dircmp(left, right)
    lone = found.left_only or found.right_only or found.diff_files or found.funny_files
    return not lone and all(same(left / each, right / each) for each in found.common_dirs)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


async def test_a_device_introduces_itself(adb: Adb) -> None:
    listed = (await adb.bare("devices", "-l")).out
    assert f"{adb.serial}" in listed
    assert "product:simulated model:Simulated_Phone device:simulated" in listed
    assert await adb.shell("getprop ro.serialno") == "SIM0001\n"
    assert "[ro.build.version.release]: [14]\n" in await adb.shell("getprop")
    assert await adb.shell("getprop nothing.here") == "\n"
    assert "  level: 85\n" in await adb.shell("dumpsys battery")
    adb.device.set_battery(15, 41.5)
    assert "  level: 15\n" in await adb.shell("dumpsys battery")
    assert "  temperature: 415\n" in await adb.shell("dumpsys battery")


async def test_a_shell_tells_output_errors_and_exit_code_apart(adb: Adb) -> None:
    done = await adb("shell", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")
    done = await adb("shell", "tr a-z A-Z; exit 3", stdin=b"hello" * 40_000)
    assert (done.code, done.out) == (3, "HELLO" * 40_000)
    assert (await adb("shell", "kill -9 $$")).code == 137
    assert (await adb("exec-out", "printf 'a\\nb\\r\\0'")).raw == b"a\nb\r\0"
    assert "uid=2000" in await adb.shell("id")


async def test_a_closed_connection_hangs_up_on_the_shell_alone(adb: Adb) -> None:
    async with trio.open_nursery() as nursery:
        hold = "cd /data/local/tmp; trap 'echo told > told; exit' HUP; echo $$ > pid; sleep 100 & echo up; wait"
        command = [adb.server.program, "-s", adb.serial, "shell", hold]
        process = await trio.lowlevel.open_process(command, stdout=-1, env=adb.server.environment)
        assert await process.stdout.receive_some() == b"up\n"
        process.kill()
        nursery.start_soon(process.wait)
    await process.stdout.aclose()
    gone = (
        "p=$(cat /data/local/tmp/pid); while kill -0 $p 2>/dev/null; do :; done; cat /data/local/tmp/told; pidof sleep"
    )
    told, other = (await adb.shell(gone)).split()
    assert told == "told"
    assert other.isdecimal()


async def test_a_terminal_echoes_and_has_a_size(adb: Adb) -> None:
    done = await adb("shell", "-tt", "test -t 0 && echo is one", stdin=b"")
    assert done.out.replace("\r", "") == "is one\n"


async def test_files_come_back_as_they_went(adb: Adb, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    os.utime(tree / "a", (1_700_000_000, 1_700_000_000))
    (tree / "a").chmod(0o755)
    assert (await adb("push", str(tree), "/sdcard/")).code == 0
    assert (await adb("pull", "-a", "/sdcard/tree", str(tmp_path / "back"))).code == 0
    assert same(tree, tmp_path / "back")
    assert (tmp_path / "back" / "a").stat().st_mtime == 1_700_000_000
    assert await adb.shell("stat -c '%a %Y' /sdcard/tree/a") == "777 1700000000\n"
    (tree / "a").write_bytes(b"shorter")
    assert (await adb("push", str(tree / "a"), "/sdcard/tree/a")).code == 0
    assert await adb.shell("cat /sdcard/tree/a") == "shorter"
    assert (await adb("push", str(tree / "a"), "/data/local/tmp/made/on/the/way")).code == 0


async def test_bursts_carry_much(simulate: MakeDevice, burst_client: Connect, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 20
    (tmp_path / "big").write_bytes(content)
    async with simulate() as device, burst_client(device) as adb:
        assert (await adb("push", str(tmp_path / "big"), "/sdcard/big")).code == 0
        assert (await adb("pull", "/sdcard/big", str(tmp_path / "back"))).code == 0
        assert (await adb("shell", "cat", stdin=content)).raw == content
    assert (tmp_path / "back").read_bytes() == content


async def test_what_cannot_be_carried_is_refused_in_words(adb: Adb, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 200_000)
    done = await adb("push", str(tmp_path / "file"), "/system/file")
    assert done.code == 1
    assert "Read-only file system" in done.said
    done = await adb("pull", "/sdcard/missing", str(tmp_path / "missing"))
    assert done.code == 1
    assert "No such file or directory" in done.said
    assert not (tmp_path / "missing").exists()


async def test_a_full_device_takes_no_more_and_keeps_no_part(
    simulate: MakeDevice, client: Connect, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x" * 6_000_000)
    async with simulate(quota=4 << 20) as device, client(device) as adb:
        done = await adb("push", str(tmp_path / "file"), "/sdcard/file")
        assert done.code == 1
        assert "No space left on device" in done.said
        assert await adb.shell("ls /sdcard") == "Download\n"
        done = await adb("shell", "dd if=/dev/zero of=/sdcard/zeros bs=1M count=6")
        assert (done.code, "No space left on device" in done.err) == (1, True)


async def test_nothing_of_the_host_is_seen(adb: Adb, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    assert (await adb.shell("ls /")).split() == [
        "bin", "data", "dev", "etc", "proc", "sdcard", "storage", "system",
    ]  # fmt: skip
    assert str(tmp_path) not in await adb.shell("cat /proc/*/cmdline; env")
    assert (await adb("shell", f"cat {secret}")).code == 1
    await adb.shell(f"ln -s {secret} /sdcard/link; ln -s {tmp_path} /sdcard/folder; ln -s / /sdcard/root")
    for path in (str(secret), "/sdcard/link", "/sdcard/folder/secret", f"/sdcard/root{secret}", f"/../..{secret}"):
        assert (await adb("pull", path, str(tmp_path / "stolen"))).code == 1
    await adb("push", str(secret), "/sdcard/folder/planted")
    assert names(tmp_path) == ["device", "secret"]
    assert (await adb("shell", "echo 0 > /proc/sys/kernel/panic")).code != 0
    assert (await adb("shell", "wget -q -O - http://127.0.0.1:" + str(adb.device.port))).code != 0


async def test_an_old_device_has_no_exit_codes_but_works(simulate: MakeDevice, client: Connect, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with simulate(features=()) as device, client(device) as adb:
        done = await adb("shell", "echo out; echo err >&2; exit 7")
        assert (done.code, done.out) == (0, "out\nerr\n")
        assert (await adb("push", str(tree), "/sdcard/")).code == 0
        assert (await adb("pull", "/sdcard/tree", str(tmp_path / "back"))).code == 0
    assert same(tree, tmp_path / "back")


async def test_a_host_is_unauthorised_until_it_is_approved(simulate: MakeDevice, stranger: Any) -> None:
    async with simulate(authorised=False) as device:
        adb = stranger(device)
        await adb.bare("connect", adb.serial)
        await adb.reaches("unauthorized")
        assert "unauthorized" in (await adb("shell", "true")).err
        device.approve()
        await adb.reaches("device")
        assert await adb.shell("getprop ro.adb.secure") == "1\n"
    async with simulate(authorised=False) as device:  # the same folder: the key is known by its signature
        adb = stranger(device)
        await adb.connect()
        assert await adb.shell("echo known") == "known\n"
        await adb.bare("disconnect", adb.serial)


@pytest.mark.parametrize("how", ["adb", "shell"])
async def test_a_reboot_goes_away_and_comes_back_still_booting(simulate: MakeDevice, client: Connect, how: str) -> None:
    async with simulate(boot_seconds=0.5) as device, client(device) as adb:
        await adb.shell("echo kept > /data/local/tmp/kept; sleep 1000 >/dev/null 2>&1 &")
        assert await adb.shell("getprop sys.boot_completed") == "1\n"
        await (adb("reboot") if how == "adb" else adb("shell", "reboot"))
        await adb.reaches("disconnect")
        with trio.fail_after(60):
            while await adb.state() != "device":
                await adb.bare("disconnect", adb.serial)
                await adb.bare("connect", adb.serial)
        booting = "getprop sys.boot_completed; while [ -z $(getprop sys.boot_completed) ]; do :; done; echo up"
        assert await adb.shell(booting) == "\nup\n"
        assert await adb.shell("cat /data/local/tmp/kept; pidof sleep || echo none") == "kept\nnone\n"


async def test_a_cable_is_pulled_and_put_back(adb: Adb) -> None:
    await adb.device.unplug()
    await adb.reaches("disconnect")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", adb.device.port))
    await adb.device.plug()
    await adb.connect()
    assert await adb.shell("echo back") == "back\n"


async def test_a_broken_connection_hangs_up_on_shells_and_leaves_no_part_of_a_file(adb: Adb, tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    huge.touch()
    os.truncate(huge, 4 << 30)
    listing = "while ! [ -e /sdcard/told ]; do :; done; ls /sdcard"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(adb, "shell", "trap 'echo > /sdcard/told; exit' HUP; echo > /sdcard/up; while :; do :; done")
        await adb.shell("while ! [ -e /sdcard/up ]; do :; done")
        command = [adb.server.program, "-s", adb.serial, "push", str(huge), "/sdcard/part"]
        push = await trio.lowlevel.open_process(command, env=adb.server.environment, stdout=-3, stderr=-3)
        nursery.start_soon(push.wait)
        await adb.shell("while ! [ -s /sdcard/part ]; do :; done")
        await adb.device.drop_connections()
    await adb.connect()
    assert (await adb.shell(listing)).split() == ["Download", "told", "up"]


async def test_a_hung_device_answers_when_it_goes_on(adb: Adb) -> None:
    adb.device.hang()
    answers = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            answers.append(await adb.shell("echo late"))

        assert await adb.state() == "device"  # the server knows nothing yet
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not answers
        adb.device.resume()
    assert answers == ["late\n"]


async def test_ports_lead_into_the_device_and_out_of_it(adb: Adb) -> None:
    port = (await adb("forward", "tcp:0", "tcp:8080")).out.strip()
    with socket.create_connection(("127.0.0.1", int(port))) as refused:
        refused.settimeout(10)
        assert await trio.to_thread.run_sync(refused.recv, 1) == b""  # nobody listens in the device
    await adb.shell("nc -ll -p 8080 -e cat >/dev/null 2>&1 & while ! netstat -ltn | grep -q :8080; do :; done")
    stream = await trio.open_tcp_stream("127.0.0.1", int(port))
    await stream.send_all(b"there and back")
    assert await stream.receive_some() == b"there and back"
    await stream.aclose()

    async def answer(visitor: trio.SocketStream) -> None:
        async with visitor:
            asked = await visitor.receive_some()
            await visitor.send_all(b"HTTP/1.0 200 OK\r\n\r\nseen " + asked.split()[1])

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        there = listeners[0].socket.getsockname()[1]
        chosen = (await adb("reverse", "tcp:0", f"tcp:{there}")).out.strip()
        assert f"tcp:{chosen} tcp:{there}" in (await adb("reverse", "--list")).out
        assert await adb.shell(f"wget -q -O - http://127.0.0.1:{chosen}/page") == "seen /page"
        await adb.shell("nc -l -p 8081 >/dev/null 2>&1 & while ! netstat -ltn | grep -q :8081; do :; done")
        assert "in use" in (await adb("reverse", "tcp:8081", "tcp:1")).said
        assert (await adb("reverse", "--remove", f"tcp:{chosen}")).code == 0
        assert (await adb("reverse", "--remove", f"tcp:{chosen}")).code == 1
        assert (await adb("shell", f"nc 127.0.0.1 {chosen} </dev/null")).code != 0
        nursery.cancel_scope.cancel()


async def test_a_killed_simulator_takes_its_device_with_it(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, trio\n"
        "from anvild_android.simulator import DeviceSpec, SimulatedDevice\n"
        "async def main():\n"
        "    device = SimulatedDevice(DeviceSpec(serial='X'), pathlib.Path(sys.argv[1]))\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        await nursery.start(device.run)\n"
        "        orphan = await device._root.start(['/system/bin/sh', '-c', 'setsid sleep 1000 & sleep 1000 &'])\n"
        "        await orphan.wait()\n"
        "        print(device._root._first, flush=True)\n"
        "trio.run(main)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "device")]
    simulator = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert simulator.stdout is not None
    async with simulator.stdout:
        first = os.pidfd_open(int(await simulator.stdout.receive_some()))
        simulator.kill()
        await simulator.wait()
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(first)
        os.close(first)


async def test_nothing_is_left_behind(simulate: MakeDevice, client: Connect, tmp_path: Path) -> None:
    descriptors = len(names(Path("/proc/self/fd")))
    async with simulate() as device, client(device) as adb:
        await adb.shell("sleep 1000 >/dev/null 2>&1 &")
        await adb.shell("setsid sleep 1000 >/dev/null 2>&1 &")
        await adb("reverse", "tcp:9000", "tcp:9000")
        world = world_of(device)
        assert len(inhabitants(world)) >= 4
    assert not inhabitants(world)
    assert names(tmp_path / "device") == ["calls", "data", "system"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", device.port))
    assert len(names(Path("/proc/self/fd"))) <= descriptors


def world_of(device: SimulatedDevice) -> Path:
    return Path(f"/proc/{device._root._first}/ns/pid").readlink()


def inhabitants(world: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "ns" / "pid").readlink() == world and "Z" not in (process / "stat").read_text().split()[2]:
                found.append((process / "stat").read_text())
    return found


@pytest.mark.parametrize("missing", ["bwrap", "busybox", "nsenter"])
async def test_a_host_without_the_tools_is_told_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else there(name))
    with pytest.raises(Unavailable, match=f"needs {missing}.*bubblewrap, busybox-static"):
        await SimulatedDevice(DeviceSpec(serial="X"), tmp_path / "device").run()


async def test_a_host_that_allows_no_namespaces_is_told_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    refusing.chmod(0o755)
    there = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: str(refusing) if name == "bwrap" else there(name))
    with pytest.raises(Unavailable, match=r"could not be made: bwrap: No permissions.*user namespaces"):
        await SimulatedDevice(DeviceSpec(serial="X"), tmp_path / "device").run()
