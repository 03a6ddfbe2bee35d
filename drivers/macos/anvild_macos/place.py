"""Where the commands of one Mac run: here, or over a connection. What runs at the same time is bounded."""

from __future__ import annotations

import contextlib
import platform
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec
import trio

from anvild.sdk import (
    AnvilError,
    DeviceLost,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    TerminalSize,
    Unavailable,
)

from .child import CHUNK, Child, last_line, open_child
from .keeper import KEEPER, Keeper
from .shell import GO, fed, held, into_file, job, script

SESSIONS = 7
HOUSEKEEPING_SESSIONS = 2
CONNECT_PATIENCE = 20.0
BROKEN_SECONDS = 1.0
OUTPUT_LIMIT = 64 * 2**20
TRANSPORT_FAILED = 255

TERMINAL_JOB = 'stty sane 2>/dev/null; trap : INT QUIT; "$@"; exit "$?"'
SIGNAL = 'kill "-$1" -- "$2"'


class Done(msgspec.Struct, frozen=True):
    """A command that has ended, with all its output."""

    code: int
    out: bytes
    err: bytes

    @property
    def said(self) -> str:
        """The last line of its complaints, or of its output."""
        return last_line(self.err) or last_line(self.out) or f"exit code {self.code}"


class Connection:
    """One connection to a place, from its beginning to its end."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.reason = ""
        self.keeper: Keeper | None = None
        self.keeper_lock = trio.Lock()

    def end(self, reason: str) -> None:
        self.reason = reason
        self.ended.set()

    async def aclose(self) -> None:
        """Let go of what belongs to the connection."""
        if self.keeper is not None:
            await self.keeper.aclose()


class Place(ABC):
    """A Mac as a place to run commands. ``name`` is what the operator calls it.

    Verbs share :data:`SESSIONS` sessions, and wait for one when all are taken; looks, signals and cleaning have
    :data:`HOUSEKEEPING_SESSIONS` of their own, so that they never wait for a verb. With that of the keeper they are
    ten, which is what an sshd takes on one connection unless it is told otherwise.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.connection: Connection | None = None
        self.reason = f"the Mac {name!r} has not been reached yet"
        self.tried = False
        self.changed = trio.Event()
        self.restarting = False
        self._sessions = trio.CapacityLimiter(SESSIONS)
        self._housekeeping = trio.CapacityLimiter(HOUSEKEEPING_SESSIONS)

    # the connection

    @abstractmethod
    async def serve(self) -> None:
        """Keep the place reachable until cancelled."""

    @abstractmethod
    def command(self, words: Sequence[str], *, terminal: bool = False) -> list[str]:
        """Return the local command line that runs ``words`` there."""

    @abstractmethod
    async def reconnect(self) -> None:
        """Give the connection up for a new one. Raises Unavailable when there is none in time."""

    def came(self) -> Connection:
        """There is a connection now."""
        self.connection = Connection()
        self.reason = f"the Mac {self.name!r} is connected"
        self._tell()
        return self.connection

    def went(self, reason: str) -> None:
        """There is no connection any more, or still none, for ``reason``."""
        self.reason = reason
        if self.connection is not None:
            self.connection.end(reason)
            self.connection = None
        self._tell()

    def _tell(self) -> None:
        self.tried = True
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    async def connected(self, patience: float = CONNECT_PATIENCE) -> Connection:
        """Return the connection; wait for it for ``patience`` seconds. Raises Unavailable with the reason."""
        with trio.move_on_after(patience):
            while self.connection is None:
                await self.changed.wait()
            return self.connection
        raise Unavailable(self.reason)

    # commands

    async def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bool = False,
        terminal: TerminalSize | None = None,
        housekeeping: bool = False,
    ) -> Child:
        """Start a program and return when it runs; the caller closes it.

        With ``stdin`` its standard input is the child's; else it has none, unless it has a terminal. Raises NotFound,
        PermissionDenied, InvalidArgument, Unavailable, DeviceLost.
        """
        words = job(argv, env=env, cwd=cwd)
        if terminal is not None:
            words = script(TERMINAL_JOB, *words)
        elif stdin:
            words = fed(words)
        else:
            words = held(words)
        child = await self._open(words, terminal=terminal, housekeeping=housekeeping)
        try:
            await child.introduce(argv[0])
            if stdin and terminal is None:
                child.keeper = await self._keeper()
                await child.keeper.hold(child.pid)
                await child.stdin.send_all(GO)
        except BaseException:
            await child.aclose()
            raise
        return child

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        housekeeping: bool = False,
    ) -> Done:
        """Run a program to its end. Cancelling it ends the program. Raises as :meth:`start`."""
        child = await self.start(argv, env=env, housekeeping=housekeeping)
        return await finish(child)

    async def run_into_file(self, argv: Sequence[str], *, housekeeping: bool = False) -> Done:
        """Run a program that writes its answer into the file :data:`anvild_macos.shell.SLOT`, and return that answer
        as its output."""
        return await self.run(into_file(argv), housekeeping=housekeeping)

    async def start_raw(self, argv: Sequence[str]) -> Child:
        """Start a program whose standard input is the caller's, and that must end by itself when that ends. The caller
        closes it."""
        return await self._open(argv)

    @contextlib.asynccontextmanager
    async def feed(self, argv: Sequence[str]) -> AsyncIterator[Child]:
        """Have :meth:`start_raw` within a block."""
        child = await self.start_raw(argv)
        try:
            yield child
        finally:
            await child.aclose()

    async def signal(self, pid: int, number: int, *, group: bool = False) -> None:
        """Send a signal. Raises NotFound for a process that has ended, PermissionDenied."""
        target = f"-{pid}" if group else str(pid)
        done = await self.run(script(SIGNAL, str(number), target), housekeeping=True)
        if done.code and b"ermitted" in done.err:
            raise PermissionDenied(f"the process {pid} belongs to another account: {done.said}")
        if done.code:
            raise NotFound(f"there is no process {pid} on the Mac")

    async def _keeper(self) -> Keeper:
        """Return the keeper of the present connection."""
        connection = await self.connected()
        async with connection.keeper_lock:
            if connection.keeper is None:
                child = await self._open(script(KEEPER), limiter=trio.CapacityLimiter(1))
                connection.keeper = Keeper(child)
                if connection.ended.is_set():  # and so nobody will close it
                    await connection.aclose()
        return connection.keeper

    async def _open(
        self,
        words: Sequence[str],
        *,
        terminal: TerminalSize | None = None,
        housekeeping: bool = False,
        limiter: trio.CapacityLimiter | None = None,
    ) -> Child:
        limiter = limiter or (self._housekeeping if housekeeping else self._sessions)
        connection = await self.connected()
        holder = object()
        await limiter.acquire_on_behalf_of(holder)
        held_slot = [holder]

        def release() -> None:
            if held_slot:
                limiter.release_on_behalf_of(held_slot.pop())

        async def failed(code: int) -> AnvilError | None:
            if code != TRANSPORT_FAILED:
                return None
            with trio.move_on_after(BROKEN_SECONDS):
                await connection.ended.wait()
            if connection.ended.is_set():
                return DeviceLost(f"the connection to the Mac {self.name!r} broke: {connection.reason}")
            return None

        if connection.ended.is_set():  # it broke while this waited for a session
            release()
            raise DeviceLost(f"the connection to the Mac {self.name!r} broke: {connection.reason}")
        try:
            return await open_child(
                self.command(words, terminal=terminal is not None), failed, release, terminal=terminal
            )
        except OSError as error:
            release()
            raise ResourceExhausted(f"no child process can be started on this host: {error}") from error
        except BaseException:
            release()
            raise


