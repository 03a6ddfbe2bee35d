"""Ends programs whose standard input is their caller's, and so cannot be what they live by."""

from __future__ import annotations

import trio

from anvild.sdk import DeviceLost

from .child import Child

PATIENCE = 5.0

# Told by lines which process groups to hold and to end; when no line can come any more, all that are held are ended.
KEEPER = """\
held=' '
end() { kill -TERM -- "-$1" 2>/dev/null; { sleep 2; kill -KILL -- "-$1"; } >/dev/null 2>&1 & }
while read -r verb pid; do
  case $verb in
    hold) held="$held$pid ";;
    drop) held="${held/ $pid / }";;
    end) held="${held/ $pid / }"; end "$pid";;
  esac
  echo "$verb $pid"
done
for pid in $held; do end "$pid"; done
wait
"""


class Keeper:
    """One small script at a place, for one connection. Its end, by whatever cause, ends the programs that it holds."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._lock = trio.Lock()

    async def hold(self, pid: int) -> None:
        """End the process group with the connection from now on. Raises DeviceLost."""
        await self._tell(f"hold {pid}")

    async def drop(self, pid: int) -> None:
        """Forget a process that has ended."""
        await self._tell(f"drop {pid}")

    async def end(self, pid: int) -> None:
        """End a process group: at first politely, after two seconds for good."""
        await self._tell(f"end {pid}")

    async def aclose(self) -> None:
        await self._child.aclose()

    async def _tell(self, words: str) -> None:
        line = f"{words}\n".encode()
        with trio.move_on_after(PATIENCE, shield=True):  # half an exchange would be the next one's answer
            async with self._lock:
                try:
                    await self._child.stdin.send_all(line)
                    heard = b""
                    while chunk := await self._child.stdout.receive_some():
                        heard += chunk
                        if heard == line:
                            return
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # the connection has ended, and with it what was held
        raise DeviceLost("the connection to the Mac broke")
