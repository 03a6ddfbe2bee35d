"""The guest agent: one file that serves the verbs of exec and files inside a device, over any byte channel.

It needs nothing but a Python 3.9 with a minimal standard library (no json, pty, termios, shutil, ctypes), so it is
copied into a guest and started there. It cannot import its neighbours: ``protocol.py`` describes the wire and repeats
the constants below; a test keeps the two equal.

    guest.py port NAME|PATH     a virtio-serial port, by its name or its device path
    guest.py connect PATH       a unix socket that it connects to
    guest.py listen PATH|FD     a unix socket that it listens on, or an inherited listening one; the newest peer counts
    guest.py fd N               an inherited descriptor

One thread, one epoll loop, nothing blocks but disk I/O. A host may vanish in the middle of a frame and another come at
once: every connection begins with MAGIC and a fresh nonce, and MAGIC never occurs inside a frame from the host.
"""

from __future__ import annotations

import collections
import errno
import fcntl
import grp
import os
import pwd
import select
import signal
import socket
import stat
import struct
import sys
import time

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, which a minimal Python takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any, NoReturn

    Account = pwd.struct_passwd
    Chunk = tuple[int, bytes]
    Handler = Callable[[int, int], None]
    Message = dict[str, Any]
    Steps = Generator[object, None, Message | None]
    Folders = list[tuple[str, list[tuple[str, bool]] | None]]

VERSION = 1
MAGIC = bytes.fromhex("f1a9c6d2b8e3979fd4c0a5eb86b1dce7")
NONCE_SIZE = 16
HEADER = struct.Struct("<BII")
PAYLOAD_LIMIT = 65536
WINDOW = 262144
FRAME_COST = 64
OPEN, PART, DATA, EXTRA, EOF, CREDIT, CONTROL, CLOSE, ANSWER, END, INFO = range(1, 12)
CLOSE_RELEASE, CLOSE_COLLECTED, CLOSE_UNDO = range(3)
KEPT_OUTPUT = 262144
KEPT_EXITS = 64
REQUEST_LIMIT = 1048576

PROCESS_LIMIT = 512
STREAM_LIMIT = 1024
DRAIN_LIMIT = 128
OUT_HIGH = 262144  # data waits in its stream above this
OUT_STOP = 1048576  # nothing more is taken from the host above this
READ_BUDGET = 524288
SETTLE_READS = 32
SLICE = 0.004  # seconds that a long job may hold the loop
STALL = 5.0  # seconds after which the output of a tagged process stops waiting for a reader that stands still
BATCH = 32768
NEST_LIMIT = 8
COMMAND_LIMIT = 4096

TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
PATH_DEFAULT = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RUN_DIR = "/run/anvil-agent"
BOOT_ID = "/proc/sys/kernel/random/boot_id"

ERRNO_CODES = {
    "not_found": (errno.ENOENT, errno.ESRCH, errno.ENXIO, errno.ENODEV),
    "permission_denied": (errno.EACCES, errno.EPERM, errno.EROFS),
    "already_exists": (errno.EEXIST,),
    "resource_exhausted": (
        errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EFBIG, errno.EMLINK,
    ),
    "invalid_argument": (
        errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOEXEC, errno.E2BIG,
    ),
    "wrong_state": (errno.EBUSY, errno.ETXTBSY, errno.ENOTEMPTY),
}  # fmt: skip
CODE_OF = {number: code for code, numbers in ERRNO_CODES.items() for number in numbers}


