"""``anvil run``: queue a run and follow it to its end."""

from __future__ import annotations

import signal
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from anvild.devicetests.junit import Suite
from anvild.devicetests.junit import junit as as_junit
from anvild.sdk import TestCase, TestStatus

from .api import Api, Document, connect
from .context import Ctx
from .events import sentence
from .exits import ExitCode, Failure
from .inputs import bring
from .lookup import device_id, pairs
from .output import Output, plain, warn
from .pipeline import SUFFIX, read_pipeline
from .runs import fetch_run, show_run
from .transfer import place, save
from .wire import Artifact, Run, RunState, read, read_all

__all__ = ["run"]

EXIT_BY_STATUS = {"passed": ExitCode.OK, "failed": ExitCode.FAILED, "cancelled": ExitCode.CANCELLED}
UNTOLD = frozenset({"run.phase", "run.output", "artifact.stored", "lease.granted"})
"""Events that a person who watches a run need not read; ``anvil events`` and the run's files have them all."""

RESULTS = "junit.xml"
"""The artifact with the results of a run in the form of JUnit."""

ENDINGS = frozenset(f"run.{status}" for status in EXIT_BY_STATUS)


async def run(
    pipeline: Annotated[str, Parameter(help="Name of a pipeline, or a file of your own that ends with .toml.")],
    /,
    *,
    device: Annotated[str | None, Parameter(help="Device to run on; any that fits when none is given.")] = None,
    param: Annotated[
        tuple[str, ...], Parameter(negative="", help="NAME=VALUE for a parameter of the pipeline; repeatable.")
    ] = (),
    inputs: Annotated[
        tuple[str, ...],
        Parameter(name="--input", negative="", help="NAME=PATH of a file that the pipeline needs; repeatable."),
    ] = (),
    meta: Annotated[tuple[str, ...], Parameter(negative="", help="NAME=VALUE to keep with the run; repeatable.")] = (),
    junit: Annotated[Path | None, Parameter(help="File to write the results to, in the form of JUnit.")] = None,
    wait: Annotated[bool, Parameter(help="Follow the run to its end.")] = True,
    timeout: Annotated[float | None, Parameter(help="Seconds to wait; the run itself goes on.")] = None,
    context: Ctx,
) -> int:
    """Run a pipeline and follow it to its end.

    The first Ctrl-C cancels the run, the second leaves at once. The exit code tells the verdict. The file of --junit
    is written whatever the verdict is; an older one is removed at once.
    """
    metadata: dict[str, object] = {**pairs("--meta", meta)}
    if param:
        metadata["parameters"] = pairs("--param", param)
    if junit is not None:
        if not wait:
            raise Failure(ExitCode.USAGE, "usage", "--junit needs the end of the run: leave --no-wait out")
        await trio.Path(junit).unlink(missing_ok=True)
    if pipeline.endswith(SUFFIX):
        pipeline, metadata["pipeline"] = await read_pipeline(Path(pipeline))
    async with connect(context) as api:
        if inputs:
            metadata["inputs"] = await bring(api, pairs("--input", inputs), context.output)
        target = None if device is None else await device_id(api, device)
        body = {"pipeline": pipeline, "deviceId": target, "metadata": metadata}
        answer = await api.post("/runs", {name: value for name, value in body.items() if value})
        queued = read(answer, "run", Run)
        if not wait:
            if context.output.json:
                context.output.document(answer)
            else:
                context.output.say(queued.id)
            return ExitCode.OK
        with trio.move_on_after(float("inf") if timeout is None else timeout) as patience:
            left = await _watch(api, queued.id, context.output)
            if left:
                return ExitCode.INTERRUPTED
        if patience.cancelled_caught:
            raise Failure(
                ExitCode.TIMED_OUT,
                "timed_out",
                f"the run {queued.id} did not end within {timeout:g} s and goes on; see anvil runs show {queued.id}",
            )
        answer = await fetch_run(api, queued.id)
        if junit is not None:
            await _write_results(api, answer, junit, context.output)
    show_run(context.output, answer)
    return EXIT_BY_STATUS[read(answer, "run", Run).status]


async def _write_results(api: Api, answer: Document, path: Path, output: Output) -> None:
    """Write what the run left for CI systems. A run that ended before its report is one error."""
    run, state = read(answer, "run", Run), read(answer, "state", RunState)
    left = read_all(await api.get(f"/runs/{run.id}/artifacts"), "artifacts", Artifact)
    found = next((each for each in left if each.name == RESULTS), None)
    if found is not None:
        async with api.download(f"/artifacts/{found.id}") as response:
            await save(response, path, output)
        return
    status = TestStatus.PASSED if run.status == "passed" else TestStatus.ERROR
    message = f"{state.reason_code or run.status}: {state.reason}"
    case = TestCase(suite=run.pipeline, name="run", status=status, message=message)
    document = as_junit(run.pipeline, [Suite(name=run.pipeline, cases=[case])], at=datetime.now(UTC))
    await place(path, document)


async def _watch(api: Api, run_id: str, output: Output) -> bool:
    """Show what happens to a run until it has ended. True when the person left before that."""
    async with trio.open_nursery() as nursery:
        left = False

        async def interrupts() -> None:
            nonlocal left
            with trio.open_signal_receiver(signal.SIGINT) as signals:
                asked = False
                async for _ in signals:
                    if asked:
                        left = True
                        nursery.cancel_scope.cancel()
                        return
                    asked = True
                    warn(f"cancelling the run {run_id}; press Ctrl-C again to leave it to itself")
                    nursery.start_soon(_cancel, api, run_id)

        nursery.start_soon(interrupts)
        await _follow(api, run_id, output)
        nursery.cancel_scope.cancel()
    return left


async def _follow(api: Api, run_id: str, output: Output) -> None:
    """Print what is worth telling of a run until its end; on a terminal, with a bar of its steps."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    quiet = output.json or not output.console.is_terminal
    with Progress(*columns, console=output.console, transient=True, disable=quiet) as shown:
        bar = shown.add_task("queued", total=None)
        async with aclosing(api.events(f"/runs/{run_id}/events", after="0", last=ENDINGS)) as stream:
            async for event in stream:
                values = event.data.get("data") or {}
                if event.kind == "run.step":
                    done = values["number"] - (values["state"] == "begun")
                    shown.update(bar, description=plain(values["step"]), completed=done, total=values["of"])
                elif event.kind == "run.test":
                    shown.update(bar, description=plain(f"{values['step']}: {values['test']}"))
                elif event.kind == "run.running":
                    shown.update(bar, description="running")
                if not (output.json or _untold(event.kind, values)):
                    output.say(sentence(event))


def _untold(kind: str, values: Document) -> bool:
    """Whether a person who watches a run need not read of this: what has only begun, tests that went well."""
    if kind == "run.test":
        return values["status"] not in (TestStatus.FAILED, TestStatus.ERROR)
    return kind in UNTOLD or values.get("state") == "begun"


async def _cancel(api: Api, run_id: str) -> None:
    try:
        await api.post(f"/runs/{run_id}/cancel")
    except Failure as failure:
        if failure.exit_code is not ExitCode.CONFLICT:  # it has ended meanwhile: its verdict is on the way
            raise
