"""A Mac behind the system's ssh: one connection that is held, and all commands as sessions of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence

import trio

from anvild.sdk import Unavailable

from .child import CHUNK, last_line
from .place import Connection, Place
from .settings import HostSettings
from .shell import held, line, unknown_folder

CONNECTED = "connected"
CONNECT_SECONDS = 30.0
END_SECONDS = 4.0  # the script around ssh gives it two to end by itself
LAST_WORDS_SECONDS = 0.5
LONGEST_PAUSE = 60.0
KEPT_WORDS = 8192

OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
}


class SshPlace(Place):
    """A Mac that is reached over SSH.

    The system's own client knows the operator's keys, agent, jump hosts and known hosts. One child holds the
    connection; commands are sessions of it, and never make a connection of their own. When the connection ends, sshd
    closes the commands' standard input, which is what they live by.
    """

    def __init__(self, host: HostSettings, log: Callable[..., None]) -> None:
        super().__init__(host.name)
        self._host = host
        self._log = log
        self._folder = ""
        self._pause = 0.0
        self._impatient = trio.Event()
        self._master: trio.Process | None = None
        self._made: Connection | None = None

    @property
    def _socket(self) -> str:
        return f"{self._folder}/master"

    async def serve(self) -> None:
        try:
            while True:
                await self._connect()
                self._pause = min(max(1.0, 2 * self._pause), LONGEST_PAUSE)
                with trio.move_on_after(self._pause):
                    await self._impatient.wait()
                self._impatient = trio.Event()
        finally:
            self.went("the driver has been stopped")

    async def reconnect(self) -> None:
        """Give the connection up for a new one."""
        old = self.connection
        await self._hang_up()
        self._impatient.set()
        if old is not None:
            await old.ended.wait()
            self._impatient.set()
        await self.connected(CONNECT_SECONDS)

    def command(self, words: Sequence[str], *, terminal: bool = False) -> list[str]:
        # Without the held connection ssh would make one of its own: a proxy that fails forbids it.
        options = ["-S", self._socket, "-o", "ControlMaster=no", "-o", "ProxyCommand=false", "-o", "LogLevel=ERROR"]
        options += ["-o", "PermitLocalCommand=no"]
        return [*self._ssh(*options, "-tt" if terminal else "-T"), "--", self._host.address, line(words)]

    def _ssh(self, *options: str) -> list[str]:
        host = self._host
        words = ["ssh", *options]
        for name, value in OPTIONS.items():
            words += ["-o", f"{name}={value}"]
        for option, given in (("-F", host.ssh_config), ("-i", host.identity_file), ("-l", host.user)):
            words += [option, given] if given else []
        return [*words, "-p", str(host.port)] if host.port else words

    async def _connect(self) -> None:
        """Hold one connection from its beginning to its end. It lives by a pipe from here, as the commands do, and ends
        with this process however that ends."""
        self._folder = unknown_folder()
        words = self._ssh("-M", "-N", "-S", self._socket, "-o", "ControlPersist=no")
        # ssh runs its local command when the connection takes sessions: so it calls out, and nobody needs to ask.
        words += ["-o", "PermitLocalCommand=yes", "-o", f"LocalCommand=echo {CONNECTED}", "--", self._host.address]
        try:
            process = await trio.lowlevel.open_process(
                held(words, folder=self._folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self.went(f"ssh cannot be started on this host: {error.strerror}")
            return
        self._master = process
        said = bytearray()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with process.stdout, process.stderr, trio.open_nursery() as nursery:
                read = trio.Event()
                nursery.start_soon(_keep, process.stderr, said, read)
                nursery.start_soon(self._announce, process.stdout)
                await process.wait()
                with trio.move_on_after(LAST_WORDS_SECONDS):  # a jump host's ssh may hold the pipe open
                    await read.wait()
                nursery.cancel_scope.cancel()
            reason = explain(self._host, said.decode(errors="replace"))
            if reason != self.reason:
                self._log("warning", "a Mac cannot be reached", mac=self.name, reason=reason)
            self.went(reason)
        finally:
            connection, self._made = self._made, None
            with trio.CancelScope(shield=True):
                await process.stdin.aclose()
                if connection is not None:
                    await connection.aclose()
                with trio.move_on_after(END_SECONDS):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def _hang_up(self) -> None:
        if self._master is not None and self._master.stdin is not None:
            await self._master.stdin.aclose()

    async def _announce(self, stream: trio.abc.ReceiveStream) -> None:
        """Wait until ssh says that the connection is there."""
        heard = b""
        with trio.move_on_after(CONNECT_SECONDS) as patience:
            while CONNECTED.encode() not in heard:
                chunk = await stream.receive_some(CHUNK)
                if not chunk:
                    return
                heard += chunk
        if patience.cancelled_caught:
            self._log("warning", "a Mac did not answer in time", mac=self.name)
            await self._hang_up()
            return
        self._pause = 0.0
        self._log("info", "a Mac is connected", mac=self.name)
        self._made = self.came()


async def _keep(stream: trio.abc.ReceiveStream, said: bytearray, read: trio.Event) -> None:
    while chunk := await stream.receive_some(CHUNK):
        said += chunk
        del said[:-KEPT_WORDS]
    read.set()


def explain(host: HostSettings, said: str) -> str:
    """Say in a sentence why a connection could not be made or has ended, and what to do."""
    mac, address = f"the Mac {host.name!r}", host.address
    once = " ".join(
        [
            "ssh",
            *(["-F", host.ssh_config] if host.ssh_config else []),
            *(["-p", str(host.port)] if host.port else []),
            f"{host.user}@{address}" if host.user else address,
        ]
    )
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        known = f"[{address}]:{host.port}" if host.port else address
        return (
            f"{mac} shows another host key than before: if it was installed anew, remove the old key with "
            f"`ssh-keygen -R {known}` as the daemon's user; if not, somebody stands in between"
        )
    if "Host key verification failed" in said:
        return (
            f"the host key of {mac} is not known: run `{once}` once as the daemon's user, compare the fingerprint "
            "with the Mac's, and accept it"
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        return (
            f"{mac} refuses the daemon's key: put its public key into ~/.ssh/authorized_keys of that account on the "
            f"Mac, then try `{once}` as the daemon's user"
        )
    if "Connection refused" in said:
        return f"{mac} refuses connections: turn on Remote Login in its settings under General, Sharing"
    if "Could not resolve hostname" in said:
        return f"the name {address!r} of {mac} cannot be resolved: correct `address` in [[drivers.macos.hosts]]"
    if "timed out" in said or "No route to host" in said or "not responding" in said:
        return f"{mac} does not answer at {address}: see that it is switched on, awake and in the network"
    return f"the connection to {mac} ended: {last_line(said.encode()) or 'ssh gave no reason'}"


def need_ssh() -> None:
    """Raise Unavailable where there is no ssh."""
    if shutil.which("ssh") is None:
        raise Unavailable("Macs are reached with the system's ssh, which is not here: install openssh-client")
