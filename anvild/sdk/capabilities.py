"""The capabilities: named groups of verbs that a driver's sessions may offer.

A session class inherits the capabilities that it can honestly do, and the driver names them in its description. What
is not declared is refused by the daemon before the driver is called.

Rules for every verb:

- It raises the errors of :mod:`anvild.sdk.errors` and no others.
- It has a deadline: the ``deadline`` of its :func:`verb` mark in seconds, or the caller's own. The daemon cancels a
  verb at its deadline; streams have none while they move.
- Cancelling it leaves the device usable: a started process is ended unless it carries a tag, a half-written file is
  removed. Cancellation must end the verb within one second.
- It is idempotent where it can be, because a caller who lost the answer calls again.
"""

from __future__ import annotations

import contextlib
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence

import msgspec
import trio

from .apps import Apps, AppTests, Attachments, CrashReports, Logs, Ports, ReversePorts, Screen
from .errors import DeadlineExceeded, WrongState
from .values import (
    Command,
    Completed,
    DeviceFact,
    DeviceRequest,
    Entry,
    Exit,
    NetworkUse,
    Output,
    ProcessInfo,
    Remedy,
    Sample,
    Stream,
    Template,
    TerminalSize,
)
from .verbs import Capability, verb

CLEAN_UP_SECONDS = 5.0


class Process(ABC):
    """A program that runs on a device.

    Iterate over it to receive its output in order; the iteration ends when the output has ended. One task may iterate
    at a time. Output is delivered with back-pressure: a reader that stops, stops the program when the device's own
    buffers are full, unless the process carries a tag, whose output is kept up to the driver's limit.
    """

    pid: int
    tag: str | None

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Output]: ...

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Write to standard input (or the terminal). Raises WrongState when input is closed or was not asked for."""

    @abstractmethod
    async def close_stdin(self) -> None:
        """Close standard input. Closing twice is fine."""

    @abstractmethod
    async def wait(self) -> Exit:
        """Return how the process ended. Output that nobody iterates over is dropped while waiting.

        Cancelling the wait does not end the process. Raises DeviceLost.
        """

    @abstractmethod
    async def signal(self, number: int) -> None:
        """Send a signal. A process that has ended is no error."""

    @abstractmethod
    async def resize(self, size: TerminalSize) -> None:
        """Change the size of its terminal. Raises WrongState when it has none."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of the process: one with a tag goes on running, one without is ended. Closing twice is fine."""

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


class Exec(Capability):
    """Run programs on the device."""

    capability = "exec"

    @abstractmethod
    @verb(deadline=30)
    async def start(self, command: Command) -> Process:
        """Start a program and return when it runs.

        Raises NotFound for a missing program, directory or user, PermissionDenied, AlreadyExists when the tag is in
        use, InvalidArgument, ResourceExhausted.
        """

    @abstractmethod
    @verb(deadline=30)
    async def attach(self, tag: str, *, replay: bool = False) -> Process:
        """Take a tagged process up again: one that runs, or one that has ended and was not collected yet.

        Output that was kept since the last reader is delivered first; how much is kept is the driver's
        ``facts["exec_kept_output"]`` in bytes. ``replay`` begins further back, with what earlier readers have already
        had, as far as it is kept: it is for a reader that cannot know how far the last one came. Raises NotFound when
        the device knows no such tag.
        """

    @abstractmethod
    @verb(deadline=30)
    async def processes(self) -> Sequence[ProcessInfo]:
        """List the processes of the device."""

    @abstractmethod
    @verb(deadline=30)
    async def kill(self, pid: int, number: int = 9) -> None:
        """Send a signal to any process of the device. Raises NotFound, PermissionDenied."""


class Files(Capability):
    """Move files to and from the device. Paths are absolute."""

    capability = "files"

    @abstractmethod
    @verb(deadline=30)
    async def read(self, path: str) -> trio.abc.ReceiveStream:
        """Open a file for reading as a byte stream with back-pressure. The caller closes it.

        Raises NotFound, PermissionDenied, InvalidArgument for a directory.
        """

    @abstractmethod
    @verb(deadline=float("inf"))
    async def write(
        self, path: str, source: AsyncIterable[bytes], *, mode: int = 0o644, user: str | None = None
    ) -> int:
        """Write a file from a stream and return its size. Missing parent directories are made.

        The file appears whole or not at all: it is written beside its place and renamed. When the source raises or
        the verb is cancelled, nothing is left behind. Raises PermissionDenied, ResourceExhausted for a full disk,
        InvalidArgument when the path is a directory.
        """

    @abstractmethod
    @verb(deadline=60)
    async def list(self, path: str, *, depth: int = 1) -> Sequence[Entry]:
        """List a directory, sorted by path; ``depth`` levels deep; links are not followed. Raises NotFound,
        InvalidArgument when the path is no directory."""

    @abstractmethod
    @verb(deadline=30)
    async def stat(self, path: str) -> Entry:
        """Describe one path; a link is described itself. Raises NotFound."""

    @abstractmethod
    @verb(deadline=30)
    async def mkdir(self, path: str, *, mode: int = 0o755, user: str | None = None) -> Entry:
        """Make a directory and its parents. Raises AlreadyExists when the path exists."""

    @abstractmethod
    @verb(deadline=300)
    async def remove(self, path: str) -> None:
        """Remove a file or a directory with all in it. Raises NotFound, PermissionDenied."""