class Refused(Exception):
    """A verb's failure: an error code of the stable interface and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Garbled(Exception):
    """What came from the host is no protocol: forget the connection and wait for the next one."""


def refused(error: OSError, what: str) -> Refused:
    """Turn an OSError into a Refused with a sentence that begins with what was tried."""
    code = CODE_OF.get(error.errno or 0, "unavailable")
    return Refused(code, f"{what}: {(error.strerror or str(error)).lower()}")


def pack(value: object) -> bytes:
    out = bytearray()
    pack_into(out, value)
    return bytes(out)


def pack_into(out: bytearray, value: Any) -> None:
    if value is None:
        out += b"n"
    elif value is True or value is False:
        out += b"t" if value else b"f"
    elif isinstance(value, int):
        out += struct.pack("<cq", b"i", value)
    elif isinstance(value, float):
        out += struct.pack("<cd", b"d", value)
    elif isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
        out += struct.pack("<cI", b"s", len(data)) + data
    elif isinstance(value, bytes):
        out += struct.pack("<cI", b"b", len(value)) + value
    elif isinstance(value, dict):
        out += struct.pack("<cI", b"m", len(value))
        for key, item in value.items():
            pack_into(out, key)
            pack_into(out, item)
    else:
        out += struct.pack("<cI", b"l", len(value))
        for item in value:
            pack_into(out, item)


def unpack(data: bytes) -> Any:
    value, end = unpack_from(data, 0, 0)
    if end != len(data):
        raise Garbled("trailing bytes")
    return value


def unpack_from(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    tag = data[at : at + 1]
    at += 1
    if tag in (b"n", b"t", b"f"):
        return {b"n": None, b"t": True, b"f": False}[tag], at
    if tag in (b"i", b"d"):
        return struct.unpack_from("<q" if tag == b"i" else "<d", data, at)[0], at + 8
    if tag not in (b"s", b"b", b"l", b"m") or depth > NEST_LIMIT:
        raise Garbled("unknown value")
    count = struct.unpack_from("<I", data, at)[0]
    at += 4
    if count > len(data) - at:
        raise Garbled("a value is longer than its message")
    if tag in (b"s", b"b"):
        raw = bytes(data[at : at + count])
        return raw.decode("utf-8", "surrogateescape") if tag == b"s" else raw, at + count
    items = []
    for _ in range(count if tag == b"l" else 2 * count):
        item, at = unpack_from(data, at, depth + 1)
        items.append(item)
    return (items if tag == b"l" else dict(zip(items[::2], items[1::2]))), at  # noqa: B905


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
            self.agent.send(kind, self.sid, data)

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


class Reader(Stream):
    """Sends a file."""

    def __init__(self, agent: Agent, sid: int, path: str) -> None:
        super().__init__(agent, sid)
        self.path = path
        self.fd = -1
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            info = os.fstat(self.fd)
        except OSError as error:
            self.release()
            raise refused(error, f"cannot read {path!r}") from None
        if not (stat.S_ISREG(info.st_mode) or stat.S_ISBLK(info.st_mode)):
            self.release()
            kind = "a directory" if stat.S_ISDIR(info.st_mode) else "no regular file"
            raise Refused("invalid_argument", f"cannot read {path!r}: it is {kind}")
        self.send(ANSWER, pack({"size": info.st_size}))
        agent.wake(self)

    def pump(self) -> bool:
        size = min(PAYLOAD_LIMIT, self.credit - FRAME_COST)
        if size < PAYLOAD_LIMIT // 4:
            return False
        try:
            data = os.read(self.fd, size)
        except OSError as error:
            self.fail(refused(error, f"cannot read {self.path!r}"))
            return False
        if not data:
            self.end()
            return False
        self.credit -= len(data) + FRAME_COST
        self.send(DATA, data)
        return True

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Writer(Stream):
    """Receives a file beside its place and renames it when it is whole."""

    def __init__(self, agent: Agent, sid: int, path: str, mode: int, user: str | None) -> None:
        super().__init__(agent, sid)
        self.path = path
        self.mode = mode
        self.size = 0
        self.fd = -1
        self.temporary: str | None = None
        account = account_of(user) if user else None
        self.owner = (account.pw_uid, account.pw_gid) if account else None
        try:
            self.target = os.path.realpath(path) if os.path.islink(path) else path
            if path.endswith("/") or (os.path.exists(self.target) and not os.path.isfile(self.target)):
                raise Refused("invalid_argument", f"cannot write {path!r}: it is no regular file")
            folder = os.path.dirname(self.target)
            make_folders(folder, 0o755, self.owner)
            self.temporary = os.path.join(folder, f".anvil-{os.getpid()}-{sid}.part")
            self.fd = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            self.release()
            raise refused(error, f"cannot write {path!r}") from None
        self.send(ANSWER, pack({}))

    def data(self, payload: bytes) -> None:
        view = memoryview(payload)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError as error:
            self.fail(refused(error, f"cannot write {self.path!r}"))
            return
        self.size += len(payload)
        self.repay(len(payload) + FRAME_COST)

    def eof(self) -> None:
        try:
            if self.owner:
                os.fchown(self.fd, *self.owner)
            os.fchmod(self.fd, self.mode & 0o7777)
            os.close(self.fd)
            self.fd = -1
            if self.temporary:
                os.rename(self.temporary, self.target)
        except OSError as error:
            self.fail(refused(error, f"cannot write {self.path!r}"))
            return
        self.temporary = None
        self.end(size=self.size)

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self.temporary:
            try:
                os.unlink(self.temporary)
            except OSError:
                pass  # it was never made, or its folder has gone
            self.temporary = None


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
            agent.watch(fd, self.readable, select.EPOLLIN)
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
                self.agent.unwatch(fd)
            else:
                self.agent.watch(fd, self.readable, select.EPOLLIN)
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
        self.agent.unwatch(fd)
        if drain:
            self.agent.drain(fd)
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
                self.agent.watch(self.stdin, self.feed, select.EPOLLOUT)
                return
            self.input.popleft()
            self.repay(cost)
        self.repay(0, at_once=True)
        if self.stdin is not None:
            self.agent.unwatch(self.stdin)
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
            self.agent.unwatch(self.stdin)
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


# programs


def account_of(name: str) -> Account:
    """Find an account by its name or number."""
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        raise Refused("not_found", f"there is no user {name!r} on the device") from None


def start_process(agent: Agent, request: Message) -> tuple[int, int | None, dict[int, int]]:
    """Fork and execute; return the pid, the descriptor of its input or None, and its outputs with their frame kinds."""
    argv = [os.fsencode(word) for word in request["argv"]]
    name = request.get("user") or agent.defaults.get("user")
    account = account_of(name) if name else account_of(str(os.geteuid()))
    env = {"PATH": PATH_DEFAULT, "HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    env["SHELL"] = account.pw_shell or "/bin/sh"
    env["LANG"] = "C.UTF-8"
    size = request.get("terminal")
    if size:
        env["TERM"] = "xterm-256color"
    env.update(agent.defaults.get("environment") or {})
    env.update(request.get("env") or {})
    folder = request.get("cwd") or (account.pw_dir if os.path.isdir(account.pw_dir) else "/")
    groups = None if account.pw_uid == os.geteuid() else os.getgrouplist(account.pw_name, account.pw_gid)
    mine, theirs, outputs, stdin = [], [], {}, None
    try:
        if size:
            master, slave = os.openpty()
            mine, theirs = [master], [slave, slave, slave]
            set_size(slave, size)
            if groups is not None:
                os.fchown(slave, account.pw_uid, -1)
            stdin = os.dup(master)
            mine.append(stdin)
            outputs = {master: DATA}
        else:
            if request.get("stdin"):
                ours, stdin = os.pipe()
                theirs.append(ours)
                mine.append(stdin)
            else:
                theirs.append(os.open("/dev/null", os.O_RDONLY))
            for kind in (DATA, EXTRA):
                output, ours = os.pipe()
                theirs.append(ours)
                mine.append(output)
                outputs[output] = kind
        report, reporter = os.pipe()
        theirs.append(reporter)
        mine.append(report)
        for fd in mine[:-1]:
            os.set_blocking(fd, False)
        pid = os.fork()
        if pid == 0:
            become(agent, argv, env, folder, account, groups, theirs, bool(size))
        close_all(theirs)
        theirs = []
        trouble = os.read(report, 4096)
        os.close(report)
        mine.remove(report)
        if trouble:
            os.waitpid(pid, 0)
            stage, number = trouble[:1], int(trouble[1:])
            what = {b"d": f"directory {folder!r}", b"u": f"user {account.pw_name!r}"}.get(stage, f"program {argv[0]!r}")
            raise refused(OSError(number, os.strerror(number)), "cannot start: " + what.replace("b'", "'"))
    except OSError as error:
        close_all(mine + theirs)
        raise refused(error, "cannot start {!r}".format(request["argv"][0])) from None
    except Refused:
        close_all(mine)
        raise
    return pid, stdin, outputs


def close_all(fds: list[int]) -> None:
    for fd in set(fds):
        os.close(fd)


def become(
    agent: Agent,
    argv: list[bytes],
    env: dict[str, str],
    folder: str,
    account: Account,
    groups: list[int] | None,
    fds: list[int],
    terminal: bool,
) -> NoReturn:
    """In the child: become the program. What fails is told through the last descriptor as a stage and an errno."""
    stage = b"p"
    try:
        os.setsid()
        for target in range(3):
            os.dup2(fds[target], target)
        if terminal:
            fcntl.ioctl(0, TIOCSCTTY, 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if agent.protected:
            with open("/proc/self/oom_score_adj", "w") as score:
                score.write("0")
        stage = b"u"
        if groups is not None:
            os.setgroups(groups)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
        stage = b"d"
        os.chdir(folder)
        stage = b"p"
        trouble = errno.ENOENT
        for place in env["PATH"].split(":") if b"/" not in argv[0] else [""]:
            try:
                os.execve(os.path.join(os.fsencode(place), argv[0]), argv, env)  # noqa: S606 no shell is wanted here
            except OSError as error:
                trouble = trouble if error.errno in (errno.ENOENT, errno.ENOTDIR) else error.errno or trouble
        os.write(fds[-1], stage + str(trouble).encode())
    except OSError as error:
        os.write(fds[-1], stage + str(error.errno).encode())
    except BaseException:
        os.write(fds[-1], stage + str(errno.EINVAL).encode())
    finally:
        os._exit(127)


def set_size(fd: int, size: list[int]) -> None:
    columns, rows = size
    fcntl.ioctl(fd, TIOCSWINSZ, struct.pack("<HHHH", rows, columns, 0, 0))


def send_signal(how: Callable[[int, int], None], pid: int, number: int) -> None:
    try:
        how(pid, number)
    except ProcessLookupError:
        pass  # it has just ended
    except OSError as error:
        raise refused(error, f"cannot send signal {number} to {pid}") from None


def process_table() -> Iterator[tuple[int, int, int]]:
    """Yield (pid, parent, session) of every process."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it has just ended
            yield int(name), int(fields[1]), int(fields[3])


