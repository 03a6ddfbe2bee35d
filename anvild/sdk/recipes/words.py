"""Reading recipes and health checks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from string import Template as Text
from types import MappingProxyType

import msgspec

from ..errors import InvalidArgument

__all__ = [
    "Copy",
    "Env",
    "HealthCheck",
    "Instruction",
    "Run",
    "Start",
    "User",
    "Workdir",
    "parse_health_check",
    "parse_recipe",
]

RUN_SECONDS = 30.0
LONGEST_TIME = 24 * 3600.0

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S+)|\s+(\S+))(?:\s+|$)")


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a recipe. ``line`` is how it was written."""

    line: str


class Run(Instruction, frozen=True, kw_only=True):
    """Run a command, for at most ``timeout`` seconds."""

    command: str
    timeout: float = RUN_SECONDS


class Start(Instruction, frozen=True, kw_only=True):
    """Start a command and leave it running."""

    command: str


class Env(Instruction, frozen=True, kw_only=True):
    """Set variables, in this order; values as they are written, with what they refer to not yet put in."""

    values: tuple[tuple[str, str], ...]


class Workdir(Instruction, frozen=True, kw_only=True):
    """Work in this directory; one that is not absolute lies in the present one."""

    path: str


class User(Instruction, frozen=True, kw_only=True):
    """Be this account."""

    name: str


class Copy(Instruction, frozen=True, kw_only=True):
    """Copy ``sources``; ``into`` says that the target is a directory in any case."""

    sources: tuple[str, ...]
    target: str
    into: bool


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A command that ends well once the device is ready. Times are seconds; 0 ``retries`` are any number."""

    command: str
    interval: float = 3.0
    timeout: float = 10.0
    start_period: float = 0.0
    retries: int = 0


def parse_recipe(lines: Sequence[str]) -> tuple[Instruction, ...]:
    """Read a recipe. Raises InvalidArgument that names the line and says what was expected there."""
    found = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            found.append(_instruction(text))
        except InvalidArgument as error:
            raise InvalidArgument(f"line {number} of the recipe: {error.message}") from None
    return tuple(found)


def parse_health_check(text: str) -> HealthCheck:
    """Read a health check. Raises InvalidArgument."""
    try:
        flags, command = _flags(text.strip(), ("interval", "timeout", "start-period", "retries"))
        retries = _number("retries", flags.pop("retries", "0"))
        times = {name.replace("-", "_"): _time(name, value) for name, value in flags.items()}
        return HealthCheck(command=_command(command), retries=retries, **times)
    except InvalidArgument as error:
        raise InvalidArgument(f"the health check: {error.message}") from None


def _instruction(text: str) -> Instruction:
    if "\0" in text:
        raise InvalidArgument("it holds a NUL character")
    word, *rest = text.split(maxsplit=1)
    read = _WORDS.get(word)
    if read is None:
        raise InvalidArgument(f"{word[:40]!r} is no word of a recipe; those are {', '.join(_WORDS)}")
    return read(text, "".join(rest))


def _run(line: str, rest: str) -> Run:
    flags, command = _flags(rest, ("timeout",))
    timeout = _time("timeout", flags["timeout"]) if "timeout" in flags else RUN_SECONDS
    return Run(line=line, command=_command(command), timeout=timeout)


def _start(line: str, rest: str) -> Start:
    return Start(line=line, command=_command(rest))


def _env(line: str, rest: str) -> Env:
    values = []
    for pair in _split(rest):
        name, equals, value = pair.partition("=")
        if not equals or _NAME.fullmatch(name) is None:
            raise InvalidArgument(f"ENV takes NAME=VALUE, and {pair!r} is not that")
        if not Text(value).is_valid():
            raise InvalidArgument(f"in the value of {name} a dollar sign stands before no name; write $$ for itself")
        values.append((name, value))
    if not values:
        raise InvalidArgument("ENV takes NAME=VALUE, once or more often")
    return Env(line=line, values=tuple(values))


def _workdir(line: str, rest: str) -> Workdir:
    return Workdir(line=line, path=_only("WORKDIR takes a path", rest))


def _user(line: str, rest: str) -> User:
    name = _only("USER takes the name of an account", rest)
    if _ACCOUNT.fullmatch(name) is None:
        raise InvalidArgument(f"{name!r} is no name of an account")
    return User(line=line, name=name)


def _copy(line: str, rest: str) -> Copy:
    words = _split(rest)
    if len(words) < 2 or not all(words):
        raise InvalidArgument("COPY takes one source or more, and a target")
    if words[0].startswith("--"):
        raise InvalidArgument(f"COPY has no flag {words[0]!r}")
    *sources, target = words
    return Copy(line=line, sources=tuple(sources), target=target, into=len(sources) > 1 or target.endswith("/"))


_WORDS: Mapping[str, Callable[[str, str], Instruction]] = MappingProxyType(
    {"RUN": _run, "START": _start, "ENV": _env, "WORKDIR": _workdir, "USER": _user, "COPY": _copy}
)


def _flags(text: str, known: Sequence[str]) -> tuple[dict[str, str], str]:
    """Take the flags from the beginning of a text; return them and the rest."""
    found: dict[str, str] = {}
    while text.startswith("--"):
        match = _FLAG.match(text)
        if match is None:
            raise InvalidArgument(f"the flag {text.split()[0]!r} has no value")
        name = match[1]
        if name not in known or name in found:
            what = (
                "there twice" if name in found else f"not known; there are {', '.join(f'--{each}' for each in known)}"
            )
            raise InvalidArgument(f"the flag --{name} is {what}")
        found[name] = match[2] or match[3]
        text = text[match.end() :]
    return found, text


def _time(name: str, text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"--{name} is a time such as 30s or 5m, and {text!r} is none")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > LONGEST_TIME or (name == "timeout" and not seconds):
        raise InvalidArgument(f"--{name} is {'at most a day' if seconds else 'more than 0'}, not {text}")
    return seconds


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise InvalidArgument(f"--{name} is a number, and {text!r} is none")
    return int(text)


def _command(text: str) -> str:
    if not text.strip():
        raise InvalidArgument("a command is missing")
    return text


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidArgument(f"its quotes do not match: {error}") from None


def _only(expected: str, text: str) -> str:
    words = _split(text)
    if len(words) != 1 or not words[0]:
        raise InvalidArgument(expected)
    return words[0]
