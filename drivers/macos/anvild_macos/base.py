"""What the sessions on a Mac, on its simulators and on the devices paired with it have in common."""

from __future__ import annotations

import contextlib
import posixpath
import secrets
from collections.abc import Mapping, Sequence

import trio

from anvild.sdk import AnvilError, Attachment, Attachments, DeviceFact, NotFound, Session

from .machine import Machine
from .place import Done, Place, refused
from .shell import script
from .touched import TouchedRecord
from .transfer import open_file

CLEAN_UP_SECONDS = 5.0

# The other session of a device may just remove the folders around, which are empty to it.
MAKE_FOLDER = 'umask 077; mkdir -p -- "$1" || mkdir -p -- "$1"'
REMOVE = 'rm -rf -- "$@"'
REMOVE_FOLDER = 'rm -rf -- "$1" || exit; shift; rmdir -- "$@" 2>/dev/null; :'
"""Remove a folder, and then those of the others that are empty."""


class HostedSession(Session, Attachments):
    """A session whose verbs are commands on a Mac.

    ``folder`` is the device's own on the Mac; what a session puts into ``scratch``, a part of it, goes with the
    session, and what it puts elsewhere goes when the device is cleaned.
    """

    def __init__(
        self,
        device: DeviceFact,
        place: Place,
        machine: Machine,
        record: TouchedRecord,
        folder: str,
        nursery: trio.Nursery,
    ) -> None:
        self.device = device
        self.place = place
        self.machine = machine
        self.record = record
        self.touched = record.of(device.identity)
        self.folder = folder
        self.nursery = nursery
        self.scratch = f"{folder}/session-{secrets.token_hex(8)}"
        self._made = False
        self._attachments: dict[str, str] = {}

    async def close(self) -> None:
        """Remove what the session has left on the Mac, where the Mac can still be reached."""
        if self._made and self.place.connection is not None:
            folders = (self.scratch, self.folder, posixpath.dirname(self.folder))
            await self.place.run(script(REMOVE_FOLDER, *folders), housekeeping=True)

    async def make_scratch(self) -> str:
        """Return the folder of the session on the Mac, made."""
        self._made = True
        await self.demand(script(MAKE_FOLDER, self.scratch), "a folder on the Mac cannot be made")
        return self.scratch

    @property
    def udid(self) -> str | None:
        """The device as Apple's tools name it; None for the Mac itself."""
        return self.device.identity

    async def demand(self, argv: Sequence[str], what: str, *, env: Mapping[str, str] | None = None) -> Done:
        """Run a command that must succeed. Raises an error that begins with ``what``."""
        done = await self.place.run(argv, env=env)
        if done.code:
            raise self.explain(what, done)
        return done

    def explain(self, what: str, done: Done) -> AnvilError:
        """Turn a failed command into an error of the interface."""
        return refused(what, done)

    async def note(self, noted: list[str], app: str) -> None:
        """Remember that an app was installed or launched, so that the cleaning undoes it."""
        if app not in noted:
            noted.append(app)
            await self.record.save()

    async def forget(self, *paths: str) -> None:
        """Remove files on the Mac, also while being cancelled."""
        with trio.move_on_after(CLEAN_UP_SECONDS, shield=True):
            with contextlib.suppress(AnvilError):  # the Mac has gone: the device's cleaning removes them
                await self.place.run(script(REMOVE, *paths), housekeeping=True)

    def offer(self, path: str, name: str, media_type: str, size: int | None = None) -> Attachment:
        """Make a file on the Mac fetchable by a reference."""
        reference = f"{len(self._attachments) + 1}-{secrets.token_hex(4)}"
        self._attachments[reference] = path
        return Attachment(reference=reference, name=name, media_type=media_type, size=size)

    async def fetch(self, reference: str) -> trio.abc.ReceiveStream:
        path = self._attachments.get(reference)
        if path is None:
            raise NotFound(f"this session has no attachment {reference!r}")
        return await open_file(self.place, path, "the attachment cannot be read")
