"""Screen: pictures, and videos in parts below the platform's limit on the length of one."""

from __future__ import annotations

import secrets

import trio

from anvild.sdk import Attachment, DeviceLost, Screen, Unavailable, WrongState

from ..adb.errors import from_device
from ..adb.shell import Shell
from ..scripts import FOLDER, MARK
from .attachments import AndroidAttachments
from .logs import ShellOutput

__all__ = ["AndroidScreen"]

PNG = b"\x89PNG\r\n\x1a\n"
PART_SECONDS = 170
STOP_SECONDS = 30.0

RECORD = f"""
mkdir -p "$1" && cd "$1" || exit 1
export {MARK}="$2"
trap 'touch stop; kill -HUP "$part" 2>/dev/null' HUP
number=1
while [ ! -e stop ]; do
  name=$(printf 'screen-%04d.mp4' "$number")
  screenrecord --time-limit {PART_SECONDS} "$name" &
  part=$!
  echo "$part" >pid
  wait "$part"; code=$?
  [ "$code" -eq 0 ] || [ -e stop ] || exit "$code"
  number=$((number+1))
done
"""
STOP = 'cd "$1" && touch stop && read -r pid <pid && kill -HUP "$pid"'
"""Shells let programs in the background ignore an interrupt; on a hang-up, too, screenrecord finishes its file."""
PARTS = 'cd "$1" && for each in screen-*.mp4; do [ -s "$each" ] && stat -c "%s %n" "$each"; done; true'


class AndroidScreen(AndroidAttachments, Screen):
    """A recording runs on the device as long as its stream is open, and ends with it."""

    _recording: tuple[Shell, str] | None = None

    async def screenshot(self) -> trio.abc.ReceiveStream:
        output = ShellOutput(await self.link.start("exec screencap -p"), "the screen cannot be seen")
        try:
            _check_picture(await output.begin(len(PNG)))
        except BaseException:
            with trio.CancelScope(shield=True):
                await output.aclose()
            raise
        return output

    async def start_recording(self) -> None:
        if self._recording is not None:
            raise WrongState("this session records the screen already")
        folder = f"{FOLDER}/record-{secrets.token_hex(4)}"
        shell = await self.link.start(RECORD, folder, self.device.identity)
        self._recording = (shell, folder)
        self.closing.append(lambda: self._end_recording(shell, folder))

    async def stop_recording(self) -> list[Attachment]:
        if self._recording is None:
            raise WrongState("this session records nothing")
        (shell, folder), self._recording = self._recording, None
        try:
            await self.link.shell(STOP, folder)
            with trio.move_on_after(STOP_SECONDS):
                result = await shell.collect(4096)
                if result.code != 0:
                    raise from_device(result.said, "the screen cannot be recorded", Unavailable)
        finally:
            with trio.CancelScope(shield=True):
                await shell.aclose()
        listed = await self.link.succeed("the recording cannot be listed", PARTS, folder)
        parts = []
        for line in sorted(listed.splitlines(), key=lambda line: line.partition(" ")[2]):
            size, _, name = line.partition(" ")
            parts.append(self.offer_file(f"{folder}/{name}", name, "video/mp4", int(size)))
        return parts

    async def _end_recording(self, shell: Shell, folder: str) -> None:
        await shell.aclose()
        try:
            await self.link.shell(f'{STOP}; rm -rf -- "$1"', folder)
        except DeviceLost:
            return


def _check_picture(head: bytes) -> None:
    if not head.startswith(PNG):
        raise Unavailable("the device's screencap gave no picture: its screen may be off or protected")