class LocalPlace(Place):
    """The daemon's own host, where that is a Mac."""

    def __init__(self) -> None:
        super().__init__(platform.node().partition(".")[0].lower() or "localhost")

    async def serve(self) -> None:
        connection = self.came()
        try:
            await trio.sleep_forever()
        finally:
            self.went("the driver has been stopped")
            await connection.aclose()

    def command(self, words: Sequence[str], *, terminal: bool = False) -> list[str]:
        return list(words)

    async def reconnect(self) -> None:
        await trio.lowlevel.checkpoint()


async def finish(child: Child) -> Done:
    """Read a child to its end, and close it. Raises ResourceExhausted when it says more than is kept."""
    kept: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}

    async def read(name: str, stream: trio.abc.ReceiveStream) -> None:
        while chunk := await stream.receive_some(CHUNK):
            kept[name] += chunk
            if len(kept[name]) > OUTPUT_LIMIT:
                child_too_long.append(name)
                nursery.cancel_scope.cancel()

    child_too_long: list[str] = []
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, "out", child.stdout)
            if child.stderr is not None:
                nursery.start_soon(read, "err", child.stderr)
        if child_too_long:
            raise ResourceExhausted(f"a command on the Mac said more than {OUTPUT_LIMIT >> 20} MiB")
        code = await child.wait()
        return Done(code=code, out=bytes(kept["out"]), err=bytes(kept["err"]))
    finally:
        await child.aclose()


def refused(what: str, done: Done) -> AnvilError:
    """Turn a command's failure into an error of the interface, with the Mac's own words."""
    said = done.said
    message = f"{what}: {said}"
    whole = (done.err + done.out).decode(errors="replace")
    if "No space left" in whole:
        return ResourceExhausted(message)
    if "Operation not permitted" in whole or "Permission denied" in whole:
        return PermissionDenied(message)
    if "No such file" in whole or done.code == 127:
        return NotFound(message)
    return Unavailable(message)


def ended_by(code: int) -> int | None:
    """Return the number of the signal that an exit code of a shell tells of."""
    number = code - 128
    return number if number in signal.valid_signals() else None
