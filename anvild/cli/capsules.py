"""``anvil capsules`` (or ``capsule``): machines made to order, from their making to their end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import App, Parameter

from .api import CAPSULES, Api, Document, connect
from .context import Context, Ctx
from .exits import ExitCode, Failure
from .output import Output, size
from .transfer import pull_file, push_file

__all__ = ["app"]

app = App(name="capsules")
app.command("anvild.cli.capsule_programs:exec_", name="exec", help="Run a program in a capsule and show its output.")
app.command("anvild.cli.capsule_programs:shell", name="shell", help="Open a terminal in a capsule.")

ON_THE_WAY = ("pending", "starting", "pausing", "resuming", "stopping")
ENDED = ("stopped", "error")


@app.default
@app.command(name="list")
async def list_capsules(*, context: Ctx) -> None:
    """List your team's capsules that have not ended."""
    async with connect(context, wing=CAPSULES) as api:
        found = await api.list("/capsules")
    if context.output.json:
        context.output.document({"capsules": found})
        return
    context.output.table(
        ["id", "template", "status", "vcpus", "memory", "created"],
        [
            (
                each["id"],
                each["template"],
                each["status"],
                each["vcpus"],
                f"{each['memory_mb']} MiB",
                each["created_at"],
            )
            for each in found
        ],
        empty="There are no capsules.",
    )


@app.command
async def create(
    template: Annotated[str, Parameter(help="What it is made from; see anvil capsule templates.")] = "minimal",
    /,
    *,
    vcpus: Annotated[int | None, Parameter(help="Virtual processors.")] = None,
    memory: Annotated[int | None, Parameter(help="Memory in MiB.")] = None,
    timeout: Annotated[
        int | None, Parameter(help="Seconds without use after which it is paused; never if none.")
    ] = None,
    network: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            help="Its network: none, internet, or what it may reach (NAME, *.NAME, ADDRESS or RANGE, with :PORT or "
            "without); repeatable.",
        ),
    ] = (),
    context: Ctx,
) -> None:
    """Make a capsule and wait until it runs. Prints its id."""
    body = {
        "template": template,
        "vcpus": vcpus,
        "memory_mb": memory,
        "timeout_sec": timeout,
        "network": _network(network),
    }
    wish = {name: value for name, value in body.items() if value is not None}
    async with connect(context, wing=CAPSULES) as api:
        made = await _settled(api, lambda: api.post("/capsules", wish), "running")
    _tell(context.output, made)


def _network(words: tuple[str, ...]) -> Document | str | None:
    """Return the network that these words mean; None leaves it to the daemon."""
    if not words:
        return None
    return words[0] if words in (("none",), ("internet",)) else {"allow": list(words)}


@app.command
async def show(capsule: str, /, *, context: Ctx) -> None:
    """Show one capsule with all that is known of it."""
    async with connect(context, wing=CAPSULES) as api:
        found = await api.get(f"/capsules/{capsule}")
    if context.output.json:
        context.output.document(found)
        return
    known = {name: value for name, value in found.items() if name != "metadata"} | found.get("metadata", {})
    context.output.table(["field", "value"], list(known.items()), empty="")


@app.command
async def pause(capsule: str, /, *, context: Ctx) -> None:
    """Put a running capsule aside on disk, and wait until it is."""
    await _change(context, capsule, "pause", "paused")


@app.command
async def resume(capsule: str, /, *, context: Ctx) -> None:
    """Bring a paused capsule back, with its memory and its programs, and wait until it runs."""
    await _change(context, capsule, "resume", "running")


@app.command
async def destroy(capsule: str, /, *, context: Ctx) -> None:
    """End a capsule, whatever its state, and wait until it is gone."""
    async with connect(context, wing=CAPSULES) as api:

        async def act() -> Document:
            await api.delete(f"/capsules/{capsule}")
            return {"id": capsule}

        _tell(context.output, await _settled(api, act, *ENDED))


@app.command
async def snapshot(
    capsule: str,
    /,
    name: Annotated[str | None, Parameter(help="What to call the template; made up if none.")] = None,
    *,
    overwrite: Annotated[bool, Parameter(negative="", help="Take the place of a template of this name.")] = False,
    context: Ctx,
) -> None:
    """Make a template of a running capsule, with its memory. What is made from it goes on where the capsule was."""
    body = {"sandbox_id": capsule} | ({} if name is None else {"name": name})
    async with connect(context, wing=CAPSULES) as api:
        made = await api.post("/snapshots", body, overwrite="true" if overwrite else None)
    if context.output.json:
        context.output.document(made)
    else:
        context.output.say(made["name"])


