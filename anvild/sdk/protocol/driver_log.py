"""The log of a driver on its side of a connection: lines to the host, as far as it takes them."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import trio

from .messages import LogLine
from .streams import ItemOutlet

__all__ = ["DriverLog"]

LINE_LIMIT = 16384


class DriverLog:
    """Writes the lines of :attr:`anvild.sdk.DriverContext.log`. It may be called from any thread.

    Lines go to the host while it takes them; what it does not take is dropped and counted. Without a channel they go
    to standard error, as JSON.
    """

    def __init__(self, channel: ItemOutlet | None) -> None:
        self._channel = channel
        self._lost = 0
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self, level: str, event: str, **values: object) -> None:
        """Write one line."""
        line = LogLine(level=level, event=event, values=_plain(values))
        if self._channel is None:
            sys.stderr.write(msgspec.json.encode(line).decode() + "\n")
        elif _in_trio():
            self._send(line)
        else:
            self._token.run_sync_soon(self._send, line)

    def _send(self, line: LogLine) -> None:
        assert self._channel is not None
        if self._channel.send_nowait(msgspec.structs.replace(line, lost=self._lost)):
            self._lost = 0
        else:
            self._lost += 1


def _plain(values: dict[str, object]) -> dict[str, Any]:
    """Values that JSON can hold, and not more of them than a line may have."""
    try:
        encoded = msgspec.json.encode(values, enc_hook=repr)
    except (TypeError, ValueError, RecursionError):
        return {"values": ascii(values)[:LINE_LIMIT]}
    if len(encoded) > LINE_LIMIT:
        return {"values": encoded[:LINE_LIMIT].decode("utf-8", "ignore")}
    plain: dict[str, Any] = msgspec.json.decode(encoded)
    return plain


def _in_trio() -> bool:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True
