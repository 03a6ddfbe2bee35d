"""The small tools of the system: properties, settings, battery, input, power."""

from __future__ import annotations

from collections.abc import Callable

from .calls import Call, Handler
from .spec import DeviceSpec

__all__ = ["Battery", "System"]

NAMESPACES = ("system", "secure", "global")


class Battery:
    """The battery's charge and temperature."""

    def __init__(self, percent: int, temperature: float) -> None:
        self.percent = percent
        self.temperature = temperature

    def report(self) -> str:
        """What ``dumpsys battery`` prints."""
        return "\n".join(
            (
                "Current Battery Service state:",
                "  AC powered: false",
                "  USB powered: true",
                "  Wireless powered: false",
                "  Dock powered: false",
                "  Max charging current: 500000",
                "  Max charging voltage: 5000000",
                "  Charge counter: 3400000",
                f"  status: {5 if self.percent == 100 else 2}",
                "  health: 2",
                "  present: true",
                f"  level: {self.percent}",
                "  scale: 100",
                f"  voltage: {3400 + 9 * self.percent}",
                f"  temperature: {round(self.temperature * 10)}",
                "  technology: Li-ion",
            )
        )


class System:
    """Properties, settings, battery and power of one device; ``reboot`` is called with the reason."""

    def __init__(self, spec: DeviceSpec, reboot: Callable[[str], None]) -> None:
        self.battery = Battery(spec.battery, spec.temperature)
        self.properties = {
            "ro.serialno": spec.serial,
            "ro.boot.serialno": spec.serial,
            "ro.product.model": spec.model,
            "ro.product.name": spec.product,
            "ro.product.device": spec.product,
            "ro.product.brand": "Anvil",
            "ro.product.manufacturer": "Anvil",
            "ro.product.cpu.abi": "x86_64",
            "ro.product.cpu.abilist": "x86_64,arm64-v8a",
            "ro.build.id": spec.build,
            "ro.build.display.id": spec.build,
            "ro.build.fingerprint": f"Anvil/{spec.product}/{spec.product}:{spec.android}/{spec.build}:user",
            "ro.build.type": "user",
            "ro.build.characteristics": "default",
            "ro.build.version.release": spec.android,
            "ro.build.version.sdk": str(spec.sdk),
            "ro.build.version.incremental": "1",
            "ro.hardware": spec.product,
            "ro.kernel.qemu": "0",
            "ro.debuggable": "0",
            "ro.secure": "1",
            "ro.adb.secure": "0" if spec.authorised else "1",
            "persist.sys.timezone": "GMT",
            "persist.sys.locale": "en-US",
            "init.svc.adbd": "running",
            "service.adb.tcp.port": "",
            "sys.boot_completed": "",
            "dev.bootcomplete": "",
            "init.svc.bootanim": "running",
        }
        self.settings: dict[str, dict[str, str]] = {
            "system": {"screen_brightness": "128"},
            "secure": {"android_id": "a0b1c2d3e4f50617"},
            "global": {"adb_enabled": "1", "device_name": spec.model, "stay_on_while_plugged_in": "0"},
        }
        self._size = spec.screen
        self._reboot = reboot
        self.tools: dict[str, Handler] = {
            "getprop": self._getprop,
            "setprop": self._setprop,
            "settings": self._settings,
            "input": self._input,
            "wm": self._wm,
            "svc": self._svc,
            "reboot": self._reboot_tool,
        }

    @property
    def booted(self) -> bool:
        """Whether the device has finished its boot."""
        return self.properties["sys.boot_completed"] == "1"

    def boot_begins(self) -> None:
        """Look as a device does that still boots."""
        self.properties.update({"sys.boot_completed": "", "dev.bootcomplete": "", "init.svc.bootanim": "running"})

    def boot_ends(self) -> None:
        """Look as a device does that has booted."""
        self.properties.update({"sys.boot_completed": "1", "dev.bootcomplete": "1", "init.svc.bootanim": "stopped"})

    async def _getprop(self, call: Call) -> int:
        if not call.arguments:
            await call.say("\n".join(f"[{name}]: [{self.properties[name]}]" for name in sorted(self.properties)))
            return 0
        default = call.arguments[1] if len(call.arguments) > 1 else ""
        await call.say(self.properties.get(call.arguments[0], "") or default)
        return 0

    async def _setprop(self, call: Call) -> int:
        if len(call.arguments) != 2:
            await call.complain("usage: setprop NAME VALUE")
            return 1
        name, value = call.arguments
        if name.startswith("ro."):
            await call.complain(f"Failed to set property '{name}' to '{value}'.\nSee dmesg for error reason.")
            return 1
        self.properties[name] = value
        return 0

    async def _settings(self, call: Call) -> int:
        verb, namespace, *rest = [*call.arguments, "", ""][: max(len(call.arguments), 2)]
        table = self.settings.get(namespace)
        if table is None or (verb != "list" and not rest) or (verb == "put" and len(rest) < 2):
            await call.complain("Invalid arguments: usage: settings get|put|delete|list NAMESPACE [KEY] [VALUE]")
            return 255
        if verb == "get":
            await call.say(table.get(rest[0], "null"))
        elif verb == "put":
            table[rest[0]] = rest[1]
        elif verb == "delete":
            await call.say(f"Deleted {int(table.pop(rest[0], None) is not None)} rows")
        else:
            await call.say("\n".join(f"{name}={value}" for name, value in sorted(table.items())))
        return 0

    async def _input(self, call: Call) -> int:
        if not call.arguments or call.arguments[0] not in ("text", "keyevent", "tap", "swipe", "press", "roll"):
            await call.complain("Error: Unknown command: " + " ".join(call.arguments[:1]))
            return 255
        return 0

    async def _wm(self, call: Call) -> int:
        if call.arguments[:1] == ["density"]:
            await call.say("Physical density: 420")
        elif call.arguments[:1] == ["size"]:
            await call.say(f"Physical size: {self._size[0]}x{self._size[1]}")
        else:
            await call.complain("Unknown command: " + " ".join(call.arguments))
            return 255
        return 0

    async def _svc(self, call: Call) -> int:
        if call.arguments[:2] == ["power", "reboot"]:
            self._reboot(" ".join(call.arguments[2:]))
        elif call.arguments[:1] not in (["power"], ["wifi"], ["data"], ["bluetooth"], ["usb"], ["nfc"]):
            await call.say("Available commands:\n    power\n    wifi\n    data\n    bluetooth\n    usb\n    nfc")
            return 1
        return 0

    async def _reboot_tool(self, call: Call) -> int:
        self._reboot(" ".join(call.arguments))
        return 0

    async def dump_battery(self, call: Call) -> int:
        """``dumpsys battery``, with its changes: ``set level N``, ``set temp N``, ``reset``."""
        match call.arguments:
            case ["set", "level", value] if value.isdecimal():
                self.battery.percent = int(value)
            case ["set", "temp", value] if value.isdecimal():
                self.battery.temperature = int(value) / 10
            case ["reset"] | ["unplug"]:
                pass
            case []:
                await call.say(self.battery.report())
            case other:
                await call.say("Unknown battery command: " + " ".join(other))
                return 1
        return 0
