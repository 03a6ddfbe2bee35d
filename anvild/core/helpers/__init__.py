"""Devices that come to the daemon by themselves: on-device helpers, over the driver protocol.

A helper opens one connection and speaks the driver's side of the protocol on it. All of them together are one driver
of the engine, ``helper``: :class:`Helpers` holds the connections, :class:`HelperDriver` is what the engine sees.
"""

from __future__ import annotations

from .admission import Admission, AdmittedTransport
from .driver import HelperDriver
from .hub import Helpers, Scope

__all__ = ["Admission", "AdmittedTransport", "HelperDriver", "Helpers", "Scope"]
