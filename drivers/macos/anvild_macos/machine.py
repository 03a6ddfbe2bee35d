"""What a Mac is, and a look at what it has to offer: itself, its simulators, the devices paired with it."""

from __future__ import annotations

import re

import msgspec

from anvild.sdk import (
    AnvilError,
    Apps,
    AppTests,
    Attachments,
    DeviceFact,
    DeviceLost,
    DeviceStatus,
    Exec,
    Files,
    Logs,
    Power,
    Screen,
    Unavailable,
)

from .models import PairedDevice, Simulator, hardware, paired_devices, simulators
from .place import Done, LocalPlace, Place, refused
from .shell import SLOT, script
from .tagged import KEPT_OUTPUT
from .xcodebuild import check_xcode
from .xcresult import OLDEST_XCODE

XCODE = re.compile(r"^Xcode (\d+(?:\.\d+)*)", re.MULTILINE)
LOOK_SECONDS = "10"
MAC, SIMULATOR, DEVICE = "mac", "simulator", "device"
REACHABLE = ("connected", "disconnected")  # the latter: paired and near; the tunnel is made when it is needed


QUESTIONS = (
    "system_profiler SPHardwareDataType -json 2>/dev/null",
    "sw_vers",
    "id -un",
    "xcodebuild -version 2>&1",
    "sudo -n -l /sbin/shutdown 2>&1",
)
EXAMINE = "".join(f"{question}; printf '\\0%s\\0' $?\n" for question in QUESTIONS)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A Mac. ``xcode`` is its version, or None, and ``no_tests`` why it cannot run tests; ``can_restart`` says that
    the account may restart it without a password."""

    identity: str
    user: str
    model: str | None
    version: str
    xcode: tuple[int, ...] | None
    no_tests: str | None
    can_restart: bool
    facts: dict[str, str]


async def examine(place: Place) -> Machine:
    """Find out what a Mac is. Raises Unavailable, DeviceLost, DriverFault."""
    done = await place.run(script(EXAMINE), housekeeping=True)
    *parts, _ = done.out.split(b"\0")
    answers = [Done(code=int(code), out=out, err=b"") for out, code in zip(parts[::2], parts[1::2], strict=True)]
    if len(answers) != len(QUESTIONS):
        raise Unavailable(f"the Mac {place.name!r} broke off when it was asked what it is: {done.said}")
    profile, system, user, xcode, sudo = answers
    for question, answer in zip(QUESTIONS, (profile, system, user), strict=False):
        if answer.code:
            raise Unavailable(f"{place.name!r} is no Mac that the driver can use: `{question}` failed there")
    told = hardware(profile.out)
    words = dict(line.split(":", 1) for line in system.out.decode(errors="replace").splitlines() if ":" in line)
    found = XCODE.search(xcode.out.decode(errors="replace")) if xcode.code == 0 else None
    version = tuple(map(int, found[1].split("."))) if found else None
    facts = {"mac": place.name, "kind": MAC, "user": user.out.decode(errors="replace").strip()}
    facts["exec_kept_output"] = str(KEPT_OUTPUT)
    facts["xcode"] = found[1] if found else "none"
    for name, value in (("chip", told.chip), ("memory", told.memory), ("build", words.get("BuildVersion"))):
        if value:
            facts[name] = value.strip()
    return Machine(
        identity=told.uuid,
        user=facts["user"],
        model=told.model or told.name,
        version=words.get("ProductVersion", "").strip(),
        xcode=version,
        no_tests=check_xcode(version, xcode.said, OLDEST_XCODE),
        can_restart=sudo.code == 0 and not isinstance(place, LocalPlace),
        facts=facts,
    )


class Looked(msgspec.Struct):
    """What a look has found, by the kinds of devices that could be looked at, and what went wrong with the others."""

    found: dict[str, list[DeviceFact]]
    trouble: str | None = None


async def look(place: Place, machine: Machine) -> Looked:
    """List the devices of a Mac. Raises DeviceLost."""
    looked = Looked({MAC: [mac_fact(place, machine)]})
    if machine.xcode is None:
        return looked
    try:
        listed = await place.run(["xcrun", "simctl", "list", "-j"], housekeeping=True)
        if listed.code:
            raise refused(f"simctl on the Mac {place.name!r} failed", listed)
        looked.found[SIMULATOR] = [simulator_fact(place, machine, each) for each in simulators(listed.out)]
        command = ["xcrun", "devicectl", "list", "devices", "--timeout", LOOK_SECONDS, "--json-output", SLOT]
        paired = await place.run_into_file(command, housekeeping=True)
        if paired.code:
            raise refused(f"devicectl on the Mac {place.name!r} failed", paired)
        looked.found[DEVICE] = [paired_fact(place, machine, each) for each in paired_devices(paired.out)]
    except DeviceLost:
        raise
    except AnvilError as error:
        looked.trouble = error.message
    return looked


def tests(machine: Machine) -> tuple[str, ...]:
    return () if machine.no_tests else (AppTests.capability,)


def mac_fact(place: Place, machine: Machine) -> DeviceFact:
    """The Mac itself as a device."""
    return DeviceFact(
        identity=machine.identity,
        platform="macos",
        name=place.name,
        status=DeviceStatus.READY,
        model=short(machine.model),
        firmware_version=short(machine.version),
        capabilities=(
            Exec.capability,
            Files.capability,
            Screen.capability,
            Logs.capability,
            Attachments.capability,
            *tests(machine),
            *((Power.capability,) if machine.can_restart else ()),
        ),
        facts=machine.facts,
        reason=machine.no_tests,
        handle=handle(place, machine.identity),
    )


def simulator_fact(place: Place, machine: Machine, found: Simulator) -> DeviceFact:
    """A simulator as a device: ready also while it is shut, because opening it boots it."""
    device = found.device
    return DeviceFact(
        identity=device.udid,
        platform=found.platform,
        name=short(device.name) or device.udid,
        status=DeviceStatus.READY if device.is_available else DeviceStatus.OFFLINE,
        model=short(found.model),
        firmware_version=short(found.version),
        capabilities=(
            Apps.capability,
            Screen.capability,
            Logs.capability,
            Power.capability,
            Attachments.capability,
            *tests(machine),
        ),
        facts={"mac": place.name, "kind": SIMULATOR, "state": device.state.lower()},
        reason=None if device.is_available else device.availability_error or "its system is not installed on the Mac",
        handle=handle(place, device.udid),
    )


def paired_fact(place: Place, machine: Machine, device: PairedDevice) -> DeviceFact:
    """A device paired with a Mac."""
    told, seen = device.hardware_properties, device.device_properties
    trouble = _trouble(place, device)
    facts = {"mac": place.name, "kind": DEVICE, "core_device": device.identifier}
    optional = {
        "serial": told.serial_number,
        "product": told.product_type,
        "transport": device.connection_properties.transport_type,
        "build": seen.os_build_update,
    }
    return DeviceFact(
        identity=told.udid,
        platform=device.platform or "ios",
        name=short(seen.name or told.marketing_name) or told.udid,
        status=DeviceStatus.OFFLINE if trouble else DeviceStatus.READY,
        model=short(told.marketing_name or told.product_type),
        firmware_version=short(seen.os_version_number),
        capabilities=(Apps.capability, Power.capability, Attachments.capability, *tests(machine)),
        facts=facts | {name: value for name, value in optional.items() if value},
        reason=trouble,
        handle=handle(place, told.udid),
    )


def _trouble(place: Place, device: PairedDevice) -> str | None:
    """Say why a listed device cannot be used, and what to do."""
    link = device.connection_properties
    if link.pairing_state != "paired":
        return f"it is not paired with the Mac {place.name!r}: confirm the pairing on the device and in Xcode"
    if link.tunnel_state not in REACHABLE:
        return f"the Mac {place.name!r} cannot reach it: unlock it, and attach it by cable or join the Mac's network"
    if device.device_properties.developer_mode_status not in (None, "enabled"):
        return "Developer Mode is off: turn it on under Settings, Privacy & Security"
    return None


def handle(place: Place, identity: str) -> str:
    """The driver's own text for a device, for :func:`read_handle`."""
    return msgspec.json.encode([place.name, identity]).decode()


def read_handle(text: str) -> tuple[str, str]:
    """Return the place's name and the identity. Raises ValueError."""
    name, identity = msgspec.json.decode(text, type=tuple[str, str])
    return name, identity


def short(text: str | None) -> str | None:
    return text[:120] if text else None
