"""``anvil completion``: let the shell complete commands, options and values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from .client import build
from .context import Ctx

__all__ = ["app"]

Shell = Literal["bash", "zsh", "fish"]

app = App(name="completion")


@app.command
def install(
    *,
    shell: Annotated[Shell | None, Parameter(help="Your shell; found out when not given.")] = None,
    output: Annotated[Path | None, Parameter(help="File to write instead of the shell's usual place.")] = None,
    startup: Annotated[bool, Parameter(help="Also name the file in the shell's start-up file.")] = True,
    context: Ctx,
) -> None:
    """Write the completion script to where your shell finds it."""
    path = build().install_completion(shell=shell, output=output, add_to_startup=startup and output is None)
    if context.output.json:
        context.output.document({"file": str(path)})
    else:
        context.output.say(f"{path} written; open a new shell to use it")


@app.command
def show(*, shell: Annotated[Shell | None, Parameter(help="Your shell; found out when not given.")] = None) -> None:
    """Print the completion script."""
    print(build().generate_completion(shell=shell))
