"""Simulated Android devices, which the real adb cannot tell from real ones in what the driver needs."""

from .apk import build_apk
from .device import SimulatedDevice
from .spec import FEATURES, DeviceSpec, TestSpec

__all__ = ["FEATURES", "DeviceSpec", "SimulatedDevice", "TestSpec", "build_apk"]
