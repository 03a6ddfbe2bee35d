"""Pictures and recordings of a screen, made by a program on the Mac into a file."""

from __future__ import annotations

import secrets
import signal
from abc import abstractmethod
from collections.abc import Sequence

import trio

from anvild.sdk import Attachment, Screen, Unavailable, WrongState

from .base import HostedSession
from .child import Child, last_line
from .transfer import open_file
from .xcresult import media_type

FINISH_SECONDS = 30.0
BEGIN_SECONDS = 15.0
BEGUN = b"ecording started"


class HostedScreen(HostedSession, Screen):
    """A screen that a program on the Mac can see."""

    _recording: tuple[Child, str] | None = None
    says_begun = False
    """Whether the recorder says on standard error when it has begun."""

    @abstractmethod
    def picture_command(self, path: str) -> Sequence[str]:
        """Return the command that writes a picture as PNG."""

    @abstractmethod
    def recording_command(self, path: str) -> Sequence[str]:
        """Return the command that records until it gets SIGINT."""

    @property
    @abstractmethod
    def recording_suffix(self) -> str:
        """How the file of a recording ends."""

    async def screenshot(self) -> trio.abc.ReceiveStream:
        path = f"{await self.make_scratch()}/{secrets.token_hex(4)}.png"
        await self.demand(self.picture_command(path), "the screen cannot be pictured")
        return await open_file(self.place, path, "the screen cannot be pictured")

    async def start_recording(self) -> None:
        if self._recording is not None:
            raise WrongState("this session records the screen already")
        path = f"{await self.make_scratch()}/{secrets.token_hex(4)}{self.recording_suffix}"
        child = await self.place.start(self.recording_command(path))
        try:
            if self.says_begun:
                await _begun(child)
        except BaseException:
            await child.aclose()
            raise
        self._recording = child, path

    async def stop_recording(self) -> Sequence[Attachment]:
        if self._recording is None:
            raise WrongState("this session does not record the screen")
        (child, path), self._recording = self._recording, None
        try:
            await self.place.signal(child.pid, signal.SIGINT, group=True)
            with trio.move_on_after(FINISH_SECONDS) as patience:
                await child.wait()
            if patience.cancelled_caught:
                raise Unavailable(f"the recording was not finished within {FINISH_SECONDS:g} s")
        finally:
            await child.aclose()
        size = await self.demand(["wc", "-c", path], "the recording has left no file")
        name = f"screen{self.recording_suffix}"
        return [self.offer(path, name, media_type(name), int(size.out.split()[0]))]

    async def close(self) -> None:
        """End a recording that nobody has ended, and remove what is left."""
        if self._recording is not None:
            (child, _), self._recording = self._recording, None
            await child.aclose()
        await super().close()


async def _begun(child: Child) -> None:
    """Wait until a recorder says that it has begun. Raises Unavailable with its words when it does not."""
    said = b""
    assert child.stderr is not None
    with trio.move_on_after(BEGIN_SECONDS):
        while BEGUN not in said:
            chunk = await child.stderr.receive_some()
            if not chunk:
                break
            said += chunk
    if BEGUN not in said:
        raise Unavailable(f"the recording did not begin: {last_line(said) or 'the recorder said nothing'}")