def kill_tree(root: int) -> None:
    """Kill a program, its session and all its descendants."""
    table = list(process_table())
    doomed = {root}
    grown = True
    while grown:
        more = {pid for pid, parent, session in table if parent in doomed or session == root} - doomed
        grown = bool(more)
        doomed |= more
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass  # it has just ended, or belongs to nobody of ours


def list_processes(agent: Agent) -> Steps:
    names: dict[int, str] = {}
    for pid, parent, _ in process_table():
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read(COMMAND_LIMIT).rstrip(b"\0").replace(b"\0", b" ")
            if not command:
                with open(f"/proc/{pid}/comm", "rb") as file:
                    command = b"[" + file.read().strip() + b"]"
        except OSError:
            continue  # it has just ended
        child = agent.children.get(pid)
        yield [pid, parent, os.fsdecode(command), account_name(names, uid), child.tag if child else None]
    return None


def kill(_agent: Agent, pid: int, number: int) -> Steps:
    if pid <= 0 or not 0 <= number < 65:
        raise Refused("invalid_argument", f"cannot send signal {number} to process {pid}")
    if pid == os.getpid():
        raise Refused("permission_denied", f"process {pid} is the guest agent; destroy the device instead")
    try:
        os.kill(pid, number)
    except OSError as error:
        raise refused(error, f"cannot send signal {number} to process {pid}") from None
    yield None
    return None


