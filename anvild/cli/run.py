"""``anvil run``: queue a run and follow it to its end."""

from __future__ import annotations

import signal
from contextlib import aclosing
from typing import Annotated

import trio
from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from .api import Api, connect
from .context import Ctx
from .events import sentence
from .exits import ExitCode, Failure
from .lookup import device_id, pairs
from .output import Output, plain, warn
from .runs import fetch_run, show_run
from .wire import Run, read

__all__ = ["run"]

EXIT_BY_STATUS = {"passed": ExitCode.OK, "failed": ExitCode.FAILED, "cancelled": ExitCode.CANCELLED}
UNTOLD = frozenset({"run.phase", "run.output", "artifact.stored", "lease.granted"})
"""Events that a person who watches a run need not read; ``anvil events`` and the run's files have them all."""

ENDINGS = frozenset(f"run.{status}" for status in EXIT_BY_STATUS)


async def run(
    pipeline: str,
    /,
    *,
    device: Annotated[str | None, Parameter(help="Device to run on; any that fits when none is given.")] = None,
    param: Annotated[
        tuple[str, ...], Parameter(negative="", help="NAME=VALUE for a parameter of the pipeline; repeatable.")
    ] = (),
    meta: Annotated[tuple[str, ...], Parameter(negative="", help="NAME=VALUE to keep with the run; repeatable.")] = (),
    wait: Annotated[bool, Parameter(help="Follow the run to its end.")] = True,
    timeout: Annotated[float | None, Parameter(help="Seconds to wait; the run itself goes on.")] = None,
    context: Ctx,
) -> int:
    """Run a pipeline and follow it to its end.

    The first Ctrl-C cancels the run, the second leaves at once. The exit code tells the verdict.
    """
    metadata: dict[str, object] = {**pairs("--meta", meta)}
    if param:
        metadata["parameters"] = pairs("--param", param)
    async with connect(context) as api:
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
    show_run(context.output, answer)
    return EXIT_BY_STATUS[read(answer, "run", Run).status]


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
                begun = values.get("state") == "begun"
                if event.kind == "run.step":
                    done = values["number"] - begun
                    shown.update(bar, description=plain(values["step"]), completed=done, total=values["of"])
                elif event.kind == "run.running":
                    shown.update(bar, description="running")
                if not (output.json or begun or event.kind in UNTOLD):
                    output.say(sentence(event))


async def _cancel(api: Api, run_id: str) -> None:
    try:
        await api.post(f"/runs/{run_id}/cancel")
    except Failure as failure:
        if failure.exit_code is not ExitCode.CONFLICT:  # it has ended meanwhile: its verdict is on the way
            raise
