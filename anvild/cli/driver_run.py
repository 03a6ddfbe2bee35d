"""``anvil driver run``: drives a driver by hand, without the daemon."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import msgspec
import trio
from cyclopts import Parameter

from anvild.core.settings import config_path
from anvild.sdk import DRIVER_CAPABILITIES, Capability, DeviceRequest, Process, Sighting, Stream
from anvild.sdk.testing import ProvisionProfile
from anvild.sdk.testing.bench import Bench
from anvild.sdk.testing.places import temporary_setup
from anvild.sdk.testing.rules import Broken
from anvild.sdk.testing.trying import leaf

from .context import Ctx
from .driver_target import PlaceName, find_target, profile_for, settings_from
from .driver_words import VerbCall, find_verb
from .exits import ExitCode, Failure
from .hands import Ended
from .machine import ConfigFile, DataDir, settings_of
from .output import Output

__all__ = ["run"]

CHUNK = 65536
APPEAR_SECONDS = 10.0
OWN = ("describe", "watch", "recover", "clean")


async def run(
    driver: str,
    verb: str,
    /,
    *arguments: str,
    device: Annotated[str | None, Parameter(help="Identity of the device; the first ready one if none.")] = None,
    template: Annotated[str | None, Parameter(help="Make a device from it for this call, where devices are made.")] = (
        None
    ),
    setting: Annotated[
        tuple[str, ...], Parameter(negative="", help="KEY=VALUE of the driver's settings; repeatable.")
    ] = (),
    place: Annotated[PlaceName | None, Parameter(help="Where it shall stand.")] = None,
    command: Annotated[str | None, Parameter(help="Instead of DRIVER, which only names it: its command.")] = None,
    count: Annotated[int | None, Parameter(help="End watch after so many reports; Ctrl-C does, too.")] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    context: Ctx,
) -> int:
    """Drive a driver by hand: describe, watch, recover HANDLE, clean, or a verb as CAPABILITY.VERB.

    The arguments are the verb's own, in their order; NAME=VALUE sets one by its name. What is no plain text is JSON.
    Byte streams are standard input and output. The driver has directories of its own for this one call; devices that
    it makes are destroyed after it. Put -- before arguments that begin with a hyphen, as in:
    anvil driver run NAME exec.start cwd=/tmp -- ls -l
    """
    settings = settings_of(config, data_dir)
    words = shlex.split(command) if command else [driver]
    target = await trio.to_thread.run_sync(find_target, words, settings)
    shipped = await trio.to_thread.run_sync(profile_for, target, None)
    profile = msgspec.structs.replace(
        shipped, device=device, provision=ProvisionProfile(template=template), appear_seconds=APPEAR_SECONDS
    )
    stand = target.place(place or ("inprocess" if target.kind is not None else "process"))
    chosen = {**shipped.settings, **settings_from(setting)}
    hand = _Hand(context.output, count)
    try:
        async with temporary_setup(chosen, config_path(settings)) as setup, trio.open_nursery() as nursery:
            bench = Bench(stand, profile, setup, nursery)
            try:
                return await hand.do(bench, verb, arguments)
            finally:
                with trio.CancelScope(shield=True):
                    await bench.clear_away()
                    await bench.stop()
    except* Broken as group:
        broken = leaf(group)
        # What the driver said is told as it said it.
        raise (broken.__cause__ or Failure(ExitCode.CONFLICT, "driver", str(broken))) from None
    raise AssertionError("unreachable")


class _Hand:
    """Does one thing with a driver and prints what comes of it."""

    def __init__(self, output: Output, count: int | None) -> None:
        self._output = output
        self._count = count

    async def do(self, bench: Bench, verb: str, words: Sequence[str]) -> int:
        if verb == "describe":
            async with bench.fresh() as driver:
                self._show(await driver.describe())
            return ExitCode.OK
        if verb not in OWN and "." not in verb:
            raise Failure(ExitCode.USAGE, "usage", f"{verb!r}: expected CAPABILITY.VERB, or one of {', '.join(OWN)}")
        call = None if verb in OWN else find_verb(verb)
        await bench.ready()
        if verb == "watch":
            await self._watch(bench)
        elif verb == "recover":
            self._show(await bench.driver.recover(words[0] if words else ""))
        elif verb == "clean":
            await bench.driver.clean(await bench.device())
        elif call is not None and call.capability.capability in DRIVER_CAPABILITIES:
            return await self._call(bench, call, bench.driver_as(call.capability), words)
        elif call is not None:
            async with bench.session() as session:
                return await self._call(bench, call, session.require(call.capability), words)
        return ExitCode.OK

    async def _watch(self, bench: Bench) -> None:
        """Print sightings until there were so many as were asked for, or Ctrl-C."""
        seen = 0

        def more() -> list[Sighting]:
            return bench.life.sightings[seen:]

        while True:
            for sighting in await bench.life.until(more, float("inf"), "no device was reported"):
                self._output.line(msgspec.to_builtins(sighting))
                seen += 1
                if seen == self._count:
                    return

    async def _call(self, bench: Bench, call: VerbCall, on: Capability, words: Sequence[str]) -> int:
        values = call.read(words)
        # What is made by hand stands on directories that are gone after this call, and so must it be.
        bench.made.update(each.identity for each in values.values() if isinstance(each, DeviceRequest))
        values.update({name: _stdin() for name in call.sources})
        values.update(dict.fromkeys(call.reports, self._tell))
        result = await getattr(on, call.verb)(**values)
        if isinstance(result, Process):
            return await self._follow(result, fed=_wants_input(values))
        if isinstance(result, trio.abc.ReceiveStream):
            await self._copy(result)
        elif result is not None:
            self._show(result)
        return ExitCode.OK

    async def _follow(self, process: Process, *, fed: bool) -> int:
        """Pass a program's input and output on until it ends, and return its exit code as a shell has it."""
        async with process, trio.open_nursery() as nursery:
            if fed:
                nursery.start_soon(_feed, process)
            async for chunk in process:
                target = sys.stderr if chunk.stream is Stream.STDERR else sys.stdout
                target.buffer.write(chunk.data)
                target.flush()
            found = await process.wait()
            nursery.cancel_scope.cancel()
        return Ended(code=found.code, signal=found.signal).exit_code

    async def _copy(self, stream: trio.abc.ReceiveStream) -> None:
        """Pass a byte stream on to standard output; one that can be written to gets standard input."""
        async with stream, trio.open_nursery() as nursery:
            if isinstance(stream, trio.abc.SendStream):
                nursery.start_soon(_send_all, stream)
            while data := await stream.receive_some():
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
            nursery.cancel_scope.cancel()

    async def _tell(self, item: object) -> None:
        self._output.line(msgspec.to_builtins(item))
        await trio.lowlevel.checkpoint()

    def _show(self, value: object) -> None:
        self._output.document(msgspec.to_builtins(value))


def _wants_input(values: dict[str, Any]) -> bool:
    return any(getattr(value, "stdin", False) for value in values.values())


async def _stdin() -> AsyncIterator[bytes]:
    descriptor = sys.stdin.fileno()
    while data := await trio.to_thread.run_sync(os.read, descriptor, CHUNK, abandon_on_cancel=True):
        yield data


async def _feed(process: Process) -> None:
    async for data in _stdin():
        await process.send(data)
    await process.close_stdin()


async def _send_all(stream: trio.abc.SendStream) -> None:
    async for data in _stdin():
        await stream.send_all(data)
