"""The guest agent as the one file that goes into a device."""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

__all__ = ["guest_archive"]

PACKAGE = Path(__file__).with_name("guest")
MAIN = b"import sys\n\nfrom guest.start import main\n\nmain(sys.argv[1:])\n"
EPOCH = (1980, 1, 1, 0, 0, 0)


@functools.cache
def guest_archive() -> bytes:
    """Return the guest agent: a zip archive of its sources that ``python3 -I -S FILE HOW WHERE`` runs.

    The documentation of :mod:`anvild.sdk.agent.guest` says how it is started. Nothing in it is compressed, for a
    minimal Python cannot inflate. The same agent gives the same bytes, so that they may be hashed. It reads files.
    """
    members = {"__main__.py": MAIN}
    members |= {f"guest/{path.name}": path.read_bytes() for path in sorted(PACKAGE.glob("*.py"))}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as whole:
        for name, content in members.items():
            whole.writestr(zipfile.ZipInfo(name, EPOCH), content)
    return archive.getvalue()
