"""Files as entries of folders: look at them, list them, make folders, remove."""

from __future__ import annotations

import errno
import os
import stat

from .accounts import account_name, account_of, group_name
from .refusals import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .agent import Agent
    from .streams import Steps

    Folders = list[tuple[str, list[tuple[str, bool]] | None]]


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


def entry_of(path: str, names: dict[int, str]) -> list[object]:
    info = os.lstat(path)
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    kind = kinds.get(stat.S_IFMT(info.st_mode), "other")
    target = os.readlink(path) if kind == "symlink" else None
    owner, group = account_name(names, info.st_uid), group_name(names, info.st_gid)
    return [path, kind, info.st_size, stat.S_IMODE(info.st_mode), info.st_mtime, owner, group, target]
