"""The driver protocol: the verbs of drivers over a wire, for drivers in child processes and on other machines.

The host connects with :func:`connect_driver` and uses a :class:`RemoteDriver` as any other driver. A driver is served
by :func:`serve_driver`, as a child process by :func:`serve_stdio`, or without a line of code by ``python -m
anvild.sdk.protocol TARGET``. ``docs/protocol.md`` tells how it is spoken, for authors in other languages.
"""

from __future__ import annotations

from .child import serve_stdio
from .host import RemoteDriver, RemoteSession, connect_driver
from .messages import Initialize, Initialized, LogLine
from .outbox import Traffic
from .serving import Host, serve_driver
from .statistics import Statistics
from .targets import load_driver
from .transports import StdioTransport, Transport, TransportClosed, memory_transports
from .version import PROTOCOL_VERSION, protocol_incompatibility
from .websocket import WebSocketRefused, connect_websocket

__all__ = [
    "PROTOCOL_VERSION",
    "Host",
    "Initialize",
    "Initialized",
    "LogLine",
    "RemoteDriver",
    "RemoteSession",
    "Statistics",
    "StdioTransport",
    "Traffic",
    "Transport",
    "TransportClosed",
    "WebSocketRefused",
    "connect_driver",
    "connect_websocket",
    "load_driver",
    "memory_transports",
    "protocol_incompatibility",
    "serve_driver",
    "serve_stdio",
]
