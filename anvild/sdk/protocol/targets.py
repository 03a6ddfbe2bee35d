"""How a driver is named on a command line."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from ..driver import Driver
from ..hooks import ENTRY_POINT_GROUP

__all__ = ["load_driver"]


def load_driver(target: str) -> type[Driver]:
    """Return the class that ``target`` names: an entry point, ``module:Class``, or ``FILE.py``.

    An entry point or a file that offers several drivers is followed by a colon and the name of one. It imports foreign
    code: do it before the loop runs. Raises LookupError with a sentence; what importing raises passes.
    """
    place, _, name = target.rpartition(":") if ":" in target else (target, "", "")
    if place.endswith(".py"):
        return _offered(target, _load_file(Path(place)), name)
    installed = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=place)
    if installed:
        return _offered(target, next(iter(installed)).load(), name)
    if not name:
        raise LookupError(f"no driver {target!r} is installed; name an entry point, MODULE:CLASS or FILE.py")
    kind = getattr(importlib.import_module(place), name, None)
    if isinstance(kind, type) and issubclass(kind, Driver):
        return kind
    raise LookupError(f"{target!r} names no class of drivers")


def _offered(target: str, plugin: object, name: str) -> type[Driver]:
    hook = getattr(plugin, "anvil_drivers", None)
    kinds = [kind for kind in (hook() if hook is not None else ()) if not name or kind.name == name]
    if len(kinds) != 1:
        found = f"offers {', '.join(kind.name for kind in kinds)}: add :NAME" if kinds else "offers no such driver"
        raise LookupError(f"{target!r} {found}")
    kind: type[Driver] = kinds[0]
    return kind


def _load_file(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(f"anvild_dropin_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise LookupError(f"{str(path)!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import does: settings and dataclasses look their types up there
    spec.loader.exec_module(module)
    return module
