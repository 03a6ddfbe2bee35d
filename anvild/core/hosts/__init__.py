"""Other lab machines: they join by a token, lend their drivers over the driver protocol, and need no database."""

from __future__ import annotations

from .hosts import Hosts
from .links import Line, Links, Pulse
from .values import Host, HostStatus, HostType, Machine, place_of

__all__ = ["Host", "HostStatus", "HostType", "Hosts", "Line", "Links", "Machine", "Pulse", "place_of"]
