"""The accounts of the device: users and groups by name and number."""

from __future__ import annotations

import grp
import pwd

from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    Account = pwd.struct_passwd


def account_of(name: str) -> Account:
    """Find an account by its name or number."""
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        raise Refused("not_found", f"there is no user {name!r} on the device") from None


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
