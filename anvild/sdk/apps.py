"""The capabilities of devices that people carry: apps and their tests, screen, logs, ports, crash reports.

The rules for every verb are those of :mod:`anvild.sdk.capabilities`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from datetime import datetime

import trio

from .values import App, Attachment, TestProgress, TestRequest, TestSummary
from .verbs import Capability, verb

__all__ = ["AppTests", "Apps", "Attachments", "CrashReports", "Logs", "Ports", "ReversePorts", "Screen"]


class Apps(Capability):
    """Install and drive apps. An app is named by its package name or bundle identifier."""

    capability = "apps"

    @abstractmethod
    @verb(deadline=900)
    async def install_app(self, source: AsyncIterable[bytes], *, size: int, replace: bool = True) -> App | None:
        """Install an app from its package of ``size`` bytes, and return what was installed where the platform tells.

        Cancelling it leaves no half-installed app and no package file. Raises InvalidArgument with the device's own
        words for a package that it refuses, AlreadyExists when it is installed and ``replace`` is False,
        ResourceExhausted for a full device.
        """

    @abstractmethod
    @verb(deadline=120)
    async def uninstall_app(self, app: str) -> None:
        """Remove an app with its data. Raises NotFound when it is not installed."""

    @abstractmethod
    @verb(deadline=60)
    async def launch_app(
        self, app: str, *, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        """Start an app and return when the device says that it runs. Raises NotFound, InvalidArgument for arguments
        that the platform cannot pass."""

    @abstractmethod
    @verb(deadline=60)
    async def stop_app(self, app: str) -> None:
        """End an app. One that does not run is no error. Raises NotFound when it is not installed."""

    @abstractmethod
    @verb(deadline=60)
    async def list_apps(self, *, system: bool = False) -> Sequence[App]:
        """List what is installed, sorted by identifier; with ``system``, the platform's own apps too."""

    @abstractmethod
    @verb(deadline=60)
    async def clear_app(self, app: str) -> None:
        """Bring an app's data back to that of a fresh installation. Raises NotFound."""


class AppTests(Capability):
    """Run the tests of an app with the platform's own runner."""

    capability = "app_tests"

    @abstractmethod
    @verb(deadline=float("inf"))
    async def run_tests(self, request: TestRequest, report: Callable[[TestProgress], Awaitable[None]]) -> TestSummary:
        """Run tests to their end, and tell of each case as it begins and ends.

        ``report`` is awaited in the order of the runner's own output, and also hands over that raw output and the
        attachments of tests. A failed test is a result and no error; a runner that crashed or could not begin is told
        by the summary. Cancelling it ends the runner and the app under test on the device. Raises NotFound when the
        runner is not installed, InvalidArgument.
        """


class Screen(Capability):
    """See the screen."""

    capability = "screen"

    @abstractmethod
    @verb(deadline=60)
    async def screenshot(self) -> trio.abc.ReceiveStream:
        """Take a picture of the screen and return it as a stream of PNG. The caller closes it."""

    @abstractmethod
    @verb(deadline=60)
    async def start_recording(self) -> None:
        """Begin to record the screen as video. Raises WrongState when this session records already.

        A limit of the platform on the length of one file does not end the recording: parts are chained. The end of
        the session ends it and removes what was not fetched.
        """

    @abstractmethod
    @verb(deadline=120)
    async def stop_recording(self) -> Sequence[Attachment]:
        """End the recording and return its parts in order, to be fetched by :meth:`Attachments.fetch`.

        Raises WrongState when nothing is recorded.
        """


class Logs(Capability):
    """Read the device's own log."""

    capability = "logs"

    @abstractmethod
    @verb(deadline=30)
    async def log_mark(self) -> str:
        """Return the present place in the log, in the device's own terms, for :meth:`logs`."""

    @abstractmethod
    @verb(deadline=30)
    async def logs(self, *, since: str | None = None, follow: bool = False) -> trio.abc.ReceiveStream:
        """Open the log as a stream of UTF-8 lines, from a mark on or as far back as the device has kept it.

        Without ``follow`` it ends at the present; with it, it goes on until the caller closes it. Raises
        InvalidArgument for a mark of another device or before its last start.
        """


class Ports(Capability):
    """Reach what listens on the device."""

    capability = "ports"

    @abstractmethod
    @verb(deadline=30)
    async def connect_port(self, port: int) -> trio.abc.Stream:
        """Connect to a TCP port of the device itself. The caller closes the stream, which is a
        :class:`trio.abc.HalfCloseableStream` where the platform can end one direction alone; what breaks the
        connection later raises ``trio.BrokenResourceError``. Raises Unavailable when nothing listens there,
        InvalidArgument for what is no port."""


class ReversePorts(Capability):
    """Let the device reach what listens on its host."""

    capability = "reverse_ports"

    @abstractmethod
    @verb(deadline=30)
    async def reverse_port(self, device_port: int, host_port: int) -> int:
        """Let connections to a port of the device arrive at a loopback port of the driver's host, until the session
        ends, and return the device's port; 0 lets the device choose one. Raises AlreadyExists when it is taken."""


class CrashReports(Capability):
    """Read what the device noted of crashed programs."""

    capability = "crash_reports"

    @abstractmethod
    @verb(deadline=120)
    async def crash_reports(self, *, since: datetime | None = None) -> Sequence[Attachment]:
        """List crash reports, oldest first, to be fetched by :meth:`Attachments.fetch`; ``since`` is the host's time,
        which the driver turns into the device's."""


class Attachments(Capability):
    """Fetch what other verbs have left: attachments of tests, parts of a recording, crash reports."""

    capability = "attachments"

    @abstractmethod
    @verb(deadline=60)
    async def fetch(self, reference: str) -> trio.abc.ReceiveStream:
        """Open an attachment by its reference as a byte stream. The caller closes it. It stays until the session ends
        at least. Raises NotFound."""
