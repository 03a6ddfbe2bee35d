"""``anvil driver new``: writes a driver that works from the start, to be made into one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from anvild.core.plugins import Plugins

from .context import Ctx
from .exits import ExitCode, Failure

__all__ = ["new", "write_driver"]

TEMPLATES = Path(__file__).with_name("new_driver")

NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")

PACKAGE = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "{package}/__init__.py": None,
    "{package}/py.typed": None,
    "{package}/driver.py": "driver.py.txt",
    "tests/test_conformance.py": "test_conformance.py.txt",
}
"""The files of a package, and what each is made from."""


def new(
    name: str,
    /,
    *,
    folder: Annotated[Path, Parameter(name="--dir", help="Where to write it: a folder that exists.")] = Path(),
    single_file: Annotated[
        bool, Parameter(negative="", help="Write one file, to be put into conf.d/drivers/, and no package.")
    ] = False,
    context: Ctx,
) -> None:
    """Write a new driver with one simulated device, which passes the conformance kit as it is.

    It becomes a package anvild-driver-NAME, or with --single-file the file NAME.py. Nothing is overwritten.
    """
    target = write_driver(name, folder, single_file=single_file)
    words = _words(name)
    if context.output.json:
        context.output.document({"name": name, "path": str(target)})
        return
    context.output.say(f"{target} is written. Try it:", style="green")
    if single_file:
        context.output.say(f"  anvil driver check {target}")
    else:
        context.output.say(f"  cd {target}")
        context.output.say(f"  anvil driver check {words['__PACKAGE__']}.driver:{words['__CLASS__']}Driver")
        context.output.say("  python -m pytest")


def write_driver(name: str, folder: Path, *, single_file: bool) -> Path:
    """Write a driver and return its folder, or its file. Nothing is overwritten. Raises Failure."""
    _check_name(name)
    if not folder.is_dir():
        raise Failure(ExitCode.USAGE, "no_folder", f"there is no folder {folder}")
    words = _words(name)
    target = folder / (f"{name.replace('-', '_')}.py" if single_file else f"anvild-driver-{name}")
    try:
        if single_file:
            with target.open("x", encoding="utf-8") as file:
                file.write(_filled("driver.py.txt", words))
            return target
        target.mkdir()
    except FileExistsError:
        raise Failure(ExitCode.CONFLICT, "already_exists", f"{target} exists; nothing was written") from None
    for path, template in PACKAGE.items():
        place = target / path.format(package=words["__PACKAGE__"])
        place.parent.mkdir(exist_ok=True)
        place.write_text(_filled(template, words) if template else "", encoding="utf-8")
    return target


def _words(name: str) -> dict[str, str]:
    return {
        "__NAME__": name,
        "__CLASS__": "".join(part.capitalize() for part in re.split(r"[-_]", name)),
        "__PACKAGE__": f"anvild_{name.replace('-', '_')}",
    }


def _check_name(name: str) -> None:
    if NAME.fullmatch(name) is None:
        raise Failure(
            ExitCode.USAGE,
            "bad_name",
            f"{name!r} is no name for a driver: begin with a small letter; small letters, digits, - and _ may follow",
        )
    taken = next((each for each in Plugins().listing() if each.name == name), None)
    if taken is not None:
        raise Failure(ExitCode.CONFLICT, "already_exists", f"a plugin {name!r} is installed, from {taken.distribution}")


def _filled(template: str, words: dict[str, str]) -> str:
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(word, value)
    return text
