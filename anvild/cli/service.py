"""``anvild``, the service."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

from cyclopts import App, Parameter

from .checkconfig import check
from .ending import settle
from .machine import ConfigFile
from .output import Output

__all__ = ["main"]

app = App(
    name="anvild",
    help="The daemon of a device lab.",
    version=importlib.metadata.version("anvild"),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    backend="trio",
)
app.command("anvild.cli.serve:serve", name="serve", help="Serve until SIGTERM; SIGHUP reloads the configuration.")


@app.command(name="check-config")
def check_config(
    *, config: ConfigFile = None, json: Annotated[bool, Parameter(negative="", help="Print JSON.")] = False
) -> None:
    """Check the configuration and print what is in force, with secrets masked."""
    check(config, Output(json=json))


@app.command
def version() -> None:
    """Print the version."""
    print(app.version)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    tokens = sys.argv[1:] if arguments is None else arguments
    sys.exit(settle(lambda: app(tokens, exit_on_error=False, print_error=False), tokens))
