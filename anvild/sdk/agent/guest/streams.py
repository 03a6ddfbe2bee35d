"""Verbs in progress: what every stream is, verbs that are generators, and output that waits."""

from __future__ import annotations

import collections
import struct
import time

from .refusals import Refused, refused
from .wire import CREDIT, DATA, END, FRAME_COST, PAYLOAD_LIMIT, WINDOW, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from .agent import Agent
    from .wire import Message

    Chunk = tuple[int, bytes]
    Steps = Generator[object, None, Message | None]

SLICE = 0.004  # seconds that a long job may hold the loop
BATCH = 32768


def cost_of(chunk: Chunk) -> int:
    return len(chunk[1]) + FRAME_COST


class Chunks:
    """A queue of output chunks with its total cost."""

    def __init__(self) -> None:
        self.items: collections.deque[Chunk] = collections.deque()
        self.cost = 0

    def add(self, chunk: Chunk) -> None:
        self.items.append(chunk)
        self.cost += cost_of(chunk)

    def take(self) -> Chunk:
        chunk = self.items.popleft()
        self.cost -= cost_of(chunk)
        return chunk

    def put_back(self, others: Chunks) -> None:
        """Put all of ``others``, which came before, in front."""
        self.items.extendleft(reversed(others.items))
        self.cost += others.cost
        others.items.clear()
        others.cost = 0

    def trim(self, limit: int) -> int:
        """Drop the oldest down to ``limit``; return how many bytes were dropped."""
        dropped = 0
        while self.cost > limit:
            dropped += len(self.take()[1])
        return dropped


class Stream:
    """One verb in progress. The host gives credit for what the guest sends, and the guest for what the host sends."""

    def __init__(self, agent: Agent, sid: int) -> None:
        self.agent = agent
        self.sid: int | None = sid
        self.credit = WINDOW
        self.owed = 0
        self.queued = False

    def send(self, kind: int, data: bytes = b"") -> None:
        if self.sid is not None:
            self.agent.channel.send(kind, self.sid, data)

    def leave(self) -> None:
        """Be no longer known by the stream's number."""
        if self.sid is not None:
            self.agent.streams.pop(self.sid, None)
            self.sid = None

    def end(self, **result: object) -> None:
        self.send(END, pack(result))
        self.leave()
        self.release()

    def fail(self, refusal: Refused) -> None:
        self.end(error=refusal.code, message=refusal.message)

    def repay(self, amount: int, at_once: bool = False) -> None:
        """Give credit back to the host, in large notes."""
        self.owed += amount
        if self.owed >= WINDOW // 4 or (at_once and self.owed):
            self.send(CREDIT, struct.pack("<I", self.owed))
            self.owed = 0

    def add_credit(self, amount: int) -> None:
        self.credit += amount
        self.agent.wake(self)

    def pump(self) -> bool:
        """Send one piece when there is one and credit for it; tell whether there may be another at once."""
        return False

    def data(self, payload: bytes) -> None:
        """Take a chunk from the host."""

    def eof(self) -> None:
        """The host has sent all."""

    def control(self, message: Message) -> None:
        """Take a message for the verb in progress."""

    def close(self, how: int) -> None:
        """The host lets go."""
        self.leave()
        self.release()

    def lost(self) -> None:
        """The connection is gone."""
        self.release()

    def release(self) -> None:
        """Let go of everything; called at any end, perhaps twice."""


class Job(Stream):
    """A verb as a generator: it yields items to send, or None to let others have a turn, and returns its result."""

    def __init__(self, agent: Agent, sid: int, steps: Steps) -> None:
        super().__init__(agent, sid)
        self.steps = steps
        self.batch: list[bytes] = []
        self.size = 0
        agent.wake(self)

    def pump(self) -> bool:
        if self.credit < PAYLOAD_LIMIT + FRAME_COST:
            return False
        until = time.monotonic() + SLICE
        while time.monotonic() < until:
            try:
                item = next(self.steps)
            except StopIteration as stop:
                self.flush()
                self.end(**(stop.value or {}))
                return False
            except OSError as error:
                self.fail(refused(error, f"{error.filename!r}" if error.filename else "the operation"))
                return False
            except (TypeError, ValueError, OverflowError) as error:
                self.fail(Refused("invalid_argument", f"the request is malformed: {error!r}"))
                return False
            except Refused as refusal:
                self.fail(refusal)
                return False
            if item is not None:
                packed = pack(item)
                self.batch.append(packed)
                self.size += len(packed)
                if self.size > BATCH:
                    self.flush()
                    return True
        return True

    def flush(self) -> None:
        if self.batch:
            payload = struct.pack("<cI", b"l", len(self.batch)) + b"".join(self.batch)
            self.credit -= len(payload) + FRAME_COST
            self.send(DATA, payload)
            self.batch, self.size = [], 0

    def release(self) -> None:
        self.steps.close()