class Power(Capability):
    """Restart the device."""

    capability = "power"

    @abstractmethod
    @verb(deadline=300)
    async def reboot(self) -> None:
        """Restart the device and return when it takes verbs again. Its processes are gone."""


class Pause(Capability):
    """Stand the device still and let it go on."""

    capability = "pause"

    @abstractmethod
    @verb(deadline=30)
    async def freeze(self) -> None:
        """Stop all execution on the device, in memory. A frozen device takes no other verb. Idempotent."""

    @abstractmethod
    @verb(deadline=30)
    async def thaw(self) -> None:
        """Let a frozen device go on. Idempotent."""


class Measure(Capability):
    """Measure what the device uses of its host."""

    capability = "measure"

    @abstractmethod
    @verb(deadline=5)
    async def sample(self) -> Sample:
        """Take one measurement. ``cpu`` is the mean since the previous call on this session."""


class Provision(Capability):
    """Make devices to order. A driver, not a session, implements this."""

    capability = "provision"

    @abstractmethod
    @verb(deadline=120)
    async def create(self, request: DeviceRequest) -> DeviceFact:
        """Make a device and return when it takes verbs.

        ``request.identity`` becomes the device's identity: a second call with the same identity returns the same
        device, so that a caller that lost the answer does not make two. Cancelling it leaves nothing behind.
        Raises NotFound for an unknown template, ResourceExhausted, InvalidArgument, AlreadyExists when the identity
        belongs to a device of another template.
        """

    @abstractmethod
    @verb(deadline=60)
    async def destroy(self, identity: str) -> None:
        """End a device and remove all that it left on its host. Idempotent: an unknown identity is no error."""

    @abstractmethod
    @verb(deadline=60)
    async def templates(self) -> Sequence[Template]:
        """List what devices can be made from."""


class Suspend(Capability):
    """Put whole devices aside on disk with their memory. A driver, not a session, implements this, beside Provision."""

    capability = "suspend"

    @abstractmethod
    @verb(deadline=120)
    async def suspend(self, identity: str) -> DeviceFact:
        """Move a device's memory to disk and free its memory. Its sessions end. Idempotent. Raises NotFound."""

    @abstractmethod
    @verb(deadline=120)
    async def resume(self, identity: str) -> DeviceFact:
        """Bring a suspended device back with its memory and processes; its clock is set right. Idempotent.

        Raises WrongState, with the difference in words, when the host cannot restore what was saved.
        """


class Snapshot(Capability):
    """Make templates of devices. A driver, not a session, implements this, beside Provision.

    Whether a template holds memory and processes, or files alone, is told by its ``fixed``. It keeps the default
    environment and account of the device's processes.
    """

    capability = "snapshot"

    @abstractmethod
    @verb(deadline=300)
    async def snapshot(self, identity: str, template: str, *, memory: bool = True) -> Template:
        """Make a template of a device, running or suspended; a running one goes on.

        Without ``memory`` it holds the files alone, of a device that runs. Cancelling it leaves no half template.
        Raises NotFound, AlreadyExists, ResourceExhausted, WrongState.
        """

    @abstractmethod
    @verb(deadline=60)
    async def remove_template(self, template: str) -> None:
        """Remove a template. Devices made from it live on. Raises NotFound, PermissionDenied for a built-in one."""


class Network(Capability):
    """Let devices out into a network, each as the :class:`NetworkPolicy` of its request says. A driver, not a session,
    implements this, beside Provision.

    A device without a policy has no network at all: what its programs connect to fails at once. One with a policy has
    the environment variables ``http_proxy``, ``https_proxy`` and ``all_proxy`` set for its programs.
    """

    capability = "network"

    @abstractmethod
    @verb(deadline=10)
    async def network_use(self, identity: str) -> NetworkUse:
        """Say what a device's programs have done on the network; all is 0 for one without. Raises NotFound."""


