"""A program in progress, and its output, which may wait for a reader."""

from __future__ import annotations

import collections
import os
import select
import time

from .processes import kill_tree, send_signal
from .programs import set_size, start_process
from .streams import Chunks, Stream, cost_of
from .wire import (
    ANSWER,
    CLOSE_COLLECTED,
    CLOSE_UNDO,
    CONTROL,
    END,
    FRAME_COST,
    KEPT_OUTPUT,
    PAYLOAD_LIMIT,
    WINDOW,
    pack,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .agent import Agent
    from .wire import Message

SETTLE_READS = 32


class Process(Stream):
    """A program. With a tag it outlives its stream; ``sid`` is None while nobody reads.

    Output waits in ``queue``, is in ``flight`` until the host gives credit for it, then is ``history``. When a reader
    of a tagged process goes away, what was in flight waits again; history serves a reader that wants to see it anew.
    """

    def __init__(self, agent: Agent, sid: int, request: Message) -> None:
        super().__init__(agent, sid)
        self.tag = request.get("tag")
        self.terminal = bool(request.get("terminal"))
        self.exit: dict[str, int] | None = None
        self.end_told = False
        self.wanted = True
        self.queue, self.flight, self.history = Chunks(), Chunks(), Chunks()
        self.acknowledged = 0
        self.dropped = 0
        self.stalled = 0.0
        self.overflow = False
        self.paused = False
        self.input: collections.deque[tuple[memoryview, int]] = collections.deque()
        self.input_ends = False
        self.pid, self.stdin, self.outputs = start_process(agent, request)
        for fd in self.outputs:
            agent.poll.watch(fd, self.readable, select.EPOLLIN)
        agent.children[self.pid] = self
        if self.tag:
            agent.tags[self.tag] = self
        self.send(ANSWER, pack({"pid": self.pid}))

    # output

    def readable(self, fd: int, _events: int) -> None:
        if self.stuffed():
            self.hold(True)
            return
        try:
            data = os.read(fd, PAYLOAD_LIMIT)
        except BlockingIOError:
            if self.exit is not None:  # all that the program itself wrote has been read; others may hold the pipe
                self.drop_output(fd, drain=True)
            return
        except OSError:  # a terminal that nobody holds any more
            data = b""
        if not data:
            self.drop_output(fd)
            return
        kind, last = self.outputs[fd], self.queue.items[-1] if self.queue.items else None
        if last and last[0] == kind and len(last[1]) + len(data) <= PAYLOAD_LIMIT // 4:
            self.queue.items[-1] = (kind, last[1] + data)
            self.queue.cost += len(data)
        else:
            self.queue.add((kind, data))
        if self.unread():
            self.dropped += self.queue.trim(KEPT_OUTPUT)
        self.agent.wake(self)

    def unread(self) -> bool:
        """True when output is kept and the oldest dropped, instead of the program being held up."""
        return self.tag is not None and (self.sid is None or self.overflow)

    def stuffed(self) -> bool:
        return self.queue.cost >= KEPT_OUTPUT // 2 and not self.unread()

    def hold(self, paused: bool) -> None:
        """Stop or start listening to the program's output."""
        if paused == self.paused:
            return
        self.paused = paused
        for fd in self.outputs:
            if paused:
                self.agent.poll.unwatch(fd)
            else:
                self.agent.poll.watch(fd, self.readable, select.EPOLLIN)
        self.agent.stalled.discard(self)
        if paused and self.tag:
            self.stalled = time.monotonic()
            self.agent.stalled.add(self)
        if not paused and self.exit is not None:
            self.settle()

    def settle(self) -> None:
        """The program has ended: read all that it wrote, and leave pipes that its children still hold."""
        for fd in list(self.outputs):
            for _ in range(SETTLE_READS):
                if fd not in self.outputs or self.paused:
                    break
                self.readable(fd, 0)
            else:
                if fd in self.outputs:
                    self.drop_output(fd, drain=True)

    def drop_output(self, fd: int, drain: bool = False) -> None:
        del self.outputs[fd]
        self.agent.poll.unwatch(fd)
        if drain:
            self.agent.poll.drain(fd)
        else:
            os.close(fd)
        self.agent.wake(self)

    def pump(self) -> bool:
        if self.sid is None or self.end_told:
            return False
        if self.queue.items:
            if cost_of(self.queue.items[0]) > self.credit:
                return False
            chunk = self.queue.take()
            self.credit -= cost_of(chunk)
            if self.tag:
                self.flight.add(chunk)
            self.send(*chunk)
            if not self.stuffed():
                self.hold(False)
            return True
        if self.exit is not None and not self.outputs:
            self.end_told = True
            self.send(END, pack(dict(self.exit, dropped=self.dropped)))
            if not self.tag:
                self.leave()
                self.release()
        return False

    def add_credit(self, amount: int) -> None:
        self.acknowledged += amount
        while self.flight.items and cost_of(self.flight.items[0]) <= self.acknowledged:
            chunk = self.flight.take()
            self.acknowledged -= cost_of(chunk)
            self.history.add(chunk)
        self.history.trim(KEPT_OUTPUT)
        self.overflow = False
        super().add_credit(amount)

    def ended(self, status: int) -> None:
        if os.WIFSIGNALED(status):
            self.exit = {"signal": os.WTERMSIG(status)}
        else:
            self.exit = {"code": os.WEXITSTATUS(status)}
        self.close_stdin()
        self.settle()
        if self.wanted and self.sid is None:
            self.agent.limit_exits()
        self.agent.wake(self)

    # input

    def data(self, payload: bytes) -> None:
        if self.stdin is None or self.input_ends:
            self.repay(len(payload) + FRAME_COST)
            return
        self.input.append((memoryview(payload), len(payload) + FRAME_COST))
        self.feed()

    def feed(self, *_event: int) -> None:
        while self.input and self.stdin is not None:
            view, cost = self.input[0]
            try:
                written = os.write(self.stdin, view)
            except BlockingIOError:
                written = 0
            except OSError:  # the program has closed its input
                self.repay(sum(cost for _, cost in self.input), at_once=True)
                self.input.clear()
                self.send(CONTROL, pack({"stdin": "closed"}))
                self.close_stdin()
                return
            if written < len(view):
                self.input[0] = (view[written:], cost)
                self.agent.poll.watch(self.stdin, self.feed, select.EPOLLOUT)
                return
            self.input.popleft()
            self.repay(cost)
        self.repay(0, at_once=True)
        if self.stdin is not None:
            self.agent.poll.unwatch(self.stdin)
        if self.input_ends:
            self.close_stdin()

    def eof(self) -> None:
        if self.terminal and self.stdin is not None:
            self.input.append((memoryview(b"\x04"), 0))
            self.feed()
            return
        self.input_ends = True
        if not self.input:
            self.close_stdin()

    def close_stdin(self) -> None:
        if self.stdin is not None:
            self.agent.poll.unwatch(self.stdin)
            os.close(self.stdin)
            self.stdin = None

    # the reader

    def control(self, message: Message) -> None:
        if "signal" in message and self.exit is None:
            send_signal(os.killpg, self.pid, message["signal"])
        if "size" in message and self.terminal and self.stdin is not None:
            set_size(self.stdin, message["size"])

    def attach(self, sid: int, replay: bool) -> None:
        if self.sid is not None:
            why = f"another reader has taken the process {self.tag!r} over"
            self.send(END, pack({"error": "wrong_state", "message": why}))
            self.detach()
        if replay:
            self.queue.put_back(self.history)
            self.dropped += self.queue.trim(KEPT_OUTPUT)
        self.sid, self.credit, self.owed, self.acknowledged, self.end_told = sid, WINDOW, 0, 0, False
        self.input = collections.deque((view, 0) for view, _ in self.input)
        answer = {"pid": self.pid, "terminal": self.terminal, "stdin": self.stdin is not None, "dropped": self.dropped}
        self.send(ANSWER, pack(answer))
        self.agent.wake(self)

    def detach(self) -> None:
        self.leave()
        self.queue.put_back(self.flight)
        self.dropped += self.queue.trim(KEPT_OUTPUT)
        self.hold(False)
        if self.exit is not None:
            self.agent.limit_exits()

    def close(self, how: int) -> None:
        if self.tag is None or how == CLOSE_UNDO or (how == CLOSE_COLLECTED and self.exit is not None):
            self.forget()
        else:
            self.detach()

    def lost(self) -> None:
        if self.tag is None:
            self.forget()
        else:
            self.detach()

    def forget(self) -> None:
        """Nobody will ask for it again: end it with all its descendants."""
        self.wanted = False
        self.leave()
        if self.exit is None:
            kill_tree(self.pid)
        self.release()

    def release(self) -> None:
        if self.tag and self.agent.tags.get(self.tag) is self:
            del self.agent.tags[self.tag]
        self.close_stdin()
        for fd in list(self.outputs):
            self.drop_output(fd)
        self.agent.stalled.discard(self)
        self.queue, self.flight, self.history = Chunks(), Chunks(), Chunks()