# files


def account_name(names: dict[int, str], uid: int) -> str:
    if uid not in names:
        try:
            names[uid] = pwd.getpwuid(uid).pw_name
        except KeyError:
            names[uid] = str(uid)
    return names[uid]


def group_name(names: dict[int, str], gid: int) -> str:
    if -gid - 1 not in names:
        try:
            names[-gid - 1] = grp.getgrgid(gid).gr_name
        except KeyError:
            names[-gid - 1] = str(gid)
    return names[-gid - 1]


def entry_of(path: str, names: dict[int, str]) -> list[object]:
    info = os.lstat(path)
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    kind = kinds.get(stat.S_IFMT(info.st_mode), "other")
    target = os.readlink(path) if kind == "symlink" else None
    owner, group = account_name(names, info.st_uid), group_name(names, info.st_gid)
    return [path, kind, info.st_size, stat.S_IMODE(info.st_mode), info.st_mtime, owner, group, target]


def describe(_agent: Agent, path: str) -> Steps:
    try:
        yield entry_of(path, {})
    except OSError as error:
        raise refused(error, f"cannot look at {path!r}") from None
    return None


def list_folder(_agent: Agent, path: str, depth: int) -> Steps:
    names: dict[int, str] = {}
    waiting = [(path, 1)]
    while waiting:
        folder, level = waiting.pop()
        try:
            found = os.listdir(folder)
        except OSError as error:
            if level > 1:
                continue  # one below that may not be read, or has just gone
            raise refused(error, f"cannot list {path!r}") from None
        for name in found:
            inner = os.path.join(folder, name)
            try:
                entry = entry_of(inner, names)
            except OSError:
                continue  # it has just gone
            yield entry
            if entry[1] == "directory" and level < depth:
                waiting.append((inner, level + 1))
    return None


