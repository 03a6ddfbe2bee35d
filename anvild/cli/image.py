"""``anvil image``: build the images that devices are made from. It works on this machine, with no daemon running."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import trio
from cyclopts import App, Parameter

from anvild.core.driver_context import driver_context, enabled_drivers
from anvild.core.plugins import Plugins
from anvild.core.settings import Settings
from anvild.sdk import Driver, ImageBuild, Provision, Template

from .context import Ctx
from .exits import ExitCode, Failure
from .machine import ConfigFile, DataDir, own_data_dir, settings_of
from .output import Output, ago, size

__all__ = ["app"]

app = App(name="image")

DriverName = Annotated[str | None, Parameter(name="--driver", help="Driver that builds it; needed if several can.")]


@app.command
async def build(
    name: str,
    /,
    *,
    driver: DriverName = None,
    rebuild: Annotated[bool, Parameter(negative="", help="Build it again although it is there.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    context: Ctx,
) -> None:
    """Build the image of a recipe, or take it from the cache."""
    settings = _settings(config, data_dir)
    chosen = _choose(settings, driver)
    output = context.output

    async def report(line: str) -> None:
        if output.json:
            output.line({"event": "progress", "message": line})
        else:
            output.say(line)

    async with _started(settings, chosen) as builder:
        assert isinstance(builder, ImageBuild)
        template = await builder.build_image(name, report, rebuild=rebuild)
    if output.json:
        output.line({"event": "built", "driver": chosen.name, "template": msgspec.to_builtins(template)})
    else:
        _table(output, [(chosen.name, template)])


@app.default
@app.command(name="list")
async def list_images(*, data_dir: DataDir = None, config: ConfigFile = None, context: Ctx) -> None:
    """List what devices can be made from on this machine."""
    settings = _settings(config, data_dir)
    found: list[tuple[str, Template]] = []
    for chosen in _builders(settings).values():
        async with _started(settings, chosen) as builder:
            if isinstance(builder, Provision):
                found += [(chosen.name, template) for template in await builder.templates()]
    if context.output.json:
        context.output.document(
            {"images": [{"driver": name, **msgspec.to_builtins(template)} for name, template in found]}
        )
    else:
        _table(context.output, found)


def _settings(config: Path | None, data_dir: Path | None) -> Settings:
    settings = settings_of(config, data_dir)
    own_data_dir(settings.data_dir)
    return settings


def _builders(settings: Settings) -> dict[str, type[Driver]]:
    # Building needs no daemon to protect: every driver is taken into this process.
    plugins = Plugins(allow=settings.plugins.allow, drop_ins=settings.drop_ins)
    drivers = enabled_drivers(settings, plugins)
    return {name: driver for name, driver in sorted(drivers.items()) if issubclass(driver, ImageBuild)}


def _choose(settings: Settings, name: str | None) -> type[Driver]:
    builders = _builders(settings)
    known = ", ".join(builders) or "none is installed"
    if name is None and len(builders) != 1:
        raise Failure(ExitCode.USAGE, "which_driver", f"say which driver with --driver; there are: {known}")
    if name is not None and name not in builders:
        raise Failure(ExitCode.NOT_FOUND, "not_found", f"no driver {name!r} builds images; there are: {known}")
    return builders[name] if name is not None else next(iter(builders.values()))


@asynccontextmanager
async def _started(settings: Settings, driver: type[Driver]) -> AsyncIterator[Driver]:
    """Make a driver as the daemon does, start it, and stop it whatever happens."""
    made = driver(await trio.to_thread.run_sync(driver_context, settings, driver))
    try:
        await made.start()
        yield made
    finally:
        with trio.CancelScope(shield=True):
            await made.stop()


def _table(output: Output, found: list[tuple[str, Template]]) -> None:
    output.table(
        ["driver", "name", "state", "processors", "memory", "size", "made"],
        [
            (
                driver,
                each.name,
                "warm" if each.warm else "cold",
                each.vcpus,
                size(each.memory),
                size(each.size),
                ago(each.created),
            )
            for driver, each in found
        ],
        empty="There are no images; build one with anvil image build NAME.",
    )
