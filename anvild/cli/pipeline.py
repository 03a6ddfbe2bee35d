"""``anvil pipeline``: list the pipelines of the daemon, check files without one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import trio
from cyclopts import App, Parameter

from anvild.devicetests.pipelines import MAX_FILE, Problem, examine

from .api import connect
from .context import Ctx
from .exits import ExitCode, Failure
from .wire import Pipeline, read_all

__all__ = ["app", "read_pipeline"]

app = App(name="pipelines")

SUFFIX = ".toml"


@app.default
@app.command(name="list")
async def list_pipelines(*, context: Ctx) -> None:
    """List the pipelines that can be run."""
    async with connect(context) as api:
        answer = await api.get("/pipelines")
    if context.output.json:
        context.output.document(answer)
        return
    context.output.table(
        ["name", "parameters", "inputs", "description"],
        [
            (
                each.name,
                " ".join(sorted(each.parameters)),
                " ".join(sorted(each.inputs)),
                each.problem or each.description,
            )
            for each in read_all(answer, "pipelines", Pipeline)
        ],
        empty="There are no pipelines.",
    )


@app.command
async def check(*files: Annotated[Path, Parameter(help="Pipeline files.")], context: Ctx) -> int:
    """Say everything that is wrong with pipeline files, with its line. No daemon is needed."""
    if not files:
        raise Failure(ExitCode.USAGE, "usage", "name the files to check")
    problems: list[Problem] = []
    for file in files:
        _, found = await _examine(file)
        problems += found
    if context.output.json:
        told = [{"file": each.file, "line": each.line, "message": each.message} for each in problems]
        context.output.document({"problems": told})
    else:
        for problem in problems:
            context.output.say(str(problem))
    return ExitCode.USAGE if problems else ExitCode.OK


async def read_pipeline(file: Path) -> tuple[str, str]:
    """Return the name and the text of a pipeline file. Raises Failure with all that is wrong with it."""
    text, problems = await _examine(file)
    if problems:
        raise Failure(ExitCode.USAGE, "invalid_pipeline", "\n".join(map(str, problems)))
    return file.name.removesuffix(SUFFIX), text


async def _examine(file: Path) -> tuple[str, list[Problem]]:
    try:
        text = await trio.Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return "", [Problem(str(file), None, f"the file cannot be read: {error}")]
    if len(text) > MAX_FILE:
        return "", [Problem(str(file), None, f"the file is larger than {MAX_FILE} bytes")]
    _, problems = examine(text, name=file.name.removesuffix(SUFFIX), file=str(file))
    return text, problems
