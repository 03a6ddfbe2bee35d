"""``anvil runs``: list runs, look into one, end or hold it, fetch what it left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from .api import Api, Document, connect
from .context import Context, Ctx
from .exits import ExitCode, Failure
from .output import Output, ago, size
from .transfer import inside, save
from .wire import Artifact, Finding, Run, RunState, read, read_all

__all__ = ["app", "fetch_run", "show_run"]

app = App(name="runs")


@app.default
@app.command(name="list")
async def list_runs(
    *, status: Annotated[str | None, Parameter(help="Only runs in this state.")] = None, context: Ctx
) -> None:
    """List the latest runs of your team."""
    async with connect(context) as api:
        answer = await api.get("/runs")
    chosen = [run for run in answer["runs"] if status in (None, run["status"])]
    if context.output.json:
        context.output.document({"runs": chosen})
        return
    context.output.table(
        ["id", "pipeline", "status", "device", "created"],
        [
            (run.id, run.pipeline, run.status, run.device_id, ago(run.created_at))
            for run in read_all({"runs": chosen}, "runs", Run)
        ],
        empty="There are no runs.",
    )


@app.command
async def show(run: str, /, *, context: Ctx) -> None:
    """Show one run with its findings."""
    async with connect(context) as api:
        show_run(context.output, await fetch_run(api, run))


@app.command
async def cancel(run: str, /, *, context: Ctx) -> None:
    """Cancel a run; its device is cleaned and freed."""
    await _change(run, "cancel", context)


@app.command
async def pause(run: str, /, *, context: Ctx) -> None:
    """Hold a run at its next pause point."""
    await _change(run, "pause", context)


@app.command
async def resume(run: str, /, *, context: Ctx) -> None:
    """Let a paused run go on."""
    await _change(run, "resume", context)


@app.command
async def artifacts(run: str, /, *, context: Ctx) -> None:
    """List the files that a run left."""
    async with connect(context) as api:
        answer = await api.get(f"/runs/{run}/artifacts")
    if context.output.json:
        context.output.document(answer)
        return
    context.output.table(
        ["id", "name", "size", "type"],
        [(each.id, each.name, size(each.size), each.media_type) for each in read_all(answer, "artifacts", Artifact)],
        empty="The run left no files.",
    )


@app.command
async def fetch(
    run: str,
    /,
    *names: Annotated[str, Parameter(help="Names of files; all when none is given.")],
    to: Annotated[Path, Parameter(help="Directory to write to.")] = Path(),
    context: Ctx,
) -> None:
    """Fetch files that a run left. A file appears whole or not at all."""
    written: list[str] = []
    async with connect(context) as api:
        found = read_all(await api.get(f"/runs/{run}/artifacts"), "artifacts", Artifact)
        for name in set(names) - {each.name for each in found}:
            raise Failure(ExitCode.NOT_FOUND, "artifact_not_found", f"the run {run} left no file {name!r}")
        for each in found:
            if not names or each.name in names:
                path = inside(to, each.name)
                async with api.download(f"/artifacts/{each.id}") as response:
                    await save(response, path, context.output)
                context.output.say(str(path))
                written.append(str(path))
    if context.output.json:
        context.output.document({"files": written})


async def fetch_run(api: Api, run: str) -> Document:
    """Fetch a run with its findings and with what its status does not tell."""
    return {**await api.get(f"/runs/{run}"), **await api.get(f"/runs/{run}/state")}


def show_run(output: Output, answer: Document) -> None:
    """Print a run with its findings."""
    if output.json:
        output.document(answer)
        return
    run, state = read(answer, "run", Run), read(answer, "state", RunState)
    rows = [
        ("run", run.id),
        ("pipeline", run.pipeline),
        ("status", state.state),
        ("phase", state.phase),
        ("reason", state.reason),
        ("waits for", state.waiting),
        ("attempt", state.attempt if state.attempt > 1 else None),
        ("device", run.device_id),
        ("created", run.created_at.isoformat(timespec="seconds")),
        *((f"meta {name}", value) for name, value in (run.metadata or {}).items()),
    ]
    output.table(["field", "value"], [row for row in rows if row[1] is not None], empty="")
    findings = read_all(answer, "findings", Finding)
    if findings:
        output.table(
            ["severity", "category", "title", "detail"],
            [(each.severity, each.category, each.title, each.detail) for each in findings],
            empty="",
        )


async def _change(run: str, verb: str, context: Context) -> None:
    async with connect(context) as api:
        answer = await api.post(f"/runs/{run}/{verb}")
    if context.output.json:
        context.output.document(answer)
    else:
        context.output.say(f"{run} {read(answer, 'run', Run).status}")