class ImageBuild(Capability):
    """Build base images from recipes. A driver implements this, beside Provision."""

    capability = "image_build"

    @abstractmethod
    @verb(deadline=1800)
    async def build_image(
        self, name: str, report: Callable[[str], Awaitable[None]], *, rebuild: bool = False
    ) -> Template:
        """Build the image of the recipe ``name``, or take it from the cache, and return its template.

        ``report`` is awaited with one line of progress at a time. Cancelling removes what was half done.
        Raises NotFound for an unknown recipe, Unavailable when a tool is missing (the message names it).
        """


class Mend(Capability):
    """Bring a device that does not answer back to work. A driver, not a session, implements this.

    The daemon climbs the remedies in the order of :class:`Remedy`, each within a budget, and quarantines the device
    when none has helped.
    """

    capability = "mend"

    @abstractmethod
    @verb(deadline=10)
    async def remedies(self, identity: str) -> Sequence[Remedy]:
        """Say which remedies exist for this device here and now. Raises NotFound."""

    @abstractmethod
    @verb(deadline=300)
    async def mend(self, identity: str, remedy: Remedy) -> str:
        """Apply one remedy, wait until the device takes verbs again, and say in one sentence what was done.

        Raises NotFound, Unavailable when the device still does not answer, CapabilityMissing for a remedy that
        :meth:`remedies` does not name. Idempotent.
        """


class Rehearsal(Capability):
    """Take simulated devices away and bring them back, so that the conformance kit can see a driver notice it.

    A driver with a simulator implements this; real devices are refused with WrongState.
    """

    capability = "rehearsal"

    @abstractmethod
    @verb(deadline=30)
    async def unplug(self, identity: str) -> None:
        """Pull a simulated device off. Idempotent. Raises NotFound, WrongState for a real one."""

    @abstractmethod
    @verb(deadline=30)
    async def plug(self, identity: str) -> None:
        """Bring a simulated device back with the same identity. Idempotent. Raises NotFound, WrongState."""


SESSION_CAPABILITIES: dict[str, type[Capability]] = {
    c.capability: c
    for c in (
        Exec,
        Files,
        Power,
        Pause,
        Measure,
        Apps,
        AppTests,
        Screen,
        Logs,
        Ports,
        ReversePorts,
        CrashReports,
        Attachments,
    )
}
"""Every capability that a session can offer, by name."""

DRIVER_CAPABILITIES: dict[str, type[Capability]] = {
    c.capability: c for c in (Provision, Suspend, Snapshot, Network, ImageBuild, Mend, Rehearsal)
}
"""Every capability that a driver itself can offer, by name."""


async def run(
    session: Exec, command: Command, *, stdin: bytes = b"", limit: int = 8 * 2**20, deadline: float = float("inf")
) -> Completed:
    """Run a program to its end and return its output, at most ``limit`` bytes a stream (the rest is dropped).

    ``deadline`` is in seconds. When it passes, or the call is cancelled, the program is ended, tag or not.
    Raises DeadlineExceeded and all that :meth:`Exec.start` raises.
    """
    kept: dict[Stream, bytearray] = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray()}
    truncated = False
    process = await session.start(msgspec.structs.replace(command, stdin=bool(stdin)))
    ended = False
    try:
        with trio.move_on_after(deadline):
            async with trio.open_nursery() as nursery:
                if stdin:
                    nursery.start_soon(_feed, process, stdin)
                async for chunk in process:
                    room = limit - len(kept[chunk.stream])
                    truncated = truncated or len(chunk.data) > room
                    kept[chunk.stream] += chunk.data[: max(room, 0)]
                status = await process.wait()
                nursery.cancel_scope.cancel()
            ended = True
            return Completed(
                exit=status,
                stdout=bytes(kept[Stream.STDOUT]),
                stderr=bytes(kept[Stream.STDERR]),
                truncated=truncated,
            )
        raise DeadlineExceeded(f"{command.argv[0]} did not end within {deadline:g} s and has been ended")
    except ExceptionGroup as group:  # the nursery's, around what the process raised
        first: Exception = group
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    finally:
        with trio.move_on_after(CLEAN_UP_SECONDS, shield=True):
            if not ended:
                await process.signal(signal.SIGKILL)
            await process.aclose()


async def _feed(process: Process, data: bytes) -> None:
    """Write all of ``data`` and close; a program that ends without reading its input is no error."""
    with contextlib.suppress(WrongState):
        await process.send(data)
        await process.close_stdin()