@app.command
async def templates(*, context: Ctx) -> None:
    """List what capsules can be made from: your team's own templates, and those that all see."""
    async with connect(context, wing=CAPSULES) as api:
        found = await api.list("/snapshots")
    if context.output.json:
        context.output.document({"templates": found})
        return
    context.output.table(
        ["name", "type", "for", "size", "memory", "created"],
        [
            (
                each["name"],
                each["type"],
                "all" if each["platform"] else "your team",
                size(each["size_bytes"]),
                f"{each['memory_mb']} MiB" if each.get("memory_mb") else None,
                each["created_at"],
            )
            for each in found
        ],
        empty="There are no templates: anvil image build makes one.",
    )


@app.command
async def remove_template(name: str, /, *, context: Ctx) -> None:
    """Remove a template of your team; capsules that were made from it live on."""
    async with connect(context, wing=CAPSULES) as api:
        await api.delete(f"/snapshots/{name}")
    if context.output.json:
        context.output.document({"name": name, "removed": True})
    else:
        context.output.say(f"{name} removed")


@app.command
async def push(
    capsule: str,
    source: Path,
    target: Annotated[str, Parameter(help="Absolute path in the capsule; with a / at its end, a directory.")],
    /,
    *,
    context: Ctx,
) -> None:
    """Copy a file into a capsule. It appears there whole or not at all."""
    at = f"/capsules/{capsule}/files/stream/write"
    async with connect(context, wing=CAPSULES) as api:
        await push_file(context.output, source, target, lambda path, data: api.send_form(at, {"path": path}, data))


@app.command
async def pull(
    capsule: str,
    source: Annotated[str, Parameter(help="Absolute path in the capsule.")],
    target: Annotated[
        Path, Parameter(allow_leading_hyphen=True, help="File or directory to write; - for standard output.")
    ] = Path(),
    /,
    *,
    context: Ctx,
) -> None:
    """Copy a file from a capsule."""
    async with (
        connect(context, wing=CAPSULES) as api,
        api.download(f"/capsules/{capsule}/files/stream/read", body={"path": source}) as response,
    ):
        await pull_file(context.output, response, source, target)


async def _change(context: Context, capsule: str, what: str, wanted: str) -> None:
    async with connect(context, wing=CAPSULES) as api:
        _tell(context.output, await _settled(api, lambda: api.post(f"/capsules/{capsule}/{what}"), wanted))


async def _settled(api: Api, act: Callable[[], Awaitable[Document]], *wanted: str) -> Document:
    """Do something to a capsule, and return the capsule when it has come of it; nothing polls for that.

    Raises Failure when something else has come of it.
    """
    async with trio.open_nursery() as nursery:
        news = _News(api)
        await nursery.start(news.follow)
        path = f"/capsules/{(await act())['id']}"
        while (found := await news.after(path))["status"] in ON_THE_WAY:
            pass
        nursery.cancel_scope.cancel()
    if found["status"] not in wanted:
        reason = found.get("metadata", {}).get("reason", "its events say why: anvil events")
        raise Failure(ExitCode.FAILED, found["status"], f"{found['id']} is {found['status']}: {reason}")
    return found


class _News:
    """What happens to the team's capsules."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._fresh = trio.Event()

    async def follow(self, task_status: trio.TaskStatus[None]) -> None:
        """Hear what happens, until cancelled. Begins when nothing is missed any more."""
        async for _ in self._api.events("/events/stream"):  # a greeting comes first, also when it has begun anew
            self._fresh.set()
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED

    async def after(self, path: str) -> Document:
        """Return what is at ``path``, when something has happened since the last time."""
        await self._fresh.wait()
        self._fresh = trio.Event()
        return await self._api.get(path)


def _tell(output: Output, capsule: Document) -> None:
    if output.json:
        output.document(capsule)
    elif capsule["status"] == "running":
        output.say(capsule["id"])
    else:
        output.say(f"{capsule['id']} {capsule['status']}")
