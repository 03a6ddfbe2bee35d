"""Tries a driver by the rules and grades it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from ..capabilities import DRIVER_CAPABILITIES
from ..values import Description
from .bench import Bench
from .checks import RULES
from .checks.describing import STARTS
from .places import Place, temporary_setup
from .profile import Profile
from .rules import NotApplicable, Report, Result, Rule, Verdict
from .trying import DESCRIBE_SECONDS, described, leaf, limited, valid

__all__ = ["examine"]

HANG_SECONDS = 30.0
"""How long a rule may take to end after its time is over, before the driver counts as one that hangs."""

LOOK_SECONDS = 1.0


async def examine(
    place: Place,
    profile: Profile | None = None,
    *,
    rules: Sequence[Rule] = RULES,
    settings: dict[str, Any] | None = None,
    data_path: tuple[Path, ...] = (),
    directories: tuple[Path, Path] | None = None,
    on_result: Callable[[Result], None] | None = None,
    on_hang: Callable[[Rule], None] | None = None,
) -> Report:
    """Try a driver by ``rules`` in one place, on directories of its own that are removed at the end.

    ``settings`` are added to those of the profile. ``directories`` are its state and cache to use instead, where
    devices need what was prepared there; no daemon may use them meanwhile. ``on_result`` hears of every result at once.
    A driver in this process that ignores cancellation, or blocks the loop, cannot be ended: ``on_hang`` is then called,
    in a thread, with the rule that hangs, and should leave the process. Cancelling it clears the device up first.

    It takes as long as the device needs; on a fast one, some ten seconds.
    """
    profile = profile or Profile()
    results: list[Result] = []
    chosen = {**profile.settings, **(settings or {})}
    async with temporary_setup(chosen, data_path, directories) as setup, trio.open_nursery() as nursery:
        bench = Bench(place, profile, setup, nursery)
        told = await _describe(bench)
        try:
            with _watchdog(on_hang) as watching:
                for rule in rules:
                    with watching(rule):
                        result = await _try(bench, rule)
                    results.append(result)
                    if on_result is not None:
                        on_result(result)
                    if rule.name == STARTS and result.verdict is Verdict.FAILED:
                        break
        finally:
            with trio.CancelScope(shield=True):
                await _end(bench)
    return Report(
        driver=told.name if told else "unknown",
        version=told.version if told else "unknown",
        place=place.name,
        results=tuple(results),
    )


async def _describe(bench: Bench) -> Description | None:
    """Ask a driver what it is called; one that cannot say so breaks its first rule."""
    try:
        async with bench.fresh() as driver:
            found = await limited("describe", DESCRIBE_SECONDS, driver.describe)
            valid(found, Description, "describe")
            return found
    except Exception:
        return None


async def _try(bench: Bench, rule: Rule) -> Result:
    began = time.monotonic()
    verdict, reason = Verdict.PASSED, None
    try:
        with trio.move_on_after(rule.seconds) as scope:
            if rule.alone:
                await bench.stop()
            else:
                await bench.ready()
            await _applies(bench, rule)
            await rule.check(bench)
        if scope.cancelled_caught:
            verdict, reason = Verdict.FAILED, f"it did not come to an end within {rule.seconds:g} s"
    except Exception as error:
        found = leaf(error)
        verdict = Verdict.NOT_APPLICABLE if isinstance(found, NotApplicable) else Verdict.FAILED
        reason = str(found) if isinstance(found, NotApplicable) else described(found)
    return Result(
        rule=rule.name, level=rule.level, verdict=verdict, reason=reason, seconds=round(time.monotonic() - began, 3)
    )


async def _applies(bench: Bench, rule: Rule) -> None:
    if rule.about is None:
        return
    name = rule.about.capability
    if name in DRIVER_CAPABILITIES:
        if name not in bench.declared():
            raise NotApplicable(f"the driver does not declare {name}")
    elif name not in bench.declared(await bench.device()):
        raise NotApplicable(f"the device does not declare {name}")


async def _end(bench: Bench) -> None:
    """Leave device and host as they were found; the last rule has done so, unless it was not reached."""
    try:
        if not bench.cleared:
            await bench.clear_away()
    finally:
        await bench.stop()


@contextmanager
def _watchdog(on_hang: Callable[[Rule], None] | None) -> Iterator[Callable[[Rule], Any]]:
    """Watch from a thread, because a driver may block the loop itself."""
    over = threading.Event()
    present: list[tuple[Rule, float]] = []

    @contextmanager
    def watching(rule: Rule) -> Iterator[None]:
        present[:] = [(rule, time.monotonic() + rule.seconds + HANG_SECONDS)]
        try:
            yield
        finally:
            present.clear()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            for rule, latest in present[:]:
                if time.monotonic() > latest and on_hang is not None:
                    on_hang(rule)
                    return

    thread = threading.Thread(target=watch, daemon=True, name="anvil-conformance-watchdog")
    if on_hang is not None:
        thread.start()
    try:
        yield watching
    finally:
        over.set()
        if thread.is_alive():
            thread.join()
