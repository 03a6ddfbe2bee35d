"""The way to the host, over which frames come and go.

A host may vanish in the middle of a frame and another come at once: every connection begins with MAGIC and a fresh
nonce, and MAGIC never occurs inside a frame from the host.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import struct

from .wire import CLOSE, HEADER, MAGIC, NONCE_SIZE, OPEN, PAYLOAD_LIMIT, Garbled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .agent import Agent

OUT_HIGH = 262144  # data waits in its stream above this
OUT_STOP = 1048576  # nothing more is taken from the host above this
READ_BUDGET = 524288


class Channel:
    """A byte channel to one host at a time. The agent is told of frames, of a new host, and when the host is gone."""

    def __init__(self, agent: Agent, fd: int, listener: bool) -> None:
        self.agent = agent
        self.fd = -1
        self.listener: socket.socket | None = None
        self.readable = False
        self.nonce: bytes | None = None
        self.synced = False
        self.buffer = bytearray()
        self.out = bytearray()
        self.blocks = bytearray(PAYLOAD_LIMIT)
        view = memoryview(self.blocks)
        self.pages = [view[at : at + 4096] for at in range(0, PAYLOAD_LIMIT, 4096)]
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        if listener:
            self.listener = socket.socket(fileno=fd)
            agent.poll.watch(fd, self.accept, select.EPOLLIN)
        else:
            self.take(fd)

    def hungry(self) -> bool:
        """True when there is room for more output."""
        return len(self.out) < OUT_HIGH

    def eager(self) -> bool:
        """True when something may be there to receive, and the host takes its answers."""
        return self.readable and len(self.out) < OUT_STOP

    def accept(self, _fd: int, _events: int) -> None:
        if self.listener is None:
            return
        try:
            peer = self.listener.accept()[0]
        except OSError:
            return
        if self.fd >= 0:
            self.receive()  # what the last host has said before it left
        if self.fd >= 0:
            self.drop()
        peer.setblocking(False)
        self.take(peer.detach())

    def take(self, fd: int) -> None:
        self.fd = fd
        # Edge-triggered: a virtio port whose host is away reports a hang-up all the time.
        self.agent.poll.watch(fd, self.on_event, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        self.reset()
        self.out += MAGIC + bytes(NONCE_SIZE)
        self.readable = True

    def drop(self) -> None:
        self.reset()
        self.agent.poll.unwatch(self.fd)
        os.close(self.fd)
        self.fd = -1
        self.readable = False

    def on_event(self, _fd: int, events: int) -> None:
        if events & ~select.EPOLLOUT:
            self.readable = True

    def reset(self) -> None:
        """The host is gone, or another one has come."""
        self.nonce = None
        self.synced = False
        del self.buffer[:], self.out[:]
        self.agent.lose_host()

    def receive(self) -> None:
        """Take what has come, up to a budget, and act on it."""
        taken = 0
        while taken < READ_BUDGET and len(self.out) < OUT_STOP:
            try:
                count = os.readv(self.fd, self.pages)
            except BlockingIOError:
                self.readable = False
                break
            except OSError:
                count = 0
            if not count:
                self.hang_up()
                return
            taken += count
            seen = max(0, len(self.buffer) - len(MAGIC) + 1) if self.synced else 0
            self.buffer += memoryview(self.blocks)[:count]
            self.parse(seen)

    def hang_up(self) -> None:
        self.readable = False
        if stat.S_ISCHR(os.fstat(self.fd).st_mode):
            # A port stays; its host comes back. Its greeting may have been read and forgotten by now, because the port
            # hands data out before it tells that a host is there: ask for it again as soon as the port can be written.
            self.reset()
            self.out += MAGIC + bytes(NONCE_SIZE)
        elif self.listener:
            self.drop()
        else:
            self.reset()
            self.agent.end()

    def parse(self, seen: int) -> None:
        buffer = self.buffer
        start = buffer.rfind(MAGIC, seen)
        if start >= 0:
            if len(buffer) < start + len(MAGIC) + NONCE_SIZE:
                self.synced = False
                del buffer[:start]
                return
            nonce = bytes(buffer[start + len(MAGIC) : start + len(MAGIC) + NONCE_SIZE])
            rest = bytes(buffer[start + len(MAGIC) + NONCE_SIZE :])
            if nonce != self.nonce:
                self.reset()
                self.nonce = nonce
                self.out += MAGIC + nonce
                self.agent.greet()
            self.synced = True
            buffer[:] = rest
        elif not self.synced:
            del buffer[: -(len(MAGIC) + NONCE_SIZE)]
            return
        at, size = 0, len(buffer)
        while size - at >= HEADER.size:
            kind, length, sid = HEADER.unpack_from(buffer, at)
            if length > PAYLOAD_LIMIT or not OPEN <= kind <= CLOSE:
                self.reset()
                return
            if size - at - HEADER.size < length:
                break
            at += HEADER.size
            try:
                self.agent.dispatch(kind, sid, bytes(memoryview(buffer)[at : at + length]))
            except (Garbled, struct.error, KeyError, TypeError, ValueError, AttributeError, OverflowError):
                self.reset()
                return
            at += length
        del buffer[:at]

    def send(self, kind: int, sid: int, payload: bytes) -> None:
        self.out += HEADER.pack(kind, len(payload), sid)
        self.out += payload

    def flush(self) -> None:
        while self.out and self.fd >= 0:
            try:
                with memoryview(self.out) as view:
                    sent = os.write(self.fd, view[:OUT_HIGH])
            except BlockingIOError:
                return
            except OSError:
                self.readable = True  # reading will tell that the host has gone
                return
            del self.out[:sent]
