"""CrashReports: the log's crash buffer, the drop box, and tombstones as far as the shell may read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import trio

from anvild.sdk import Attachment, CrashReports

from .attachments import AndroidAttachments

__all__ = ["AndroidCrashReports", "BytesStream", "parse_dropbox"]

TAGS = (
    "data_app_crash data_app_anr data_app_native_crash system_app_crash system_app_anr system_app_native_crash "
    "system_server_crash system_server_anr SYSTEM_TOMBSTONE"
)
FROM = """
from=$(( $1 == 0 ? 0 : $1 - $2 + $(date +%s) ))
[ "$from" -ge 0 ] || from=0
"""
"""The device's time of the host's time $1, where the host now has the time $2."""
CRASH_BUFFER = FROM + 'exec logcat -b crash -d -v threadtime -T "$(date -d "@$from" \'+%m-%d %H:%M:%S.000\')"'
CRASH_BUFFER_ALL = "exec logcat -b crash -d -v threadtime"
DROP_BOX = FROM + f"date -d \"@$from\" '+%Y-%m-%d %H:%M:%S'\nfor tag in {TAGS}; do dumpsys dropbox --print $tag; done"
TOMBSTONES = FROM + (
    "for each in /data/tombstones/tombstone_*; do\n"
    '  [ -r "$each" ] && [ "${each%.pb}" = "$each" ] || continue\n'
    '  [ "$(stat -c %Y "$each")" -ge "$from" ] && stat -c "%Y %s %n" "$each"\n'
    "done; true"
)

_RULE = re.compile(r"^={20,}\s*$", re.MULTILINE)
_HEAD = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? (\w+) \(")


class BytesStream(trio.abc.ReceiveStream):
    """Bytes that are there already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        most = len(self._data) if max_bytes is None else max_bytes
        data, self._data = self._data[:most], self._data[most:]
        return data

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class AndroidCrashReports(AndroidAttachments, CrashReports):
    """What is listed is held in memory, at most 4 MiB from each source, but for tombstones, which stay files."""

    async def crash_reports(self, *, since: datetime | None = None) -> Sequence[Attachment]:
        times = ("0" if since is None else str(int(since.timestamp())), str(int(datetime.now(UTC).timestamp())))
        found: list[Attachment] = []
        for line in (await self.link.shell(TOMBSTONES, *times)).text.splitlines():
            _, size, path = line.split(" ", 2)
            found.append(self.offer_file(path, path.rpartition("/")[2] + ".txt", "text/plain", int(size)))
        start, _, dropped = (await self.link.shell(DROP_BOX, *times)).text.partition("\n")
        for time, tag, text in parse_dropbox(dropped):
            if since is None or time >= start.strip():
                found.append(self._offer_text(f"{tag}-{re.sub('[^0-9]', '', time)}.txt", text))
        script = CRASH_BUFFER_ALL if since is None else CRASH_BUFFER
        log = (await self.link.shell(script, *times)).stdout.decode("utf-8", "replace")
        lines = [line for line in log.splitlines() if line.strip() and not line.startswith("--------- ")]
        if lines:
            found.append(self._offer_text("crash.log", "\n".join(lines) + "\n"))
        return found

    def _offer_text(self, name: str, text: str) -> Attachment:
        data = text.encode()

        async def open_it() -> BytesStream:
            return BytesStream(data)

        return self.offer(name, "text/plain", open_it, size=len(data))


def parse_dropbox(text: str) -> list[tuple[str, str, str]]:
    """Parse ``dumpsys dropbox --print``: time, tag and text of each entry, oldest first."""
    found = []
    for part in _RULE.split(text):
        entry = part.strip("\r\n")
        match = _HEAD.match(entry)
        if match is not None:
            found.append((match[1], match[2], entry + "\n"))
    return sorted(found)
