"""The screen: ``screencap`` and ``screenrecord``."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

import trio

from .calls import Call
from .files import Files
from .images import draw_screen, make_video
from .root import Root
from .spec import DeviceSpec
from .system import Battery

__all__ = ["Screen"]

FRAME_SECONDS = 1.0
SMALLER = 8  # frames of a video are so much smaller than the screen


class Screen:
    """The screen of one device; ``foreground`` names the app that it shows."""

    def __init__(self, spec: DeviceSpec, root: Root, battery: Battery, foreground: Callable[[], str]) -> None:
        self._size = spec.screen
        self._limit = spec.record_limit
        self._root = root
        self._battery = battery
        self._foreground = foreground

    @property
    def _files(self) -> Files:
        return self._root.files

    async def _draw(self, smaller: int = 1) -> bytes:
        width, height = (each // smaller for each in self._size)
        app, battery = self._foreground(), self._battery.percent
        return await trio.to_thread.run_sync(draw_screen, width, height, app, battery)

    async def screencap(self, call: Call) -> int:
        """``screencap [-p] [FILE]``: a PNG, to the standard output where no file is named."""
        call.flag("-p", "-a")
        call.option("-d")
        picture = await self._draw()
        if not call.arguments:
            await call.say(picture)
            return 0
        path = posixpath.join(call.directory, call.arguments[0])
        try:
            await trio.to_thread.run_sync(self._files.write, path, picture)
        except OSError as error:
            await call.complain(f"Error opening file: {call.arguments[0]} ({error.strerror})")
            return 1
        return 0

    async def screenrecord(self, call: Call) -> int:
        """``screenrecord [--time-limit SECONDS] FILE``: records until interrupted or for the time that is allowed."""
        limit = call.option("--time-limit", str(self._limit))
        for option in ("--size", "--bit-rate", "--display-id"):
            call.option(option)
        call.flag("--verbose", "--bugreport")
        if not limit.isdecimal() or not 1 <= int(limit) <= self._limit:
            await call.complain(f"Time limit {limit}s outside acceptable range [1,{self._limit}]")
            return 2
        if len(call.arguments) != 1:
            await call.complain("Must specify output file (see --help).")
            return 2
        path = posixpath.join(call.directory, call.arguments[0])
        try:
            await trio.to_thread.run_sync(self._files.write, path, b"")
            video = await self._record(call, int(limit))
            await trio.to_thread.run_sync(self._files.write, path, video)
        except OSError as error:
            await call.complain(f"ERROR: unable to open '{path}': {error.strerror}")
            return 1
        return 0

    async def _record(self, call: Call, limit: int) -> bytes:
        start = trio.current_time()
        frames: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, frames)
            with trio.move_on_after(limit):
                while await call.stdin.receive_some():  # it ends when the program is interrupted
                    pass
            nursery.cancel_scope.cancel()
        frames = frames or [await self._draw(SMALLER)]
        width, height = (each // SMALLER for each in self._size)
        return make_video(frames, width, height, trio.current_time() - start)

    async def _watch(self, frames: list[bytes]) -> None:
        while True:
            frames.append(await self._draw(SMALLER))
            await trio.sleep(FRAME_SECONDS)
