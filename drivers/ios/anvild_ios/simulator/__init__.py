"""A simulator of iPhones as their host sees them: usbmuxd, lockdownd and the small services behind it.

It stands in for the devices alone, so that the driver can be tried and tested without one. What it speaks is checked
with third parties' clients. Developer services (XCTest, screenshots, the tunnel of iOS 17) are not simulated.
"""

from __future__ import annotations

from .device import SimulatedDevice, make_devices
from .server import Simulator

__all__ = ["SimulatedDevice", "Simulator", "make_devices"]
