"""Programs in capsules: run, followed, listed, ended."""

from __future__ import annotations

import base64
import signal
from contextlib import aclosing

import msgspec
import trio
from msgspec import UNSET

from anvild.core.errors import InvalidRequest
from anvild.sdk import AnvilError, Completed, Exec, Process, ProcessInfo
from anvild.web.request import Answer, Request
from anvild.web.websocket import WebSocket

from ..commands import exit_code, find, first_error, follow, run_to_end, start_tagged, told_as
from ..life import Capsules
from ..schemas import exec as wire
from .capsules import GONE, TAGS
from .common import id_in_path
from .views import View

__all__ = ["add_exec"]

NOT_RUNNING = {**GONE, 409: "Capsule not running"}
TIMEOUT = 30


def add_exec(view: View, capsules: Capsules) -> None:
    """Add the operations on programs."""
    _add_run(view, capsules)
    _add_processes(view, capsules)
    _add_streams(view, capsules)


def _add_run(view: View, capsules: Capsules) -> None:
    async def exec_command(request: Request) -> Answer:
        body: wire.ExecRequest = request.body
        command = told_as(
            body.cmd,
            body.args,
            {} if body.envs is UNSET else body.envs,
            None if body.cwd is UNSET else body.cwd,
            body.tag or None if body.tag is not UNSET and body.background else None,
        )
        capsule, began = request.path["id"], trio.current_time()
        async with capsules.use(view.team(request), id_in_path(request, "cl")) as session:
            if body.background:
                pid, tag = await start_tagged(session.require(Exec), command, "proc")
                return Answer(202, wire.BackgroundExecResponse(sandbox_id=capsule, cmd=body.cmd, pid=pid, tag=tag))
            timeout = body.timeout_sec if body.timeout_sec > 0 else TIMEOUT
            done = await run_to_end(session.require(Exec), command, timeout)
        return Answer(200, _response(capsule, body.cmd, done, trio.current_time() - began))

    view.raw(
        "POST",
        "/capsules/{id}/exec",
        exec_command,
        summary="Execute a command",
        description="Without a shell, unless `cmd` is one. A program in the foreground is ended after `timeout_sec`.",
        tags=TAGS,
        answers={200: wire.ExecResponse, 202: wire.BackgroundExecResponse},
        errors={
            **NOT_RUNNING,
            400: "The body is not as expected.",
            502: "The program took too long, wrote too much, or its machine failed.",
        },
        body=wire.ExecRequest,
        action="capsules:write",
    )


def _response(capsule: str, cmd: str, done: Completed, seconds: float) -> wire.ExecResponse:
    try:
        stdout, stderr, encoding = done.stdout.decode(), done.stderr.decode(), "utf-8"
    except UnicodeDecodeError:
        stdout, stderr = (base64.b64encode(data).decode() for data in (done.stdout, done.stderr))
        encoding = "base64"
    return wire.ExecResponse(
        sandbox_id=capsule,
        cmd=cmd,
        stdout=stdout,
        stderr=stderr,
        exit_code=exit_code(done.exit),
        duration_ms=round(seconds * 1000),
        encoding="utf-8" if encoding == "utf-8" else "base64",
    )


def _add_processes(view: View, capsules: Capsules) -> None:
    @view.get(
        "/capsules/{id}/processes",
        summary="List running processes",
        description="All of the capsule, whoever started them. `tag` names those that were started in the background.",
        tags=TAGS,
        answers={200: wire.ProcessListResponse},
        errors=NOT_RUNNING,
        action="capsules:read",
    )
    async def list_processes(request: Request) -> wire.ProcessListResponse:
        async with capsules.use(view.team(request), id_in_path(request, "cl")) as session:
            found = await session.require(Exec).processes()
        return wire.ProcessListResponse(processes=[_entry(process) for process in found])

    @view.delete(
        "/capsules/{id}/processes/{selector}",
        summary="Kill a process",
        description="A selector of digits is a pid, any other one a tag.",
        tags=TAGS,
        answers={204: None},
        errors={400: "There is no such signal.", 404: "Capsule or process not found", 409: "Capsule not running"},
        query=wire.KillQuery,
        action="capsules:write",
    )
    async def kill_process(request: Request) -> Answer:
        query: wire.KillQuery = request.query
        async with capsules.use(view.team(request), id_in_path(request, "cl")) as session:
            process = await find(session.require(Exec), request.path["selector"])
            await session.require(Exec).kill(process.pid, signal.Signals[query.signal].value)
        return Answer(204)


def _entry(process: ProcessInfo) -> wire.ProcessEntry:
    """Return a process as the interface shows it. Its machine tells of one line, whose words are parted by spaces."""
    line = process.command.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    cmd, *args = line.split(" ")
    return wire.ProcessEntry(pid=process.pid, cmd=cmd, args=args, tag=process.tag or UNSET)


def _add_streams(view: View, capsules: Capsules) -> None:
    async def exec_stream(request: Request, socket: WebSocket) -> None:
        async with capsules.use(view.team(request), id_in_path(request, "cl")) as session:
            exec_ = session.require(Exec)
            await socket.accept()
            try:
                start = _message(await socket.receive())
                if not isinstance(start, wire.Start):
                    raise InvalidRequest("the first message starts a program")
                process = await exec_.start(told_as(start.cmd, start.args, start.envs, start.cwd))
                async with process, trio.open_nursery() as nursery:
                    nursery.start_soon(_wait_stop, socket, process)
                    await _show(socket, process)
                    nursery.cancel_scope.cancel()
            except* AnvilError as group:
                await socket.send(wire.Failed(first_error(group).message))

    view.websocket(
        "/capsules/{id}/exec/stream",
        exec_stream,
        summary="Stream command execution via WebSocket",
        description="The first message is `start`, with `cmd` and `args`; `stop` ends the program, as closing does.",
        tags=TAGS,
        errors=NOT_RUNNING,
        action="capsules:write",
    )

    async def connect_process(request: Request, socket: WebSocket) -> None:
        async with capsules.use(view.team(request), id_in_path(request, "cl"), busy=False) as session:
            exec_ = session.require(Exec)
            found = await find(exec_, request.path["selector"])
            if found.tag is None:
                raise InvalidRequest(
                    f"the process {found.pid} was not started in the background: its output is not kept"
                )
            await socket.accept()
            try:
                async with await exec_.attach(found.tag) as process:
                    await _show(socket, process)
            except* AnvilError as group:
                await socket.send(wire.Failed(first_error(group).message))

    view.websocket(
        "/capsules/{id}/processes/{selector}/stream",
        connect_process,
        summary="Stream process output via WebSocket",
        description="Of a process that was started in the background. It begins with what nobody has read yet.",
        tags=TAGS,
        errors={404: "Capsule or process not found", 409: "Capsule not running"},
        action="capsules:write",
    )


async def _show(socket: WebSocket, process: Process) -> None:
    await socket.send(wire.Started(process.pid))
    async with aclosing(follow(process)) as told:
        async for piece in told:
            await socket.send(piece)
    await socket.send(wire.Exited(exit_code(await process.wait())))


async def _wait_stop(socket: WebSocket, process: Process) -> None:
    async for message in socket:
        if isinstance(_message(message), wire.Stop):
            await process.signal(signal.SIGKILL)


def _message(data: str | bytes) -> wire.Start | wire.Stop:
    try:
        return msgspec.json.decode(data, type=wire.Start | wire.Stop)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"this is no message to a stream: {error}") from None
