"""Other lab machines: they join by a token, lend their drivers over the driver protocol, and need no database."""

from __future__ import annotations

from .hosts import Hosts
from .values import Host, HostStatus, HostType, Machine, place_of

__all__ = ["Host", "HostStatus", "HostType", "Hosts", "Machine", "place_of"]
