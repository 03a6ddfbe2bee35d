"""The executors of the verbs for apps, screen, log and crash reports; those of tests are in ``app_tests``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import Any

from anvild.sdk import (
    Apps,
    Attachment,
    Attachments,
    CrashReports,
    InvalidArgument,
    Logs,
    NotFound,
    Screen,
    WrongState,
)

from .pipelines import (
    Clear,
    CrashReportsStep,
    Install,
    Launch,
    LogsStep,
    Record,
    Screenshot,
    Step,
    Stop,
    Uninstall,
)
from .pipelines.rules import RUN
from .work import JUDGED, LARGEST, StepFailed, Work, file_name

__all__ = ["APP_EXECUTORS", "record_again", "stop_recording"]

MOST_REPORTS = 50
PLAIN = "text/plain; charset=utf-8"


async def _install(work: Work, step: Install) -> str:
    apps = work.session.require(Apps)
    async with work.input(step.input) as (given, content):
        app = await apps.install_app(content, size=given.size, replace=step.replace)
    if app is None:
        return given.name
    return f"{app.identifier} {app.version}" if app.version else app.identifier


async def _uninstall(work: Work, step: Uninstall) -> str:
    app = work.fill(step.app)
    try:
        await work.session.require(Apps).uninstall_app(app)
    except NotFound:
        if step.missing == "ok":
            return f"{app} was not there"
        raise
    return app


async def _launch(work: Work, step: Launch) -> str:
    app = work.fill(step.app)
    env = {name: work.fill(value) for name, value in step.env.items()}
    arguments = tuple(map(work.fill, step.arguments))
    await work.session.require(Apps).launch_app(app, arguments=arguments, env=env or None)
    return app


async def _stop(work: Work, step: Stop) -> str:
    app = work.fill(step.app)
    await work.session.require(Apps).stop_app(app)
    return app


async def _clear(work: Work, step: Clear) -> str:
    app = work.fill(step.app)
    await work.session.require(Apps).clear_app(app)
    return app


async def _screenshot(work: Work, step: Screenshot) -> str:
    name = f"{step.name}.png"
    await work.keep(name, await work.session.require(Screen).screenshot(), media_type="image/png")
    return name


async def _record(work: Work, step: Record) -> str:
    if step.stop:
        return ", ".join(await stop_recording(work)) or "nothing was recorded"
    try:
        await work.session.require(Screen).start_recording()
    except WrongState:
        if not work.context.run.resumed:
            raise  # else it was begun before the daemon went away
    work.progress.recording = step.name
    return "it records"


async def record_again(work: Work) -> None:
    """Go on with a recording that ended with the session of the daemon before; its parts are lost."""
    try:
        await work.session.require(Screen).start_recording()
    except WrongState:
        return  # the session has outlived the daemon
    except JUDGED as error:
        work.progress.recording = None
        await work.context.log(f"the recording of the screen ended when the daemon went away: {error.message}")
    else:
        await work.context.log("the recording of the screen begins again: the daemon was away")


async def stop_recording(work: Work) -> list[str]:
    """End the recording, keep its parts, and return their names; none when nothing is recorded."""
    recording = work.progress.recording
    if recording is None:
        return []
    parts = await work.session.require(Screen).stop_recording()
    work.progress.recording = None
    names = []
    for number, part in enumerate(parts, start=1):
        names.append(f"{recording}-{number}{PurePosixPath(file_name(part.name)).suffix}")
        await _keep(work, names[-1], part)
    return names


async def _logs(work: Work, step: LogsStep) -> str:
    logs = work.session.require(Logs)
    since, mark = step.since, work.progress.marks.get(step.since)
    if mark is None:
        since, mark = RUN, work.progress.marks.get(RUN)
    told = "since the run began" if since == RUN else f"since step {since!r} began"
    try:
        stream = await logs.logs(since=mark)
    except InvalidArgument:  # the device has restarted since
        stream, told = await logs.logs(), "since the device started"
    name = f"{step.name}.log"
    size = await work.keep(name, stream, media_type=PLAIN, largest=LARGEST)
    return f"{name}, {size} bytes {told}"


async def _crash_reports(work: Work, step: CrashReportsStep) -> str:
    reports = await work.session.require(CrashReports).crash_reports(since=work.progress.started)
    names: list[str] = []
    for report in reports[-MOST_REPORTS:]:
        name = f"{step.name}-{file_name(report.name)}"
        names.append(name if name not in names else f"{step.name}-{len(names) + 1}-{file_name(report.name)}")
        await _keep(work, names[-1], report)
    if step.max is not None and len(reports) > step.max:
        there = "there is a crash report" if len(reports) == 1 else f"there are {len(reports)} crash reports"
        raise StepFailed(f"{there}, at most {step.max} expected", "\n".join(names))
    return ", ".join(names) or "none"


async def _keep(work: Work, name: str, attachment: Attachment) -> None:
    stream = await work.session.require(Attachments).fetch(attachment.reference)
    await work.keep(name, stream, media_type=attachment.media_type)


APP_EXECUTORS: dict[type[Step], Callable[[Work, Any], Awaitable[str]]] = {
    Install: _install,
    Uninstall: _uninstall,
    Launch: _launch,
    Stop: _stop,
    Clear: _clear,
    Screenshot: _screenshot,
    Record: _record,
    LogsStep: _logs,
    CrashReportsStep: _crash_reports,
}
