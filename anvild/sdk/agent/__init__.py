"""The guest agent: exec and files inside a device over one byte channel.

``guest.py`` is the one file that runs inside (:data:`GUEST_FILE`); :func:`connect_agent` is the host's end, and
:class:`AgentSession` gives a driver's session the verbs of :class:`anvild.sdk.Exec` and :class:`anvild.sdk.Files`.
"""

from __future__ import annotations

from pathlib import Path

from .client import AgentClient, connect_agent
from .process import AgentProcess
from .protocol import KEPT_OUTPUT
from .session import AgentSession

GUEST_FILE = Path(__file__).with_name("guest.py")
"""The program to run in the guest; its documentation says how it is started."""

__all__ = ["GUEST_FILE", "KEPT_OUTPUT", "AgentClient", "AgentProcess", "AgentSession", "connect_agent"]
