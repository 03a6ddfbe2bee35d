"""The services that simulated devices offer, by name. Each serves one connection until its client goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ...wire.streams import Wire
from ..device import SimulatedDevice
from .apps import serve_house_arrest, serve_installation
from .conduit import serve_zip_conduit
from .files import serve_crash_files, serve_media
from .instruments import serve_instruments
from .small import (
    serve_crash_mover,
    serve_diagnostics,
    serve_heartbeat,
    serve_notifications,
    serve_syslog,
)

__all__ = ["SERVICES"]

SERVICES: dict[str, Callable[[SimulatedDevice, Wire], Awaitable[None]]] = {
    "com.apple.afc": serve_media,
    "com.apple.crashreportcopymobile": serve_crash_files,
    "com.apple.crashreportmover": serve_crash_mover,
    "com.apple.instruments.remoteserver.DVTSecureSocketProxy": serve_instruments,
    "com.apple.mobile.diagnostics_relay": serve_diagnostics,
    "com.apple.mobile.heartbeat": serve_heartbeat,
    "com.apple.mobile.house_arrest": serve_house_arrest,
    "com.apple.mobile.installation_proxy": serve_installation,
    "com.apple.mobile.notification_proxy": serve_notifications,
    "com.apple.streaming_zip_conduit": serve_zip_conduit,
    "com.apple.syslog_relay": serve_syslog,
}
