"""Asking a person for a secret."""

from __future__ import annotations

import sys
from getpass import getpass

from .exits import ExitCode, Failure

__all__ = ["ask"]


def ask(prompt: str) -> str:
    """Ask on the terminal without showing what is typed, or take the first line of standard input."""
    answer = getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline().strip()
    if not answer:
        raise Failure(ExitCode.USAGE, "nothing_given", "nothing was given; type it, or send it to standard input")
    return answer