def make_folders(path: str, mode: int, owner: tuple[int, int] | None) -> None:
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        os.mkdir(folder)
        os.chmod(folder, mode)
        if owner:
            os.chown(folder, *owner)


def make_folder(_agent: Agent, path: str, mode: int, user: str | None) -> Steps:
    account = account_of(user) if user else None
    path = path.rstrip("/") or "/"
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        owner = (account.pw_uid, account.pw_gid) if account else None
        make_folders(os.path.dirname(path), 0o755, owner)
        make_folders(path, mode & 0o7777, owner)
        yield entry_of(path, {})
    except OSError as error:
        raise refused(error, f"cannot make the directory {path!r}") from None
    return None


def remove(_agent: Agent, path: str) -> Steps:
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return None
        stack: Folders = [(path, None)]
        while stack:
            folder, found = stack[-1]
            if found is None:
                found = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in os.scandir(folder)]
                stack[-1] = (folder, found)
            if not found:
                os.rmdir(folder)
                stack.pop()
            else:
                inner, is_folder = found.pop()
                if is_folder:
                    stack.append((inner, None))
                else:
                    os.unlink(inner)
            yield None
    except OSError as error:
        raise refused(error, "cannot remove %r" % (error.filename or path)) from None
    return None


# the machine


def ping(_agent: Agent) -> Steps:
    yield None
    return {"uptime": time.monotonic()}


def memory_info(_agent: Agent) -> Steps:
    found = {}
    with open("/proc/meminfo") as file:
        for line in file:
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) * (1024 if rest.rstrip().endswith("kB") else 1)
    yield None
    return {"memory": found}


def set_identity(agent: Agent, message: Message) -> Steps:
    """Make this copy of a machine a machine of its own. What could not be done is told by name, with the reason."""
    for key in ("environment", "user"):
        if key in message:
            agent.defaults[key] = message[key]
    steps: dict[str, Callable[[Any], object]] = {
        "entropy": reseed,
        "time": lambda nanoseconds: time.clock_settime_ns(time.CLOCK_REALTIME, nanoseconds),
        "hostname": set_hostname,
        "machine_id": lambda value: put_line("/etc/machine-id", value),
        "boot_id": set_boot_id,
        "generation": lambda value: put_line(RUN_DIR + "/generation", str(value)),
    }
    failed = {}
    for key, step in steps.items():
        if key in message:
            try:
                step(message[key])
            except (OSError, Refused) as error:
                failed[key] = str(error)
            yield None
    return {"failed": failed}


def put_line(path: str, text: str) -> None:
    """Write a small file in place: emptying it first would make some file systems write it to the disk at once."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.ftruncate(fd, os.write(fd, os.fsencode(text) + b"\n"))
    finally:
        os.close(fd)


def reseed(entropy: bytes) -> None:
    with open("/dev/urandom", "wb", buffering=0) as random:
        fcntl.ioctl(random, RNDADDENTROPY, struct.pack("<ii", 8 * len(entropy), len(entropy)) + entropy)
        fcntl.ioctl(random, RNDRESEEDCRNG)


def set_hostname(name: str) -> None:
    socket.sethostname(name)
    put_line("/etc/hostname", name)


def set_boot_id(value: str) -> None:
    """The kernel's boot id is fixed: a file is mounted over it. A copied machine has the mount; the file changes."""
    place = RUN_DIR + "/boot_id"
    mounted = os.path.exists(place) and os.stat(place).st_ino == os.stat(BOOT_ID).st_ino
    put_line(place, value)
    if not mounted:
        pid = os.fork()
        if pid == 0:
            try:
                os.execvp("mount", ["mount", "--bind", place, BOOT_ID])  # noqa: S606 a fixed program
            finally:
                os._exit(127)
        if os.waitpid(pid, 0)[1]:
            raise Refused("unavailable", f"mount refused to put {place} over {BOOT_ID}")


