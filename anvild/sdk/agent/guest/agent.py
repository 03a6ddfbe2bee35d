"""The agent: one loop that serves the host's verbs."""

from __future__ import annotations

import collections
import os
import select
import signal
import struct
import sys
import time

from .channel import Channel
from .folders import describe, list_folder, make_folder, remove
from .machine import facts, memory_info, ping, set_identity
from .pipes import Accept, Connect, Listener, listen
from .poll import Poll
from .process import Process
from .processes import kill, list_processes
from .refusals import Refused
from .streams import Job, Stream
from .transfers import Reader, Writer
from .wire import (
    CLOSE,
    CONTROL,
    CREDIT,
    DATA,
    END,
    EOF,
    INFO,
    KEPT_EXITS,
    OPEN,
    PART,
    REQUEST_LIMIT,
    Garbled,
    pack,
    unpack,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from .streams import Steps
    from .wire import Message

PROCESS_LIMIT = 512
STREAM_LIMIT = 1024
STALL = 5.0  # seconds after which the output of a tagged process stops waiting for a reader that stands still

JOBS: dict[str, Callable[[Agent, Message], Steps]] = {
    "processes": lambda agent, m: list_processes(agent),
    "kill": lambda agent, m: kill(agent, m["pid"], m["signal"]),
    "stat": lambda agent, m: describe(agent, m["path"]),
    "list": lambda agent, m: list_folder(agent, m["path"], m["depth"]),
    "mkdir": lambda agent, m: make_folder(agent, m["path"], m["mode"], m.get("user")),
    "remove": lambda agent, m: remove(agent, m["path"]),
    "ping": lambda agent, m: ping(agent),
    "memory": lambda agent, m: memory_info(agent),
    "identity": set_identity,
    "listen": lambda agent, m: listen(agent, m["port"]),
}


class Agent:
    """The loop: the verbs in progress and the programs. The first argument is an open channel, or a listening socket
    that channels come from."""

    def __init__(self, fd: int, listener: bool = False) -> None:
        self.poll = Poll()
        self.streams: dict[int, Stream] = {}
        self.children: dict[int, Process] = {}
        self.tags: dict[str, Process] = {}
        self.listeners: dict[int, Listener] = {}
        self.stalled: set[Process] = set()
        self.ready: collections.deque[Stream] = collections.deque()
        self.defaults: Message = {}
        self.parts = bytearray()
        self.protected = protect()
        wake, waker = os.pipe()
        for end in (wake, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGPIPE, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.poll.watch(wake, self.reap, select.EPOLLIN)
        self.channel = Channel(self, fd, listener)

    # the host

    def greet(self) -> None:
        """A host has come: tell it what is here."""
        self.channel.send(INFO, 0, pack(facts(self)))

    def lose_host(self) -> None:
        """The host is gone: what it began ends, but for processes that have a tag."""
        self.parts.clear()
        for stream in list(self.streams.values()):
            stream.lost()
        self.streams.clear()
        for stream in self.ready:
            stream.queued = False
        self.ready.clear()

    def end(self) -> NoReturn:
        """No host will come any more: end with all processes."""
        for process in list(self.tags.values()):
            process.forget()
        sys.exit(0)

    def dispatch(self, kind: int, sid: int, payload: bytes) -> None:
        if kind == PART:
            self.parts += payload
            if len(self.parts) > REQUEST_LIMIT:
                raise Garbled("a request without end")
            return
        if kind == OPEN:
            request = unpack(bytes(self.parts) + payload)
            self.parts.clear()
            self.open(sid, request)
            return
        stream = self.streams.get(sid)
        if stream is None:
            return  # it has just ended
        if kind == DATA:
            stream.data(payload)
        elif kind == EOF:
            stream.eof()
        elif kind == CREDIT:
            stream.add_credit(struct.unpack("<I", payload)[0])
        elif kind == CLOSE:
            stream.close(payload[0])
        elif kind == CONTROL:
            try:
                stream.control(unpack(payload))
            except Refused as refusal:
                stream.send(CONTROL, pack({"error": refusal.code, "message": refusal.message}))

    def open(self, sid: int, message: Message) -> None:
        verb = message["verb"]
        try:
            stream = self.begin(sid, verb, message)
        except Refused as refusal:
            self.channel.send(END, sid, pack({"error": refusal.code, "message": refusal.message}))
            return
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            why = f"the request for {verb} is malformed: {error!r}"
            self.channel.send(END, sid, pack({"error": "invalid_argument", "message": why}))
            return
        if stream.sid is not None:
            self.streams[sid] = stream

    def begin(self, sid: int, verb: str, message: Message) -> Stream:
        if len(self.streams) >= STREAM_LIMIT:
            raise Refused("resource_exhausted", "too many verbs at once on this device")
        if verb == "exec":
            tag = message.get("tag")
            if tag in self.tags:
                state = "runs" if self.tags[tag].exit is None else "has ended and was not collected"
                raise Refused("already_exists", f"a process with the tag {tag!r} {state}")
            if len(self.children) >= PROCESS_LIMIT:
                raise Refused("resource_exhausted", f"{PROCESS_LIMIT} processes run already on this device")
            return Process(self, sid, message)
        if verb == "attach":
            process = self.tags.get(message["tag"])
            if process is None:
                raise Refused("not_found", "there is no process with the tag {!r}".format(message["tag"]))
            process.attach(sid, bool(message.get("replay")))
            return process
        if verb == "read":
            return Reader(self, sid, message["path"])
        if verb == "write":
            return Writer(self, sid, message["path"], message["mode"], message.get("user"))
        if verb == "connect":
            return Connect(self, sid, message["port"])
        if verb == "accept":
            return Accept(self, sid, message["port"])
        if verb in JOBS:
            return Job(self, sid, JOBS[verb](self, message))
        raise Refused("capability_missing", f"the guest agent knows no verb {verb!r}")

    def close_ports(self) -> None:
        """Let no port lead to the host any more."""
        for listener in self.listeners.values():
            listener.close()
        self.listeners.clear()

    # the streams

    def wake(self, stream: Stream) -> None:
        if not stream.queued:
            stream.queued = True
            self.ready.append(stream)

    def pump(self) -> None:
        for _ in range(len(self.ready)):
            if not self.channel.hungry():
                return
            stream = self.ready.popleft()
            stream.queued = False
            if stream.pump():
                self.wake(stream)

    def limit_exits(self) -> None:
        """Keep only so many ended processes that nobody has collected."""
        ended = [process for process in self.tags.values() if process.exit is not None and process.sid is None]
        for process in ended[: max(0, len(ended) - KEPT_EXITS)]:
            process.forget()

    def reap(self, fd: int, _events: int) -> None:
        try:
            os.read(fd, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            process = self.children.pop(pid, None)
            if process:
                process.ended(status)

    def release_stalled(self) -> None:
        """A tagged process whose reader stands still goes on; the oldest output is dropped."""
        now = time.monotonic()
        for process in list(self.stalled):
            if now - process.stalled > STALL:
                process.overflow = True
                process.hold(False)

    def turn(self) -> None:
        busy = (self.ready and self.channel.hungry()) or self.channel.eager()
        self.poll.wait(0 if busy else 1 if self.stalled else None)
        if self.channel.readable:
            self.channel.receive()
        if self.stalled:  # asked after the host was heard: a thawed guest finds that much time has passed
            self.release_stalled()
        self.pump()
        self.channel.flush()

    def run(self) -> NoReturn:
        while True:
            self.turn()


def protect() -> bool:
    """Be the last that the kernel kills when memory is short."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("-1000")
    except OSError:
        return False
    return True
