"""``anvil driver join``: a driver on this machine lends a device to a daemon elsewhere, as its helper."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import trio
from cyclopts import Parameter

from anvild.core.settings import Settings
from anvild.sdk import AnvilError, Driver, DriverContext, DriverSettings
from anvild.sdk.protocol import Transport, TransportClosed, WebSocketRefused, connect_websocket, serve_driver

from .api import Api, connect
from .context import Context, Ctx
from .driver_target import find_target, settings_from
from .exits import ExitCode, Failure
from .machine import ConfigFile, DataDir, settings_of

__all__ = ["join"]

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
STEADY_SECONDS = 60.0

Platform = Literal["ios", "macos", "visionos", "watchos", "android"]


async def join(
    driver: str,
    /,
    *,
    udid: Annotated[str, Parameter(help="The identity of the device, as the driver reports it.")],
    platform: Annotated[Platform, Parameter(help="The platform of the device.")],
    os_version: Annotated[str, Parameter(help="The version of its system.")] = "unknown",
    setting: Annotated[
        tuple[str, ...], Parameter(negative="", help="KEY=VALUE of the driver's settings; repeatable.")
    ] = (),
    data_dir: DataDir = None,
    config: ConfigFile = None,
    context: Ctx,
) -> None:
    """Lend a device to a lab: connect to its daemon, shake hands with the API key, and serve the driver until ended.

    DRIVER is the name of an installed driver, FILE.py or module:Class. When the connection or the token ends, it shakes
    hands and connects anew, with growing pauses; it ends when the daemon refuses the key or the device.
    """
    settings = settings_of(config, data_dir)
    kind = await trio.to_thread.run_sync(_kind, driver, settings)
    make = partial(_make, kind, _checked(kind, settings_from(setting)))
    device = {"platform": platform, "udid": udid, "os_version": os_version}
    pause = FIRST_PAUSE
    while True:
        since = trio.current_time()
        try:
            transport = await _connect(context, device)
            context.output.say(f"{udid} is connected to {context.connection().url}")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_driver, make, kind, transport)
            reason = "the daemon closed the connection"
        except* (TransportClosed, AnvilError) as group:
            reason = str(group.exceptions[0])
        if trio.current_time() - since > STEADY_SECONDS:
            pause = FIRST_PAUSE
        context.output.say(f"{udid}: {reason}; connecting again in {pause:g} s")
        await trio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _kind(word: str, settings: Settings) -> type[Driver]:
    target = find_target([word], settings)
    if target.kind is None:
        raise Failure(
            ExitCode.USAGE, "no_class", f"{word} is a program of its own: it speaks to the daemon's WebSocket by itself"
        )
    return target.kind


def _checked(kind: type[Driver], own: dict[str, Any]) -> DriverSettings:
    try:
        return msgspec.convert(own, kind.settings_type)
    except msgspec.ValidationError as error:
        raise Failure(ExitCode.USAGE, "settings", f"the settings of {kind.name} are wrong: {error}") from None


def _make(kind: type[Driver], own: DriverSettings, given: DriverContext[Any]) -> Driver:
    """Make the driver with the settings of this machine, which the daemon does not know."""
    return kind(msgspec.structs.replace(given, settings=own))


async def _connect(context: Context, device: dict[str, str]) -> Transport:
    """Shake hands and open the connection. Raises TransportClosed where trying again may help, Failure otherwise."""
    connection = context.connection()
    if not connection.url.startswith("http"):
        raise Failure(ExitCode.USAGE, "no_url", f"joining needs an http address and not {connection.url}: use --url")
    if connection.key is None:
        raise Failure(ExitCode.NOT_AUTHORISED, "no_key", "joining needs an API key: set ANVIL_API_KEY or anvil login")
    try:
        async with connect(context) as api:
            token = await _handshake(api, connection.key, device)
        return await connect_websocket(
            "ws" + connection.url.removeprefix("http") + "/api/v1/driver", headers={"Authorization": f"Bearer {token}"}
        )
    except WebSocketRefused as error:
        raise TransportClosed(str(error)) from None
    except Failure as failure:
        if failure.exit_code is not ExitCode.UNREACHABLE:
            raise
        raise TransportClosed(failure.message) from None


async def _handshake(api: Api, key: str, device: dict[str, str]) -> str:
    answer = await api.post("/auth/device/handshake", {"apiKey": key, "device": device})
    return str(answer["token"])
