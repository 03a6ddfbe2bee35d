"""How a small shell script and its arguments are given to a device: never as text put together of foreign words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from anvild.sdk import InvalidArgument

__all__ = ["FOLDER", "MARK", "check_environment", "script"]

FOLDER = "/data/local/tmp/.anvil"
"""The folder of a device in which anvil keeps what outlives a connection. Cleaning the device removes it."""

MARK = "ANVIL_DEVICE"
"""The variable that all programs of runs carry, with the device's identity, by which cleaning finds them."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def script(text: str, *arguments: str) -> str:
    """Return the command that runs ``text`` with ``$1`` … in a device's shell. Raises InvalidArgument for a NUL."""
    for argument in arguments:
        if "\0" in argument:
            raise InvalidArgument(f"{argument!r} holds a NUL character, which no program can be given")
    return f"set -- {' '.join(map(shlex.quote, arguments))}\n{text}" if arguments else text


def check_environment(variables: Mapping[str, str]) -> Sequence[str]:
    """Return variables as ``NAME=VALUE``. Raises InvalidArgument for a name that a shell cannot set."""
    for name in variables:
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"{name!r} is no name of a variable for a device's shell: letters, digits and _")
    return [f"{name}={value}" for name, value in variables.items()]
