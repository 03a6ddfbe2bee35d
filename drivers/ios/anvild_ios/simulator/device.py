"""One simulated device: what it is, what is on it, and what happens to it."""

from __future__ import annotations

import itertools
import time
from collections import deque
from datetime import datetime
from typing import Any

import trio

from .disk import Disk
from .packages import Package

__all__ = ["InstalledApp", "SimulatedDevice", "make_devices"]

LOG_LINES = 200
KINDS = (
    ("iPhone", "iPhone12,1", "N104AP", "16.7.10", "20H350"),
    ("iPhone", "iPhone14,5", "D17AP", "17.5.1", "21F90"),
    ("iPad", "iPad13,4", "J517AP", "15.8.3", "19H386"),
)
SYSTEM_APPS = (("com.apple.Preferences", "Settings", "1161"), ("com.apple.mobilesafari", "Safari", "17.5"))
CONTAINER = ("Documents", "Library/Caches", "Library/Preferences", "tmp")
CRASH = """\
{{"app_name":"{process}","timestamp":"{at}","bundleID":"com.example.{process}","os_version":"iPhone OS {version}"}}
{{"procName":"{process}","termination":{{"namespace":"SIGNAL","code":6,"indicator":"Abort trap: 6"}}}}
"""


class InstalledApp:
    """An app on a simulated device, with its own files."""

    def __init__(self, info: dict[str, Any], *, system: bool = False) -> None:
        self.info = info
        self.system = system
        self.container = Disk(limit=64 * 2**20)
        for folder in CONTAINER:
            self.container.make(folder)

    @property
    def bundle(self) -> str:
        return str(self.info["CFBundleIdentifier"])

    def described(self, attributes: list[str] | None) -> dict[str, Any]:
        """What the installation service tells of it."""
        known = {
            "CFBundleDisplayName": self.info.get("CFBundleName", self.bundle),
            "CFBundleExecutable": self.info.get("CFBundleName", "App"),
            "CFBundleVersion": "1",
            **self.info,
            "ApplicationType": "System" if self.system else "User",
            "Path": f"/private/var/containers/Bundle/Application/{self.bundle}.app",
            "Container": f"/private/var/mobile/Containers/Data/Application/{self.bundle}",
            "Entitlements": {"get-task-allow": not self.system},
        }
        return known if attributes is None else {name: known[name] for name in attributes if name in known}


