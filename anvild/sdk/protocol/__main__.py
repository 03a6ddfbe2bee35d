"""``python -m anvild.sdk.protocol TARGET``: run a driver as a child process that speaks the driver protocol."""

from __future__ import annotations

import sys

import trio

from ..errors import AnvilError
from .child import serve_stdio
from .targets import load_driver


def main(arguments: list[str]) -> int:
    """Serve the driver that the arguments name, and return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m anvild.sdk.protocol ENTRY_POINT | MODULE:CLASS | FILE.py\n")
        return 2
    try:
        kind = load_driver(arguments[0])
    except LookupError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        trio.run(serve_stdio, kind)
    except AnvilError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
