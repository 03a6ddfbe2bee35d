"""The guest agent: exec and files inside a device over one byte channel.

The package ``guest`` is what runs inside, shipped as one file (:func:`guest_archive`); :func:`connect_agent` is the
host's end, and :class:`AgentSession` gives a driver's session the verbs of :class:`anvild.sdk.Exec` and
:class:`anvild.sdk.Files`.
"""

from __future__ import annotations

from .archive import guest_archive
from .client import AgentClient, connect_agent
from .process import AgentProcess
from .protocol import KEPT_OUTPUT
from .session import AgentSession

__all__ = ["KEPT_OUTPUT", "AgentClient", "AgentProcess", "AgentSession", "connect_agent", "guest_archive"]
