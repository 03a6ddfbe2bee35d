"""The engine: devices, leases, runs, their scheduler, and the drivers of this host."""

from anvild.core.engine.devices import Devices
from anvild.core.engine.engine import Engine
from anvild.core.engine.guard import Fault
from anvild.core.engine.hosting import DriverFactory, Gone, HostedDriver, InProcess
from anvild.core.engine.people import Leases
from anvild.core.engine.runs import Runs
from anvild.core.engine.values import (
    Actor,
    Attempt,
    Device,
    DriverInfo,
    EngineStatistics,
    Finding,
    LeaseInfo,
    Run,
    RunRequest,
    RunState,
)

__all__ = [
    "Actor",
    "Attempt",
    "Device",
    "Devices",
    "DriverFactory",
    "DriverInfo",
    "Engine",
    "EngineStatistics",
    "Fault",
    "Finding",
    "Gone",
    "HostedDriver",
    "InProcess",
    "LeaseInfo",
    "Leases",
    "Run",
    "RunRequest",
    "RunState",
    "Runs",
]
