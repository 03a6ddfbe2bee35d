"""The simulated device's log and screen through the real adb."""

from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import trio

Adb = Connect = MakeDevice = Any  # the types of the fixtures' values, which stand in conftest.py


def png_size(picture: bytes) -> tuple[int, int]:
    """Check a PNG's parts and return its size."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    at, kinds, rows = 8, [], b""
    while at < len(picture):
        (size,) = struct.unpack_from(">I", picture, at)
        kind, content = picture[at + 4 : at + 8], picture[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", picture, at + 8 + size)[0] == zlib.crc32(kind + content)
        kinds.append(kind)
        rows += content if kind == b"IDAT" else b""
        at += 12 + size
    assert kinds == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height = struct.unpack_from(">II", picture, 16)
    assert len(zlib.decompress(rows)) == height * (width + 1)
    return width, height


def boxes(video: bytes) -> dict[bytes, bytes]:
    found, at = {}, 0
    while at < len(video):
        (size,) = struct.unpack_from(">I", video, at)
        found[video[at + 4 : at + 8]] = video[at + 8 : at + size]
        at += size
    return found


async def test_the_log_is_shown_in_its_forms(adb: Adb) -> None:
    await adb.shell("logcat -c; log -t First -p w one; log -t Second two; log -t First -p d three")
    whole = (await adb("logcat", "-d")).out.splitlines()
    assert whole[0] == "--------- beginning of main"
    assert [line.split(" ", 2)[2].split(None, 2)[2] for line in whole[1:]] == [
        "W First   : one",
        "I Second  : two",
        "D First   : three",
    ]
    assert (await adb("logcat", "-d", "-v", "raw", "First:W", "*:S")).out.splitlines()[1:] == ["one"]
    assert (await adb("logcat", "-d", "-v", "brief", "-s", "Second")).out.endswith("I/Second  ( 2000): two\n")
    assert (await adb("logcat", "-t", "1", "-v", "tag")).out.endswith("D/First   : three\n")
    assert len((await adb("logcat", "-d", "-v", "raw")).out.splitlines()) == 4
    assert "Invalid parameter" in (await adb("logcat", "-d", "-v", "nonsense")).said


async def test_the_log_is_read_from_a_time_on(adb: Adb) -> None:
    await adb.shell("logcat -c; log before; usleep 5000")
    mark = (await adb.shell("date +%s")).strip() + ".000"
    await adb.shell("log after")
    shown = await adb.shell(f"logcat -d -v raw -T {mark}")
    assert "after" in shown
    first = (await adb.shell("logcat -d -v year -v usec")).splitlines()[1]
    day, hour = first.split()[:2]
    assert (await adb.shell(f"logcat -d -v raw -T '{day} {hour}'")).splitlines()[1:] == ["before", "after"]
    second = (await adb.shell("logcat -d -v threadtime -v usec")).splitlines()[2]
    day, hour = second.split()[:2]
    assert (await adb.shell(f"logcat -d -v raw -T '{day} {hour}'")).splitlines()[1:] == ["after"]


async def test_a_live_log_goes_on_until_its_reader_goes(adb: Adb) -> None:
    await adb.shell("logcat -c; log old")
    command = [adb.server.program, "-s", adb.serial, "logcat", "-v", "raw"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, env=adb.server.environment)
    assert process.stdout is not None
    async with process.stdout:
        seen = b""
        for expected in (b"old", b"new", b"newer"):
            while expected not in seen.splitlines():
                seen += await process.stdout.receive_some()
            await adb.shell("log newer" if expected == b"new" else "log new")
        process.kill()
        await process.wait()
    await adb.shell("while pidof logcat; do :; done")


async def test_a_reader_that_stops_early_ends_the_log(adb: Adb) -> None:
    noise = "(while ! [ -e /data/local/tmp/over ]; do log more; done) &"
    shown = await adb.shell(f"{noise} logcat -v raw | head -n 1; touch /data/local/tmp/over; wait")
    assert shown.startswith("--------- beginning of")


async def test_a_screenshot_is_a_picture(adb: Adb, tmp_path: Path) -> None:
    shot = (await adb("exec-out", "screencap", "-p")).raw
    assert png_size(shot) == (1080, 2400)
    assert await adb.shell("screencap -p /sdcard/shot.png") == ""
    await adb("pull", "/sdcard/shot.png", str(tmp_path / "shot.png"))
    assert (tmp_path / "shot.png").read_bytes() == shot
    adb.device.set_battery(10, 30)
    assert (await adb("exec-out", "screencap", "-p")).raw != shot
    assert (await adb("shell", "screencap /system/shot.png")).code == 1


async def test_a_recording_ends_at_its_limit_or_when_interrupted(
    simulate: MakeDevice, client: Connect, tmp_path: Path
) -> None:
    async with simulate(record_limit=1) as device, client(device) as adb:
        refused = await adb("shell", "screenrecord --time-limit 181 /sdcard/a.mp4")
        assert (refused.code, "acceptable range" in refused.err) == (2, True)
        await adb.shell("screenrecord /sdcard/whole.mp4")
    async with simulate() as device, client(device) as adb:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(adb.shell, "screenrecord /sdcard/part.mp4")
            await adb.shell("while ! pidof screenrecord; do :; done; while ! [ -e /sdcard/part.mp4 ]; do :; done")
            await adb.shell("pkill -INT screenrecord")
        for name in ("whole.mp4", "part.mp4"):
            await adb("pull", f"/sdcard/{name}", str(tmp_path / name))
            found = boxes((tmp_path / name).read_bytes())
            assert list(found) == [b"ftyp", b"mdat", b"moov"]
            assert png_size(found[b"mdat"][: found[b"mdat"].index(b"IEND") + 8]) == (135, 300)
