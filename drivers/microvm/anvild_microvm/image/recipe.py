"""Recipes: what a base image is made of. They are data, found as ``images/NAME.toml`` on the daemon's data path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from anvild.sdk import InvalidArgument
from anvild.sdk.recipes import Copy, Start, parse_health_check, parse_recipe

__all__ = ["Recipe", "parse_size", "read_recipe"]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"([1-9][0-9]*)\s*([KMGT]?)")

Size = Annotated[str, Meta(pattern=r"^[1-9][0-9]*\s*([KMGT]i?B?)?$")]
PackageName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
AccountName = Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_-]{0,30}$")]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a base image is made of.

    ``packages`` come on top of the distribution's minimal base. ``account`` is the unprivileged user that is made.
    Before the warm template is taken, ``prepare`` is followed in the guest, in the words of :mod:`anvild.sdk.recipes`;
    what it has started runs in the template, once the ``health_check`` is content. ``warm_up`` are commands that are
    run then, so that what they read is in the template's memory. ``disk`` and ``memory`` are sizes such as ``"2G"``.
    """

    description: str = ""
    packages: tuple[PackageName, ...] = ()
    account: AccountName = "user"
    hostname: str = "capsule"
    disk: Size = "2G"
    memory: Size = "256M"
    vcpus: Annotated[int, Meta(ge=1, le=64)] = 1
    prepare: tuple[str, ...] = ()
    health_check: str | None = None
    warm_up: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if any(isinstance(each, Copy) for each in parse_recipe(self.prepare)):
            raise InvalidArgument("COPY takes files that come with a recipe, and none come with an image's")
        if self.health_check is not None:
            parse_health_check(self.health_check)

    @property
    def starts(self) -> bool:
        """Whether something of it runs in the template, which a cold boot would lack."""
        return any(isinstance(each, Start) for each in parse_recipe(self.prepare))

    @property
    def disk_bytes(self) -> int:
        return parse_size(self.disk)

    @property
    def memory_bytes(self) -> int:
        return parse_size(self.memory)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``"256M"`` or ``"2GiB"``; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip().removesuffix("B").removesuffix("i"))
    if match is None:
        raise InvalidArgument(f"{text!r} is no size: write a number with K, M, G or T, such as 256M")
    return int(match[1]) * _UNITS[match[2]]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises InvalidArgument that names the file, the field and what was expected."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except (msgspec.DecodeError, InvalidArgument) as error:
        raise InvalidArgument(f"the recipe {path} is wrong: {error}") from error
