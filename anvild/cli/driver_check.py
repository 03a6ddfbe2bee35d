"""``anvil driver check``: tries a driver by the conformance kit, shows each rule, and grades it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import trio
from cyclopts import Parameter

from anvild.core.driver_context import driver_directories
from anvild.core.grades import Grade, Grades, edition
from anvild.core.settings import Settings, config_path
from anvild.sdk.testing import Level, Profile, Report, Result, Rule, Verdict, examine

from .context import Ctx
from .driver_target import PlaceName, Target, find_target, profile_for, settings_from
from .exits import ExitCode, Failure
from .machine import ConfigFile, DataDir, own_data_dir, settings_of
from .output import Output, warn

__all__ = ["check"]

PLACES: tuple[PlaceName, ...] = ("inprocess", "process", "websocket")

STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "red", Verdict.NOT_APPLICABLE: "dim"}
WORDS = {Verdict.PASSED: "passed", Verdict.FAILED: "FAILED", Verdict.NOT_APPLICABLE: "-"}


async def check(
    driver: str,
    /,
    *command: str,
    place: Annotated[
        Literal["inprocess", "process", "websocket", "all"] | None,
        Parameter(help="Where it shall stand; in this process, or in its own if it is a command, when not given."),
    ] = None,
    setting: Annotated[
        tuple[str, ...], Parameter(negative="", help="KEY=VALUE of the driver's settings; repeatable.")
    ] = (),
    profile: Annotated[Path | None, Parameter(help="What may be used on the device; the driver's own if none.")] = None,
    in_place: Annotated[
        bool,
        Parameter(negative="", help="Use the driver's own directories of the data directory; no daemon may run on it."),
    ] = False,
    require: Annotated[Level, Parameter(help="The least grade with which to exit with 0.")] = Level.BRONZE,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    context: Ctx,
) -> int:
    """Try a driver by the conformance kit, rule by rule, and grade it.

    DRIVER is the name of an installed driver, a file FILE.py, or module:Class. A driver in another language is given
    by its command after --, as in: anvil driver check -- node driver.js
    """
    settings = settings_of(config, data_dir)
    target = await trio.to_thread.run_sync(find_target, (driver, *command), settings)
    used = await trio.to_thread.run_sync(profile_for, target, profile)
    chosen = _places(target, place)
    own = settings_from(setting)
    directories = await trio.to_thread.run_sync(_directories, settings, target) if in_place else None
    reports = [await _examine(context.output, target, each, used, settings, own, directories) for each in chosen]
    grades = [report.grade for report in reports]
    grade = None if None in grades else min((each for each in grades if each), key=list(Level).index)
    kept = await trio.to_thread.run_sync(_keep, settings, target, grade, chosen)
    _tell(context.output, target.name, reports, grade, kept)
    return ExitCode.OK if grade is not None and grade.reaches(require) else ExitCode.FAILED


def _places(target: Target, place: str | None) -> tuple[PlaceName, ...]:
    possible = PLACES if target.kind is not None else PLACES[1:]
    if place is None:
        return possible[:1]
    return possible if place == "all" else tuple(each for each in PLACES if each == place)


def _directories(settings: Settings, target: Target) -> tuple[Path, Path]:
    own_data_dir(settings.data_dir)
    return driver_directories(settings, target.name)


async def _examine(
    output: Output,
    target: Target,
    place: PlaceName,
    profile: Profile,
    settings: Settings,
    own: dict[str, object],
    directories: tuple[Path, Path] | None,
) -> Report:
    if not output.json:
        output.say(f"{target.name}, {place}:", style="bold")

    def tell(result: Result) -> None:
        if not output.json:
            line = f"  {WORDS[result.verdict]:7} {result.level:9} {result.rule:28} {result.reason or ''}"
            output.say(line.rstrip(), style=STYLES[result.verdict])

    def hang(rule: Rule) -> None:
        # The driver holds this process and cannot be ended from within: say so, and leave as it is.
        warn(f"anvil: {target.name} hangs in {rule.name} and does not let go; there is no grade")
        os._exit(ExitCode.FAILED)

    return await examine(
        target.place(place),
        profile,
        settings=own,
        data_path=config_path(settings),
        directories=directories,
        on_result=tell,
        on_hang=hang,
    )


def _keep(settings: Settings, target: Target, grade: Level | None, places: tuple[PlaceName, ...]) -> bool:
    """Keep the grade of an installed driver, where ``anvil plugins`` shows it."""
    if target.plugin is None:
        return False
    try:
        own_data_dir(settings.data_dir)
        Grades(settings.data_dir).keep(
            target.plugin.name,
            Grade(
                driver=target.name,
                edition=edition(target.plugin),
                level=str(grade) if grade else "none",
                places=places,
            ),
        )
    except Failure as failure:
        warn(f"anvil: the grade is not kept: {failure.message}")
        return False
    return True


def _tell(output: Output, name: str, reports: list[Report], grade: Level | None, kept: bool) -> None:
    first = reports[0]
    if output.json:
        output.document(
            {
                "driver": name,
                "version": first.version,
                "grade": grade,
                "kept": kept,
                "places": [
                    {"place": each.place, "grade": each.grade, "results": msgspec.to_builtins(each.results)}
                    for each in reports
                ],
            }
        )
        return
    for report in reports:
        told = [sum(each.verdict is verdict for each in report.results) for verdict in Verdict]
        output.say(f"{report.place}: {told[0]} passed, {told[1]} failed, {told[2]} do not apply: {report.grade or '-'}")
    output.say(f"{name} {first.version}: {grade or 'no grade'}", style="bold green" if grade else "bold red")