def facts(agent: Agent) -> Message:
    release = os.uname()
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "host": release.nodename,
        "kernel": release.release,
        "machine": release.machine,
        "tags": sorted(agent.tags)[:1024],
    }


JOBS = {
    "processes": lambda agent, m: list_processes(agent),
    "kill": lambda agent, m: kill(agent, m["pid"], m["signal"]),
    "stat": lambda agent, m: describe(agent, m["path"]),
    "list": lambda agent, m: list_folder(agent, m["path"], m["depth"]),
    "mkdir": lambda agent, m: make_folder(agent, m["path"], m["mode"], m.get("user")),
    "remove": lambda agent, m: remove(agent, m["path"]),
    "ping": lambda agent, m: ping(agent),
    "memory": lambda agent, m: memory_info(agent),
    "identity": set_identity,
}


class Agent:
    """The loop: the channel, the children, the streams."""

    def __init__(self, fd: int, listener: bool = False) -> None:
        self.poll = select.epoll()
        self.handlers: dict[int, Handler] = {}
        self.streams: dict[int, Stream] = {}
        self.children: dict[int, Process] = {}
        self.tags: dict[str, Process] = {}
        self.stalled: set[Process] = set()
        self.drains: collections.deque[int] = collections.deque()
        self.ready: collections.deque[Stream] = collections.deque()
        self.defaults: Message = {}
        self.nonce: bytes | None = None
        self.synced = False
        self.buffer = bytearray()
        self.out = bytearray()
        self.parts = bytearray()
        self.channel = -1
        self.listener: socket.socket | None = None
        self.readable = False
        self.protected = protect()
        self.blocks = bytearray(PAYLOAD_LIMIT)
        view = memoryview(self.blocks)
        self.pages = [view[at : at + 4096] for at in range(0, PAYLOAD_LIMIT, 4096)]
        wake, waker = os.pipe()
        for end in (wake, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGPIPE, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.watch(wake, self.reap, select.EPOLLIN)
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        if listener:
            self.listener = socket.socket(fileno=fd)
            self.watch(fd, self.accept, select.EPOLLIN)
        else:
            self.take_channel(fd)

    # descriptors

    def watch(self, fd: int, handler: Handler, events: int) -> None:
        if fd in self.handlers:
            self.poll.modify(fd, events)
        else:
            self.poll.register(fd, events)
        self.handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        if self.handlers.pop(fd, None):
            self.poll.unregister(fd)

    def drain(self, fd: int) -> None:
        """Go on reading a pipe that an ended program's children hold, so that they do not die of it."""
        self.drains.append(fd)
        self.watch(fd, self.discard, select.EPOLLIN)
        if len(self.drains) > DRAIN_LIMIT:
            self.end_drain(self.drains[0])

    def discard(self, fd: int, _events: int) -> None:
        try:
            data = os.read(fd, PAYLOAD_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end_drain(fd)

    def end_drain(self, fd: int) -> None:
        self.drains.remove(fd)
        self.unwatch(fd)
        os.close(fd)

    # the channel

    def accept(self, _fd: int, _events: int) -> None:
        if self.listener is None:
            return
        try:
            peer = self.listener.accept()[0]
        except OSError:
            return
        if self.channel >= 0:
            self.receive()  # what the last host has said before it left
        if self.channel >= 0:
            self.drop_channel()
        peer.setblocking(False)
        self.take_channel(peer.detach())

    def take_channel(self, fd: int) -> None:
        self.channel = fd
        # Edge-triggered: a virtio port whose host is away reports a hang-up all the time.
        self.watch(fd, self.on_channel, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        self.reset()
        self.out += MAGIC + bytes(NONCE_SIZE)
        self.readable = True

    def drop_channel(self) -> None:
        self.reset()
        self.unwatch(self.channel)
        os.close(self.channel)
        self.channel = -1
        self.readable = False

    def on_channel(self, _fd: int, events: int) -> None:
        if events & ~select.EPOLLOUT:
            self.readable = True

    def reset(self) -> None:
        """The host is gone, or another one has come."""
        self.nonce = None
        self.synced = False
        del self.buffer[:], self.out[:], self.parts[:]
        for stream in list(self.streams.values()):
            stream.lost()
        self.streams.clear()
        for stream in self.ready:
            stream.queued = False
        self.ready.clear()

    def receive(self) -> None:
        """Take what has come, up to a budget, and act on it."""
        taken = 0
        while taken < READ_BUDGET and len(self.out) < OUT_STOP:
            try:
                count = os.readv(self.channel, self.pages)
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
            if self.channel < 0:
                return

    def hang_up(self) -> None:
        self.readable = False
        if stat.S_ISCHR(os.fstat(self.channel).st_mode):
            # A port stays; its host comes back. Its greeting may have been read and forgotten by now, because the port
            # hands data out before it tells that a host is there: ask for it again as soon as the port can be written.
            self.reset()
            self.out += MAGIC + bytes(NONCE_SIZE)
        elif self.listener:
            self.drop_channel()
        else:
            self.reset()
            for tag in list(self.tags.values()):
                tag.forget()
            sys.exit(0)

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
                self.send(INFO, 0, pack(facts(self)))
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
                self.dispatch(kind, sid, bytes(memoryview(buffer)[at : at + length]))
            except (Garbled, struct.error, KeyError, TypeError, ValueError, AttributeError, OverflowError):
                self.reset()
                return
            at += length
        del buffer[:at]

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
            self.send(END, sid, pack({"error": refusal.code, "message": refusal.message}))
            return
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            why = f"the request for {verb} is malformed: {error!r}"
            self.send(END, sid, pack({"error": "invalid_argument", "message": why}))
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
        if verb in JOBS:
            return Job(self, sid, JOBS[verb](self, message))
        raise Refused("capability_missing", f"the guest agent knows no verb {verb!r}")

    def send(self, kind: int, sid: int, payload: bytes) -> None:
        self.out += HEADER.pack(kind, len(payload), sid)
        self.out += payload

    def flush(self) -> None:
        while self.out and self.channel >= 0:
            try:
                with memoryview(self.out) as view:
                    sent = os.write(self.channel, view[:OUT_HIGH])
            except BlockingIOError:
                return
            except OSError:
                self.readable = True  # reading will tell that the host has gone
                return
            del self.out[:sent]

    # the streams

    def wake(self, stream: Stream) -> None:
        if not stream.queued:
            stream.queued = True
            self.ready.append(stream)

    def pump(self) -> None:
        for _ in range(len(self.ready)):
            if len(self.out) >= OUT_HIGH:
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
        busy = (self.ready and len(self.out) < OUT_HIGH) or (self.readable and len(self.out) < OUT_STOP)
        for fd, events in self.poll.poll(0 if busy else 1 if self.stalled else None):
            handler = self.handlers.get(fd)
            if handler:
                handler(fd, events)
        if self.readable and self.channel >= 0:
            self.receive()
        if self.stalled:  # asked after the host was heard: a thawed guest finds that much time has passed
            self.release_stalled()
        self.pump()
        self.flush()

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


def port_path(name: str) -> str:
    """Find a virtio-serial port by its name."""
    if name.startswith("/"):
        return name
    for port in os.listdir("/sys/class/virtio-ports"):
        with open(f"/sys/class/virtio-ports/{port}/name") as file:
            if file.read().strip() == name:
                return "/dev/" + port
    sys.exit(f"there is no virtio port named {name!r}")


def main(words: list[str]) -> None:
    how, where = words
    while os.open("/dev/null", os.O_RDWR) < 3:
        pass  # standard input, output and error are there, so that no pipe becomes one of them
    for fd in os.listdir("/proc/self/fd"):
        if int(fd) > 2 and os.path.exists(f"/proc/self/fd/{fd}"):
            os.set_inheritable(int(fd), False)
    if how == "port":
        agent = Agent(os.open(port_path(where), os.O_RDWR | os.O_NOCTTY))
    elif how == "connect":
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(where)
        agent = Agent(peer.detach())
    elif how == "listen" and where.isdigit():
        agent = Agent(int(where), listener=True)
    elif how == "listen":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(where)
        listener.listen()
        agent = Agent(listener.detach(), listener=True)
    else:
        agent = Agent(int(where))
    agent.run()


if __name__ == "__main__":
    main(sys.argv[1:])
