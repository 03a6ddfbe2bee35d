"""What the daemon says to systemd and takes from it: readiness, the watchdog, and sockets that were opened for it.

The protocol is a datagram of ``KEY=value`` lines (sd_notify(3)) and two environment variables (sd_listen_fds(3)), so
it needs no library. Outside systemd every call here does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

import trio

__all__ = ["Systemd", "inherited_sockets"]

FIRST_INHERITED_FD = 3


class Systemd:
    """The line to the service manager.

    ``address`` is the value of ``NOTIFY_SOCKET``: a path, or an abstract name that begins with ``@``; None makes every
    message a no-op. ``watchdog`` is the period in seconds within which systemd wants to hear from the daemon.
    """

    def __init__(self, address: str | None = None, watchdog: float | None = None) -> None:
        self.address = address
        self.watchdog = watchdog

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Systemd:
        """Read ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``."""
        period = environ.get("WATCHDOG_USEC")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog = int(period) / 1e6 if period and mine else None
        return cls(environ.get("NOTIFY_SOCKET") or None, watchdog)

    async def ready(self, status: str) -> None:
        """Say that the daemon serves (after a start, and after a reload), with one line for ``systemctl status``."""
        await self._send("READY=1", f"STATUS={status}")

    async def reloading(self) -> None:
        """Say that a reload has begun; :meth:`ready` ends it."""
        await self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    async def stopping(self, status: str = "stopping") -> None:
        """Say that the daemon goes down on its own account or because it was asked to."""
        await self._send("STOPPING=1", f"STATUS={status}")

    async def status(self, text: str) -> None:
        """Change the line that ``systemctl status`` shows."""
        await self._send(f"STATUS={text}")

    async def keep_alive(self) -> None:
        """Pet the watchdog at half its period for ever; return at once when there is none.

        It runs in the daemon's own loop: a loop that stands still is what the watchdog is there to find.
        """
        if self.address is None or self.watchdog is None:
            return
        while True:
            await self._send("WATCHDOG=1")
            await trio.sleep(self.watchdog / 2)

    async def _send(self, *lines: str) -> None:
        """Send one datagram. A service manager that went away is no reason to fail."""
        if self.address is None:
            await trio.lowlevel.checkpoint()
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        message = "\n".join(line.replace("\n", " ") for line in lines).encode()
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                await sock.sendto(message, address)
            except OSError:
                self.address = None


def inherited_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that systemd opened for this process (``LISTEN_FDS``), in the unit's order.

    They are made non-inheritable, so that no child process keeps the port open. An empty list when there are none.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environ.get("LISTEN_FDS", "0"))
    sockets = []
    for fd in range(FIRST_INHERITED_FD, FIRST_INHERITED_FD + count):
        os.set_inheritable(fd, False)
        sockets.append(socket.socket(fileno=fd))
    return sockets