class SimulatedDevice:
    """A device and its state. ``trusted`` says that its person has trusted the host, ``locked`` that it has not been
    unlocked since its start; with ``tls`` False it speaks in the clear, as very old ones do.

    ``install_gate``, when set, holds installations back until the event is set.
    """

    def __init__(
        self, udid: str, name: str, *, product: tuple[str, str, str, str, str] = KINDS[0], tls: bool = True
    ) -> None:
        self.udid = udid
        self.name = name
        self.kind, self.product_type, self.hardware, self.version, self.build = product
        self.tls = tls
        self.trusted = True
        self.locked = False
        self.battery = 85
        self.charging = True
        self.developer_mode = True
        self.boots = 1
        self.clock_offset = 0.0
        self.install_gate: trio.Event | None = None
        self.restart_wanted = False
        self.media = Disk()
        for folder in ("DCIM", "Downloads", "PublicStaging", "Books"):
            self.media.make(folder)
        self.crashes = Disk()
        self.apps: dict[str, InstalledApp] = {}
        for bundle, title, version in SYSTEM_APPS:
            self._add(bundle, title, version, system=True)
        self._add("com.example.notes", "Notes", "2.1", system=False)
        self.running: dict[str, int] = {}
        self._pids = itertools.count(300)
        self.backlog: deque[str] = deque(maxlen=LOG_LINES)
        self._readers: set[trio.MemorySendChannel[str]] = set()
        self._observers: set[trio.MemorySendChannel[str]] = set()
        self.log("kernel", f"{self.name} started, boot {self.boots}")

    def _add(self, bundle: str, title: str, version: str, *, system: bool) -> None:
        info = {"CFBundleIdentifier": bundle, "CFBundleName": title, "CFBundleShortVersionString": version}
        self.apps[bundle] = InstalledApp(info, system=system)

    @property
    def developer_services(self) -> bool:
        """Whether developer services are offered over the cable itself: from version 17 on they need a tunnel."""
        return self.developer_mode and int(self.version.partition(".")[0]) < 17

    @property
    def now(self) -> float:
        """The device's clock in Unix seconds."""
        return time.time() + self.clock_offset

    def values(self, *, paired: bool) -> dict[str, Any]:
        """What lockdownd tells with no domain; a stranger hears less."""
        public = {
            "DeviceClass": self.kind,
            "DeviceName": self.name,
            "ProductType": self.product_type,
            "ProductVersion": self.version,
            "ProductName": "iPhone OS",
            "BuildVersion": self.build,
            "HardwareModel": self.hardware,
            "UniqueDeviceID": self.udid,
            "CPUArchitecture": "arm64e",
            "WiFiAddress": "02:00:00:00:00:01",
        }
        if not paired:
            return public
        return {
            **public,
            "ActivationState": "Activated",
            "PasswordProtected": self.locked,
            "SerialNumber": f"SIM{self.udid[-8:]}",
            "TimeIntervalSince1970": self.now,
            "TimeZone": "UTC",
            "TimeZoneOffsetFromUTC": 0.0,
            "UniqueChipID": int(self.udid[-8:], 16),
        }

    def domain(self, name: str) -> dict[str, Any]:
        """What lockdownd tells of one domain."""
        if name == "com.apple.mobile.battery":
            return {
                "BatteryCurrentCapacity": self.battery,
                "BatteryIsCharging": self.charging,
                "ExternalConnected": True,
                "FullyCharged": self.battery == 100,
                "HasBattery": True,
            }
        if name == "com.apple.security.mac.amfi":
            return {"DeveloperModeStatus": self.developer_mode}
        if name == "com.apple.disk_usage":
            return {"TotalDiskCapacity": self.media.limit, "AmountDataAvailable": self.media.limit - self.media.used}
        return {}

    # ----- the log

    def log(self, process: str, text: str) -> None:
        """Write a line to the device's log."""
        at = datetime.fromtimestamp(self.now)
        line = f"{at:%b %d %H:%M:%S} {self.name.replace(' ', '-')} {process}[57] <Notice>: {text}"
        self.backlog.append(line)
        _tell(self._readers, line)

    def read_log(self) -> trio.MemoryReceiveChannel[str]:
        """Return a channel of all lines, those that were kept first. The caller closes it."""
        send, receive = trio.open_memory_channel[str](10_000)
        for line in self.backlog:
            send.send_nowait(line)
        self._readers.add(send)
        return receive

    # ----- notifications

    def notify(self, name: str) -> None:
        """Tell observers of something that has happened."""
        _tell(self._observers, name)

    def observe(self) -> trio.MemoryReceiveChannel[str]:
        """Return a channel of notifications' names. The caller closes it."""
        send, receive = trio.open_memory_channel[str](1000)
        self._observers.add(send)
        return receive

    # ----- apps

    def add_app(self, package: Package) -> InstalledApp:
        """Install a package that has passed inspection; files of an app that was there stay."""
        app = InstalledApp(package.info)
        if (there := self.apps.get(app.bundle)) is not None:
            app.container = there.container
        self.apps[app.bundle] = app
        self.log("installd", f"installed {app.bundle}")
        self.notify("com.apple.mobile.application_installed")
        return app

    def remove_app(self, bundle: str) -> bool:
        """Remove an app. False when there is none that may be removed."""
        app = self.apps.get(bundle)
        if app is None or app.system:
            return False
        del self.apps[bundle]
        self.running.pop(bundle, None)
        self.log("installd", f"uninstalled {bundle}")
        self.notify("com.apple.mobile.application_uninstalled")
        return True

    def launch(self, bundle: str) -> int | None:
        """Start an app, anew when it runs. None when it is not installed."""
        if bundle not in self.apps:
            return None
        self.running[bundle] = next(self._pids)
        self.log("SpringBoard", f"launched {bundle}")
        return self.running[bundle]

    def kill(self, pid: int) -> None:
        """End an app by its process."""
        for bundle, known in list(self.running.items()):
            if known == pid:
                del self.running[bundle]
                self.log("SpringBoard", f"ended {bundle}")

    # ----- crashes and restarts

    def crash(self, process: str) -> str:
        """Note a crash of a program and return its report's path."""
        at = datetime.fromtimestamp(self.now)
        path = f"/{process}-{at:%Y-%m-%d-%H%M%S}.ips"
        text = CRASH.format(process=process, at=f"{at:%Y-%m-%d %H:%M:%S}", version=self.version)
        self.crashes.put(path, text.encode(), modified=self.now)
        self.log("ReportCrash", f"saved {path[1:]}")
        return path

    def start_again(self) -> None:
        """Become what a device is after a restart."""
        self.boots += 1
        self.restart_wanted = False
        self.backlog.clear()
        self.running.clear()
        self.log("kernel", f"{self.name} started, boot {self.boots}")


def _tell(listeners: set[trio.MemorySendChannel[str]], word: str) -> None:
    for each in list(listeners):
        try:
            each.send_nowait(word)
        except (trio.BrokenResourceError, trio.WouldBlock):  # gone, or hopelessly behind
            listeners.discard(each)
            each.close()


def make_devices(count: int) -> list[SimulatedDevice]:
    """Make devices of several kinds with identities of their own, the same ones every time."""
    return [
        SimulatedDevice(
            f"00008110-{0x00A5_0000_0000_0000 + number:016X}",
            f"Simulated {KINDS[number % len(KINDS)][0]} {number + 1}",
            product=KINDS[number % len(KINDS)],
        )
        for number in range(count)
    ]
