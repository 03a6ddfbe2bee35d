"""Which way guests run on this host: by KVM where it is there and fast, else by software emulation."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Literal

import msgspec
import trio

from anvild.sdk import DriverFault

from .children import run_tool

__all__ = ["Accelerator", "choose_accelerator", "judge"]

KVM = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")
PROBE = Path(__file__).with_name("kvm_probe.py")
PROBE_SECONDS = 2.0
LIMIT_MILLISECONDS = 20.0
"""Hardware does the probe's 400,000 instructions in less than one millisecond."""


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """How guests run. ``wanted`` is False when the operator asked for what the host cannot do: no guest may start."""

    name: Literal["kvm", "tcg"]
    reason: str
    wanted: bool = True


class Probe(msgspec.Struct, frozen=True):
    """What the probe has said."""

    milliseconds: float
    fault: str | None


def judge(probe: Probe | None) -> str | None:
    """Return why KVM must not be used, or None when it is good. No probe means that its deadline passed."""
    if probe is None:
        return f"/dev/kvm is there but did not finish the probe within {PROBE_SECONDS:g} s"
    if probe.fault is not None:
        return f"/dev/kvm is there but fails the probe: {probe.fault}"
    if probe.milliseconds > LIMIT_MILLISECONDS:
        times = probe.milliseconds / LIMIT_MILLISECONDS
        return f"/dev/kvm is there but ran the probe {times:.0f}× too slowly ({probe.milliseconds:.0f} ms)"
    return None


def obstacle(kvm: Path = KVM, cpuinfo: Path = CPUINFO) -> str | None:
    """Return why the probe need not be run at all. It costs less than a millisecond."""
    if not kvm.exists():
        return "the host has no /dev/kvm"
    if not os.access(kvm, os.R_OK | os.W_OK):
        return "the daemon may not open /dev/kvm; add its user to the group kvm"
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "").split()
    if platform.machine() == "x86_64" and not {"vmx", "svm"} & set(flags):
        return "/dev/kvm is there, but the processor shows neither vmx nor svm"
    return None


async def run_probe() -> Probe | None:
    """Run the probe in a process of its own. Cancelling ends that process."""
    with trio.move_on_after(PROBE_SECONDS):
        try:
            return msgspec.json.decode(await run_tool([sys.executable, "-I", "-S", PROBE]), type=Probe)
        except (DriverFault, msgspec.DecodeError) as error:
            return Probe(0.0, str(error))
    return None


async def choose_accelerator(setting: Literal["auto", "kvm", "tcg"]) -> Accelerator:
    """Decide. A guest is never started on a KVM that has not passed the probe, whatever the setting."""
    if setting == "tcg":
        return Accelerator(name="tcg", reason="software emulation, as the setting accelerator says")
    hindrance = await trio.to_thread.run_sync(obstacle) if setting == "auto" else None
    if hindrance is None:
        hindrance = judge(await run_probe())
    if hindrance is None:
        return Accelerator(name="kvm", reason="KVM passed the speed probe")
    if setting == "kvm":
        return Accelerator(name="kvm", reason=f"the setting accelerator asks for kvm, but {hindrance}", wanted=False)
    return Accelerator(name="tcg", reason=f"software emulation: {hindrance}")


def processor() -> str:
    """Return the name of the host's processor: a state saved under KVM fits no other."""
    for line in CPUINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor()
