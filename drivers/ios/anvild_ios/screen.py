"""Pictures of the screen, and a slow film of it: the cable offers no video, so it is made of pictures."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

import trio

from anvild.sdk import AnvilError, Attachment, Screen, Unavailable, WrongState
from anvild.sdk.background import Background

from .animation import SIGNATURE, Animation, PictureDamaged
from .crashes import LOCAL
from .helper import Helper
from .instruments import open_instruments
from .link import Link

__all__ = ["LinkedScreen", "Recording"]

PIECE = 65536
FRAME_SECONDS = 1.0
PART_PICTURES = 60
PART_BYTES = 64 * 2**20
MAX_PARTS = 32
"""What a recording may take on the host: at the last part it goes on by dropping the oldest."""


class LinkedScreen(Screen):
    """The verbs of the screen: over the cable where ``native``, else by the tool. ``folder`` is the session's own."""

    link: Link
    helper: Helper
    background: Background
    udid: str
    native: bool
    folder: Path
    left: dict[str, Path]
    recording: Recording | None

    async def screenshot(self) -> trio.abc.ReceiveStream:
        return Picture(await self._picture())

    async def start_recording(self) -> None:
        if self.recording is not None:
            raise WrongState("this session records the screen already")
        self.recording = recording = Recording(self)
        try:
            await self.background.start(recording.run)
        except BaseException:
            self.recording = None
            raise

    async def stop_recording(self) -> Sequence[Attachment]:
        recording, self.recording = self.recording, None
        if recording is None:
            raise WrongState("this session does not record the screen")
        found: list[Attachment] = []
        for number, part in enumerate(await recording.stop(), 1):
            reference = f"{LOCAL}{secrets.token_hex(8)}"
            self.left[reference] = part.path
            name = f"screen-{number:02d}.png"
            found.append(Attachment(reference=reference, name=name, media_type="image/apng", size=part.size))
        return found

    async def _picture(self) -> bytes:
        async with self.link.verb():
            if self.native:
                async with open_instruments(self.link) as instruments:
                    data = await instruments.screenshot()
            else:
                data = await self._by_tool()
        if not data.startswith(SIGNATURE):
            raise Unavailable(f"{self.link.name} sent a picture that is no PNG")
        return data

    async def _by_tool(self) -> bytes:
        tool = self.helper.require("takes pictures")
        target = self.folder / f"screen-{secrets.token_hex(4)}.png"
        try:
            await self.helper.run(self.udid, tool.screenshot(target), "take a picture of the screen")
            return await trio.to_thread.run_sync(target.read_bytes)
        except FileNotFoundError:
            raise Unavailable(f"{tool} said that it took a picture, and left none") from None
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lambda: target.unlink(missing_ok=True))


class Recording:
    """A picture a second, in parts. It has begun when the first picture is there."""

    def __init__(self, screen: LinkedScreen) -> None:
        self._screen = screen
        self._parts: list[Animation] = []
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Take pictures until :meth:`stop`, or until the device takes none any more."""
        begun = False
        try:
            with self._scope:
                while True:
                    taken = trio.current_time()
                    picture = await self._screen._picture()
                    await trio.to_thread.run_sync(self._add, picture)
                    if not begun:
                        task_status.started()
                        begun = True
                    await trio.sleep_until(taken + FRAME_SECONDS)
        except (AnvilError, PictureDamaged, OSError) as error:
            if begun:
                return  # what was recorded up to here is what there is
            if isinstance(error, AnvilError):
                raise
            raise Unavailable(f"no picture can be kept: {error}") from error
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._close)
            self._ended.set()

    async def stop(self) -> list[Animation]:
        """End the recording and return its parts in order."""
        self._scope.cancel()
        await self._ended.wait()
        return self._parts

    def _add(self, picture: bytes) -> None:
        if self._parts:
            part = self._parts[-1]
            if part.pictures < PART_PICTURES and part.size < PART_BYTES and part.add(picture, FRAME_SECONDS):
                return
            part.close()
        if len(self._parts) == MAX_PARTS:
            self._parts.pop(0).path.unlink()
        part = Animation(self._screen.folder / f"film-{secrets.token_hex(4)}.png")
        self._parts.append(part)
        part.add(picture, FRAME_SECONDS)

    def _close(self) -> None:
        for part in self._parts:
            part.close()


class Picture(trio.abc.ReceiveStream):
    """Bytes that are there already, as a stream."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        size = max_bytes or PIECE
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def aclose(self) -> None:
        self._data = b""
        await trio.lowlevel.checkpoint()
