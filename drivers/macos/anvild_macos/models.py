"""What Apple's tools answer in JSON, read tolerantly: unknown fields are ignored, missing ones have a default, and an
entry that cannot be read costs no other entry."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from anvild.sdk import DriverFault

T = TypeVar("T")

PLATFORMS = {
    "ios": "ios",
    "watchos": "watchos",
    "tvos": "tvos",
    "xros": "visionos",
    "visionos": "visionos",
}
"""The platform names of anvild by those of Apple's tools, in small letters."""

RUNTIME = re.compile(r"SimRuntime\.([A-Za-z]+)-([0-9-]+)$")


class _Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the models: the tools write names in camel case."""


# simctl list -j


class SimRuntime(_Answer, frozen=True, kw_only=True):
    """A system that simulators run."""

    identifier: str
    name: str = ""
    version: str = ""
    platform: str | None = None


class SimDeviceType(_Answer, frozen=True, kw_only=True):
    """A model that simulators imitate."""

    identifier: str
    name: str = ""


class SimDevice(_Answer, frozen=True, kw_only=True):
    """A simulator."""

    udid: str
    name: str
    state: str = ""
    is_available: bool = True
    availability_error: str | None = None
    device_type_identifier: str | None = None
    last_booted_at: str | None = None


class _SimList(_Answer, frozen=True, kw_only=True):
    runtimes: list[msgspec.Raw] = []
    devicetypes: list[msgspec.Raw] = []
    devices: dict[str, list[msgspec.Raw]] = {}


class Simulator(msgspec.Struct, frozen=True):
    """A simulator with what the rest of the listing says of it."""

    device: SimDevice
    platform: str
    version: str
    model: str | None


def simulators(answer: bytes) -> list[Simulator]:
    """Read ``simctl list -j``. Simulators of platforms that anvild has no name for are left out."""
    listed = decode(answer, _SimList, "simctl list")
    runtimes = {one.identifier: one for one in readable(listed.runtimes, SimRuntime)}
    models = {one.identifier: one.name for one in readable(listed.devicetypes, SimDeviceType)}
    found = []
    for identifier, devices in listed.devices.items():
        named = RUNTIME.search(identifier)
        runtime = runtimes.get(identifier)
        platform = (runtime.platform if runtime else None) or (named[1] if named else "")
        version = (runtime.version if runtime else "") or (named[2].replace("-", ".") if named else "")
        if platform.lower() in PLATFORMS:
            for device in readable(devices, SimDevice):
                model = models.get(device.device_type_identifier or "") or None
                found.append(Simulator(device, PLATFORMS[platform.lower()], version, model))
    return found


# devicectl list devices --json-output FILE


class _Connection(_Answer, frozen=True, kw_only=True):
    pairing_state: str = ""
    transport_type: str | None = None
    tunnel_state: str = ""


class _Properties(_Answer, frozen=True, kw_only=True):
    name: str | None = None
    os_version_number: str | None = None
    os_build_update: str | None = None
    developer_mode_status: str | None = None


class _Hardware(_Answer, frozen=True, kw_only=True):
    udid: str
    platform: str = ""
    device_type: str | None = None
    product_type: str | None = None
    marketing_name: str | None = None
    reality: str | None = None
    serial_number: str | None = None


class PairedDevice(_Answer, frozen=True, kw_only=True):
    """A device that a Mac knows. ``identifier`` is CoreDevice's own; the UDID is in ``hardware_properties``.

    A device is listed for ever once it was paired; ``tunnel_state`` says whether it is there.
    """

    identifier: str = ""
    connection_properties: _Connection = _Connection()
    device_properties: _Properties = _Properties()
    hardware_properties: _Hardware

    @property
    def platform(self) -> str | None:
        return PLATFORMS.get(self.hardware_properties.platform.lower())


class _Devices(_Answer, frozen=True, kw_only=True):
    devices: list[msgspec.Raw] = []


class _Info(_Answer, frozen=True, kw_only=True):
    outcome: str = ""


class _DeviceList(_Answer, frozen=True, kw_only=True):
    info: _Info = _Info()
    result: _Devices = _Devices()


def paired_devices(answer: bytes) -> list[PairedDevice]:
    """Read ``devicectl list devices``. Simulators, and platforms that anvild has no name for, are left out."""
    listed = decode(answer, _DeviceList, "devicectl list devices")
    return [
        device
        for device in readable(listed.result.devices, PairedDevice)
        if device.platform is not None and device.hardware_properties.reality in (None, "physical")
    ]


class DeviceApp(_Answer, frozen=True, kw_only=True):
    """An app on a paired device. ``url`` is where its bundle is on the device."""

    bundle_identifier: str
    name: str | None = None
    version: str | None = None
    bundle_version: str | None = None
    built_by_developer: bool = False
    removable: bool = True
    url: str | None = None


class _Apps(_Answer, frozen=True, kw_only=True):
    apps: list[msgspec.Raw] = []


class _AppList(_Answer, frozen=True, kw_only=True):
    result: _Apps = _Apps()


def device_apps(answer: bytes) -> list[DeviceApp]:
    """Read ``devicectl device info apps``."""
    return readable(decode(answer, _AppList, "devicectl device info apps").result.apps, DeviceApp)


class DeviceProcess(_Answer, frozen=True, kw_only=True):
    """A process on a paired device."""

    process_identifier: int
    executable: str = ""


class _Processes(_Answer, frozen=True, kw_only=True):
    running_processes: list[msgspec.Raw] = []


class _ProcessList(_Answer, frozen=True, kw_only=True):
    result: _Processes = _Processes()


def device_processes(answer: bytes) -> list[DeviceProcess]:
    """Read ``devicectl device info processes``."""
    return readable(
        decode(answer, _ProcessList, "devicectl device info processes").result.running_processes, DeviceProcess
    )


# simctl listapps, as plutil turns it into JSON


class SimApp(msgspec.Struct, frozen=True, kw_only=True):
    """An app on a simulator."""

    identifier: str = msgspec.field(name="CFBundleIdentifier")
    kind: str = msgspec.field(name="ApplicationType", default="User")
    display_name: str | None = msgspec.field(name="CFBundleDisplayName", default=None)
    name: str | None = msgspec.field(name="CFBundleName", default=None)
    version: str | None = msgspec.field(name="CFBundleVersion", default=None)


def simulator_apps(answer: bytes) -> list[SimApp]:
    """Read ``simctl listapps`` after ``plutil -convert json``."""
    return readable(decode(answer, dict[str, msgspec.Raw], "simctl listapps").values(), SimApp)


class BundleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The Info.plist of an app."""

    identifier: str = msgspec.field(name="CFBundleIdentifier")
    display_name: str | None = msgspec.field(name="CFBundleDisplayName", default=None)
    name: str | None = msgspec.field(name="CFBundleName", default=None)
    version: str | None = msgspec.field(name="CFBundleShortVersionString", default=None)


