"""The guest agent: exec, files and ports inside a device over one byte channel.

The package ``guest`` is what runs inside, shipped as one file (:func:`guest_archive`); :func:`connect_agent` is the
host's end, and :class:`AgentSession` gives a driver's session the verbs of :class:`anvild.sdk.Exec`,
:class:`anvild.sdk.Files` and :class:`anvild.sdk.Ports`.
"""

from __future__ import annotations

from .archive import guest_archive
from .client import AgentClient, connect_agent
from .connection import AgentConnection, accept_connection, listen_for_connections, open_connection
from .process import AgentProcess
from .protocol import KEPT_OUTPUT
from .session import AgentSession

__all__ = [
    "KEPT_OUTPUT",
    "AgentClient",
    "AgentConnection",
    "AgentProcess",
    "AgentSession",
    "accept_connection",
    "connect_agent",
    "guest_archive",
    "listen_for_connections",
    "open_connection",
]
