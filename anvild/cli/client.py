"""``anvil``, the client: reads the global options, lets every plugin add its commands, runs one, and says how it went.

The commands of our own are a plugin too (:mod:`anvild.cli.commands`). Their modules are imported when they are
called, and of the other plugins only those that name the hook ``anvil_commands`` are loaded, so that help is quick.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import logging
import sys
from functools import partial
from typing import Annotated, Any

import trio
from cyclopts import App, Parameter

from anvild.core.logging import configure
from anvild.core.plugins import Plugins
from anvild.sdk import ENTRY_POINT_GROUP

from .context import Context
from .ending import settle, wants_json
from .output import Output

__all__ = ["build", "main"]

HOOK = "anvil_commands"
EPILOGUE = "Put -- before a command for a device, so that its options are not taken for anvil's."


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    configure(level=logging.WARNING, pretty=not wants_json(arguments))
    app = build().meta
    return settle(lambda: app(arguments, exit_on_error=False, print_error=False), arguments)


def build() -> App:
    """Make the application with the commands of all plugins."""
    app = App(
        name="anvil",
        help="The client of anvild, the daemon of a device lab.",
        help_epilogue=EPILOGUE,
        version=importlib.metadata.version("anvild"),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        url: Annotated[str | None, Parameter(help="Address of the daemon [env: ANVIL_URL].")] = None,
        key: Annotated[str | None, Parameter(help="API key [env: ANVIL_API_KEY].")] = None,
        profile: Annotated[str | None, Parameter(help="Saved connection to use; see anvil login.")] = None,
        json: Annotated[bool, Parameter(negative="", help="Print JSON for programs.", show_default=False)] = False,
    ) -> Any:
        context = Context(url=url, key=key, profile=profile, output=Output(json=json))
        command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
        if "context" in ignored:
            bound.arguments["context"] = context
        if inspect.iscoroutinefunction(command):
            return trio.run(partial(command, *bound.args, **bound.kwargs))
        return command(*bound.args, **bound.kwargs)

    app.meta.suppress_keyboard_interrupt = False
    Plugins(allow=_with_commands()).commands(app)
    return app


def _with_commands() -> list[str]:
    """Name the installed plugins whose module defines the hook, without running them: its name is in their code."""
    names = []
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = importlib.util.find_spec(entry.module)
            code = spec.loader.get_code(entry.module) if spec and spec.loader else None  # type: ignore[attr-defined]
        except Exception:
            names.append(entry.name)  # the loader finds the same fault, and reports it as it does for every plugin
            continue
        if code is None or HOOK in code.co_names:
            names.append(entry.name)
    return names