# system_profiler SPHardwareDataType -json


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What a Mac is."""

    uuid: str = msgspec.field(name="platform_UUID")
    model: str | None = msgspec.field(name="machine_model", default=None)
    name: str | None = msgspec.field(name="machine_name", default=None)
    chip: str | None = msgspec.field(name="chip_type", default=None)
    memory: str | None = msgspec.field(name="physical_memory", default=None)


class _Profile(msgspec.Struct, frozen=True, kw_only=True):
    hardware: list[Hardware] = msgspec.field(name="SPHardwareDataType")


def hardware(answer: bytes) -> Hardware:
    """Read ``system_profiler SPHardwareDataType -json``."""
    profile = decode(answer, _Profile, "system_profiler")
    if not profile.hardware:
        raise DriverFault("system_profiler did not say what the Mac is")
    return profile.hardware[0]


# reading


def decode(answer: bytes, kind: type[T], tool: str) -> T:
    """Read a whole answer. Raises DriverFault when its frame is another one than the driver knows."""
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.DecodeError as error:
        raise DriverFault(f"{tool} answered in a way that the driver does not understand: {error}") from None


def readable(entries: Iterable[msgspec.Raw], kind: type[T]) -> list[T]:
    """Read the entries that can be read."""
    found = []
    for entry in entries:
        try:
            found.append(msgspec.json.decode(entry, type=kind))
        except msgspec.ValidationError:
            continue
    return found
