"""What every command of the client gets: how to connect and how to print.

A command takes it as a keyword parameter ``context: Ctx``; the launcher fills it in.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import Parameter

from .output import Output
from .profiles import Connection, resolve

__all__ = ["Context", "Ctx"]


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The global options of one call, and its output."""

    url: str | None = None
    key: str | None = None
    profile: str | None = None
    output: Output

    def connection(self) -> Connection:
        """Decide where to connect; see :mod:`anvild.cli.profiles`."""
        return resolve(url=self.url, key=self.key, profile=self.profile)


Ctx = Annotated[Context, Parameter(parse=False)]
"""The annotation by which a command asks for the context."""
