"""Whole files on their way to the host and from it."""

from __future__ import annotations

import os
import stat

from .accounts import account_of
from .folders import make_folders
from .refusals import Refused, refused
from .streams import Stream
from .wire import ANSWER, DATA, FRAME_COST, PAYLOAD_LIMIT, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .agent import Agent


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
