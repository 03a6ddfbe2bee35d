"""The guest agent as the one file that goes into a device."""

from __future__ import annotations

import functools
import importlib.util
import io
import marshal
import zipfile
from pathlib import Path

__all__ = ["guest_archive"]

PACKAGE = Path(__file__).with_name("guest")
MAIN = b"import sys\n\nfrom guest.start import main\n\nmain(sys.argv[1:])\n"
EPOCH = (1980, 1, 1, 0, 0, 0)
UNCHECKED = b"\1\0\0\0"
PLAIN = 2  # of marshal's forms the last without references, which depend on what else the process has loaded


@functools.cache
def guest_archive() -> bytes:
    """Return the guest agent: a zip archive of its modules that ``python3 -I -S FILE HOW WHERE`` runs.

    The documentation of :mod:`anvild.sdk.agent.guest` says how it is started. Nothing in it is compressed, for a
    minimal Python cannot inflate. Each source has its compiled form beside it, which saves a guest with the present
    version of Python half of the start; another one goes by the source. The same agent and version of Python give the
    same bytes, so that they may be hashed. It reads files.
    """
    sources = {"__main__.py": MAIN}
    sources |= {f"guest/{path.name}": path.read_bytes() for path in sorted(PACKAGE.glob("*.py"))}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as whole:
        for name, source in sources.items():
            whole.writestr(zipfile.ZipInfo(name, EPOCH), source)
            whole.writestr(zipfile.ZipInfo(f"{name}c", EPOCH), _compiled(name, source))
    return archive.getvalue()


def _compiled(name: str, source: bytes) -> bytes:
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    return importlib.util.MAGIC_NUMBER + UNCHECKED + importlib.util.source_hash(source) + marshal.dumps(code, PLAIN)
