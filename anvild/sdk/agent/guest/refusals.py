"""How a verb fails: an error code of the stable interface and a sentence."""

from __future__ import annotations

import errno

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
    "wrong_state": (errno.EBUSY, errno.ETXTBSY, errno.ENOTEMPTY, errno.EADDRINUSE),
}  # fmt: skip
CODE_OF = {number: code for code, numbers in ERRNO_CODES.items() for number in numbers}


class Refused(Exception):
    """A verb's failure: an error code of the stable interface and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def refused(error: OSError, what: str) -> Refused:
    """Turn an OSError into a Refused with a sentence that begins with what was tried."""
    code = CODE_OF.get(error.errno or 0, "unavailable")
    return Refused(code, f"{what}: {(error.strerror or str(error)).lower()}")
