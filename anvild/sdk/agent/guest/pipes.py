"""Connections of the device's own programs, carried to the host: those that the host opens to a program that listens,
and those that programs open to the host."""

from __future__ import annotations

import collections
import os
import select
import socket

from .refusals import Refused, refused
from .streams import Stream
from .wire import ANSWER, DATA, EOF, FRAME_COST, PAYLOAD_LIMIT, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .agent import Agent
    from .streams import Steps

BACKLOG = 128
LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET


def check_port(port: object) -> int:
    if not isinstance(port, int) or not 0 < port < 65536:
        raise Refused("invalid_argument", f"{port!r} is no port")
    return port


class Pipe(Stream):
    """Carries the bytes of a connection both ways. Each direction ends by itself; the verb ends with the second."""

    def __init__(self, agent: Agent, sid: int) -> None:
        super().__init__(agent, sid)
        self.peer: socket.socket | None = None
        self.readable = False
        self.ended_here = False
        self.ended_there = False
        self.shut = False
        self.deaf = False
        self.pending: collections.deque[memoryview] = collections.deque()
        self.paid = 0

    def join(self, peer: socket.socket) -> None:
        """Carry this connection."""
        self.peer = peer
        self.readable = True
        self.send(ANSWER, pack({}))
        self.agent.poll.watch(peer.fileno(), self.on_event, EVENTS)
        self.agent.wake(self)

    def on_event(self, _fd: int, events: int) -> None:
        if events & ~select.EPOLLOUT:
            self.readable = True
            self.agent.wake(self)
        if events & select.EPOLLOUT:
            self.write()

    def pump(self) -> bool:
        size = min(PAYLOAD_LIMIT, self.credit - FRAME_COST)
        if self.peer is None or not self.readable or self.ended_here or size < PAYLOAD_LIMIT // 4:
            return False
        try:
            data = self.peer.recv(size)
        except BlockingIOError:
            self.readable = False
            return False
        except OSError as error:
            self.fail(refused(error, "the connection broke"))
            return False
        if not data:
            self.ended_here = True
            self.send(EOF)
            self.finish()
            return False
        self.credit -= len(data) + FRAME_COST
        self.send(DATA, data)
        return True

    def data(self, payload: bytes) -> None:
        self.pending.append(memoryview(payload))
        if self.deaf:
            self.forget_pending()
        else:
            self.write()

    def eof(self) -> None:
        self.ended_there = True
        self.write()

    def write(self) -> None:
        """Hand on what has come, as far as the program takes it; what it has taken is the host's to send anew."""
        if self.peer is None:
            return
        try:
            while self.pending:
                chunk = self.pending[0]
                sent = self.peer.send(chunk)
                self.paid += sent
                if sent < len(chunk):
                    self.pending[0] = chunk[sent:]
                    continue
                self.pending.popleft()
                self.repay(self.paid + FRAME_COST)
                self.paid = 0
            if self.ended_there and not self.shut:
                self.shut = True
                self.peer.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:  # what the program has said before it went is still there to be read, and then why it went
            self.deaf = self.readable = True
            self.agent.wake(self)
            self.forget_pending()
        self.finish()

    def forget_pending(self) -> None:
        """Drop what the program does not take any more, as if it had."""
        self.repay(self.paid + sum(len(chunk) + FRAME_COST for chunk in self.pending), at_once=True)
        self.paid = 0
        self.pending.clear()

    def finish(self) -> None:
        if self.ended_here and (self.ended_there or self.deaf) and not self.pending:
            self.end()

    def release(self) -> None:
        self.pending.clear()
        if self.peer is not None:
            self.agent.poll.unwatch(self.peer.fileno())
            self.peer.close()
            self.peer = None


class Connect(Pipe):
    """A connection to a program of the device that listens on a port of its own."""

    def __init__(self, agent: Agent, sid: int, port: int) -> None:
        super().__init__(agent, sid)
        self.port = check_port(port)
        self.places = list(LOOPBACKS)
        self.trial: socket.socket | None = None
        self.try_next()

    def try_next(self) -> None:
        """Begin to connect to the next place. Raises Refused when there is none."""
        error: OSError = ConnectionRefusedError(0, "nothing listens")
        while self.places:
            family, address = self.places.pop(0)
            try:
                self.trial = socket.socket(family)
                self.trial.setblocking(False)
                self.agent.poll.watch(self.trial.fileno(), self.on_connected, select.EPOLLOUT)
                self.trial.connect((address, self.port))
            except BlockingIOError:
                pass  # it is under way
            except OSError as trouble:
                error = trouble
                self.give_up()
                continue
            return
        raise refused(error, f"cannot connect to port {self.port} of the device")

    def on_connected(self, _fd: int, _events: int) -> None:
        trial = self.trial
        if trial is None:
            return
        trouble = trial.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not trouble:
            self.trial = None
            self.join(trial)
            return
        self.give_up()
        try:
            if not self.places:
                raise refused(
                    OSError(trouble, os.strerror(trouble)), f"cannot connect to port {self.port} of the device"
                )
            self.try_next()
        except Refused as refusal:
            self.fail(refusal)

    def give_up(self) -> None:
        if self.trial is not None:
            self.agent.poll.unwatch(self.trial.fileno())
            self.trial.close()
            self.trial = None

    def release(self) -> None:
        self.give_up()
        super().release()


class Listener:
    """A port of the device that leads to the host. It stays while no host is there; who connects then waits."""

    def __init__(self, agent: Agent, port: int) -> None:
        self.agent = agent
        self.waiting: collections.deque[Accept] = collections.deque()
        self.socket = socket.socket()
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.setblocking(False)
            self.socket.bind(("127.0.0.1", port))
            self.socket.listen(BACKLOG)
        except OSError as error:
            self.socket.close()
            raise refused(error, f"cannot listen on port {port} of the device") from None

    def add(self, stream: Accept) -> None:
        self.waiting.append(stream)
        self.agent.poll.watch(self.socket.fileno(), self.on_connection, select.EPOLLIN)

    def remove(self, stream: Accept) -> None:
        if stream in self.waiting:
            self.waiting.remove(stream)
            if not self.waiting:
                self.agent.poll.unwatch(self.socket.fileno())

    def on_connection(self, _fd: int, _events: int) -> None:
        try:
            peer = self.socket.accept()[0]
        except OSError:
            return
        peer.setblocking(False)
        stream = self.waiting[0]
        self.remove(stream)
        stream.join(peer)

    def close(self) -> None:
        for stream in list(self.waiting):
            stream.fail(Refused("wrong_state", "the device does not listen any more"))
        self.socket.close()


class Accept(Pipe):
    """The next connection that a program of the device opens to a port that leads to the host."""

    def __init__(self, agent: Agent, sid: int, port: int) -> None:
        super().__init__(agent, sid)
        listener = agent.listeners.get(port)
        if listener is None:
            raise Refused("wrong_state", f"the port {port!r} of the device does not lead to the host")
        self.listener = listener
        listener.add(self)

    def release(self) -> None:
        self.listener.remove(self)
        super().release()


def listen(agent: Agent, port: int) -> Steps:
    """Let a port lead to the host; doing it again is fine."""
    yield None
    if check_port(port) not in agent.listeners:
        agent.listeners[port] = Listener(agent, port)
    return None
