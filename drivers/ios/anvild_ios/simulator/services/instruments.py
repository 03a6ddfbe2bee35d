"""The developer services of systems before 17, as far as apps are started and stopped and pictures are taken."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from ...wire.dtx import DtxKind, DtxMessage, encode_dtx, receive_dtx
from ...wire.streams import Wire
from ..device import SimulatedDevice

__all__ = ["picture", "serve_instruments"]

CONTROL = "com.apple.instruments.server.services.processcontrol"
PROCESSES = "com.apple.instruments.server.services.deviceinfo"
SCREENSHOT = "com.apple.instruments.server.services.screenshot"
CAPABILITIES = {CONTROL: 107, PROCESSES: 116, SCREENSHOT: 1}
SCREEN = (90, 195)


class Unknown(Exception):
    """A call that the device does not know, or does not carry out."""


async def serve_instruments(device: SimulatedDevice, wire: Wire) -> None:
    """Converse with one client."""
    greeting = DtxMessage(1, 0, 0, DtxKind.CALL, "_notifyOfPublishedCapabilities:", (CAPABILITIES,))
    await wire.send(encode_dtx(greeting))
    channels: dict[int, str] = {}
    while True:
        message = await receive_dtx(wire)
        if message.kind != DtxKind.CALL:
            continue
        try:
            kind, value = DtxKind.ANSWER, _answer(device, channels, message)
        except Unknown as error:
            kind, value = DtxKind.ERROR, {"NSLocalizedDescription": str(error)}
        if message.wanted:
            kind = DtxKind.ACKNOWLEDGED if value is None else kind
            answer = DtxMessage(message.identifier, message.turn + 1, message.channel, kind, value)
            await wire.send(encode_dtx(answer))


def _answer(device: SimulatedDevice, channels: dict[int, str], message: DtxMessage) -> Any:
    match message.value, message.arguments:
        case "_requestChannelWithCode:identifier:", (int(code), str(name)):
            if name not in CAPABILITIES:
                raise Unknown(f"there is no service {name}")
            channels[code] = name
        case "launchSuspendedProcessWithDevicePath:bundleIdentifier:environment:arguments:options:", (_, bundle, *_):
            pid = device.launch(str(bundle))
            if pid is None:
                raise Unknown(f"no app {bundle} is installed")
            return pid
        case "processIdentifierForBundleIdentifier:", (str(bundle),):
            return device.running.get(bundle, 0)
        case "killPid:", (int(pid),):
            device.kill(pid)
        case "runningProcesses", _:
            return [
                {
                    "pid": pid,
                    "name": device.apps[bundle].described(None)["CFBundleExecutable"],
                    "isApplication": True,
                    "realAppName": f"/private/var/containers/Bundle/Application/{bundle}.app/App",
                }
                for bundle, pid in device.running.items()
            ]
        case "takeScreenshot", _:
            return picture(*SCREEN)
        case "_notifyOfPublishedCapabilities:" | "_channelCanceled:" | "startObservingPid:", _:
            return None
        case name, _:
            raise Unknown(f"there is no method {name}")
    return None


def picture(width: int, height: int) -> bytes:
    """Draw a PNG: a blue screen with a lighter bar at the top."""
    rows = b"".join(
        b"\0" + (b"\xa0\xc0\xf0" if row < height // 12 else b"\x20\x40\x80") * width for row in range(height)
    )
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )
