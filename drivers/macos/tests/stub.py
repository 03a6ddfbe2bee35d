"""Apple's tools, as far as the driver uses them: strict about their arguments, answering with recorded output.

    python stub.py TOOL ARGUMENT...

What changes (booted simulators, installed apps) is kept in ``$STUB_HOME/state.json``; every call is noted in
``$STUB_HOME/calls``. An argument that the real tool would not be given by this driver ends with 64.
"""

import fcntl
import json
import os
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

RECORDED = Path(__file__).with_name("recorded")
HOME = Path(os.environ["STUB_HOME"])
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40 + b"\0\0\0\0IEND\xaeB`\x82"
SIMULATORS = [f"11111111-0000-4000-8000-00000000000{n}" for n in range(1, 7)]
PHONE = "00008110-001A2B3C4D5E6F70"


def refuse(words):
    with (HOME / "refused").open("a") as noted:
        noted.write(f"{words}\n")
    sys.stderr.write(f"stub: the arguments are not those of the tool: {words}\n")
    sys.exit(64)


def fail(code, text):
    sys.stderr.write(text + "\n")
    sys.exit(code)


@contextmanager
def state():
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = HOME / "state.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        known = {"booted": [], "apps": {}, "running": {}, "modes": {}, "restarts": 0, "away": 0, **known}
        yield known
        path.write_text(json.dumps(known))


def mode(name, default=None):
    with state() as known:
        return known["modes"].get(name, default)


def recorded(name):
    return (RECORDED / name).read_text()


# simctl


def sim_error(code, text):
    fail(
        code,
        f"An error was encountered processing the command (domain=com.apple.CoreSimulator.SimError, code=405):\n{text}",
    )


def booted(udid):
    if udid not in SIMULATORS:
        fail(148, f"Invalid device: {udid}")
    with state() as known:
        if udid not in known["booted"]:
            sim_error(149, "Unable to lookup in current state: Shutdown")


def simctl(words):
    match words:
        case ["list", "-j"]:
            listed = json.loads(recorded("simctl-list.json"))
            with state() as known:
                for devices in listed["devices"].values():
                    for device in devices:
                        if device["udid"] in known["booted"]:
                            device["state"] = "Booted"
                extra = known["modes"].get("extra_simulator")
                if extra:
                    listed["devices"]["com.apple.CoreSimulator.SimRuntime.iOS-17-5"].append(extra)
            print(json.dumps(listed))
        case ["boot", udid] if udid in SIMULATORS:
            with state() as known:
                if udid in known["booted"]:
                    sim_error(149, "Unable to boot device in current state: Booted")
                known["booted"].append(udid)
        case ["bootstatus", udid] if udid in SIMULATORS:
            booted(udid)
            print("Monitoring boot status for iPhone 15.\nFinished")
        case ["shutdown", udid] if udid in SIMULATORS:
            with state() as known:
                if udid not in known["booted"]:
                    sim_error(149, "Unable to shutdown device in current state: Shutdown")
                known["booted"].remove(udid)
                known["running"].pop(udid, None)
        case ["erase", udid] if udid in SIMULATORS:
            with state() as known:
                if udid in known["booted"]:
                    sim_error(149, "Unable to erase contents and settings in current state: Booted")
                known["apps"].pop(udid, None)
        case ["listapps", udid]:
            booted(udid)
            with state() as known:
                apps = known["apps"].get(udid, {})
            lines = ["{"]
            for app in [{"id": "com.apple.Maps", "name": "Maps", "version": "1.0", "type": "System"}, *apps.values()]:
                lines += [
                    f'    "{app["id"]}" =     {{',
                    f"        ApplicationType = {app.get('type', 'User')};",
                    f'        CFBundleDisplayName = "{app["name"]}";',
                    f'        CFBundleIdentifier = "{app["id"]}";',
                    f'        CFBundleVersion = "{app["version"]}";',
                    "    };",
                ]
            print("\n".join([*lines, "}"]))
        case ["install", udid, path]:
            booted(udid)
            app = bundle(path)
            if app["id"] == "demo.refused":
                sim_error(13, "The app is not built for this platform")
            with state() as known:
                known["apps"].setdefault(udid, {})[app["id"]] = app
        case ["uninstall", udid, app]:
            booted(udid)
            with state() as known:
                known["apps"].get(udid, {}).pop(app, None)
        case ["launch", "--terminate-running-process", udid, app, *arguments]:
            booted(udid)
            env = {name: value for name, value in os.environ.items() if name.startswith("SIMCTL_CHILD_")}
            with state() as known:
                known["running"].setdefault(udid, {})[app] = {"arguments": arguments, "env": env}
            print(f"{app}: 4242")
        case ["terminate", udid, app]:
            booted(udid)
            with state() as known:
                if known["running"].get(udid, {}).pop(app, None) is None:
                    sim_error(3, "found nothing to terminate")
        case ["get_app_container", udid, app, "data"]:
            booted(udid)
            print(HOME / "containers" / app)
        case ["io", udid, "screenshot", "--type=png", path]:
            booted(udid)
            Path(path).write_bytes(PNG)
            sys.stderr.write(f"Wrote screenshot to: {path}\n")
        case ["io", udid, "recordVideo", "--codec=h264", "--force", path]:
            booted(udid)
            record(path, "Recording started\n")
        case ["spawn", udid, "log", *rest]:
            booted(udid)
            log(rest)
        case _:
            refuse(words)


def bundle(path):
    import plistlib  # here, because most calls need none of it and a test makes many calls

    folder = Path(path)
    if folder.suffix != ".app" or not (folder / "Info.plist").is_file():
        refuse(["no app", path])
    info = plistlib.loads((folder / "Info.plist").read_bytes())
    return {
        "id": info["CFBundleIdentifier"],
        "name": info.get("CFBundleName", "?"),
        "version": info.get("CFBundleShortVersionString", "0"),
    }


def record(path, greeting):
    import signal  # likewise

    ended = []
    signal.signal(signal.SIGINT, lambda *_: ended.append(True))
    (HOME / "recording").touch()
    sys.stderr.write(greeting)
    sys.stderr.flush()
    while not ended:
        time.sleep(0.02)
    Path(path).write_bytes(b"video" * 1000)


# devicectl


def devicectl(words):
    def answer(path, found):
        Path(path).write_text(found if isinstance(found, str) else json.dumps(found))
        print("for people, not for programs")

    def there(udid):
        if udid != PHONE or mode("phone") == "away":
            fail(
                1,
                "ERROR: The specified device was not found. (Name: "
                + udid
                + ") (com.apple.dt.CoreDeviceError error 1000.)\n       hint",
            )

    match words:
        case ["list", "devices", "--timeout", "10", "--json-output", path]:
            if mode("devicectl") == "broken":
                fail(1, "ERROR: CoreDeviceService was unable to locate a device")
            listed = json.loads(recorded("devicectl-list.json"))
            if mode("phone") == "away":
                listed["result"]["devices"][0]["connectionProperties"]["tunnelState"] = "unavailable"
            with state() as known:
                if known["away"]:
                    known["away"] -= 1
                    listed["result"]["devices"][0]["connectionProperties"]["tunnelState"] = "unavailable"
            answer(path, listed)
        case ["device", "info", "apps", "--device", udid, "--json-output", path, "--include-all-apps"]:
            there(udid)
            listed = json.loads(recorded("devicectl-apps.json"))
            with state() as known:
                for app in known["apps"].get(udid, {}).values():
                    url = f"file:///private/var/containers/Bundle/Application/B/{app['name']}.app/"
                    listed["result"]["apps"].append(
                        {"bundleIdentifier": app["id"], "name": app["name"], "version": app["version"], "url": url}
                    )
            answer(path, listed)
        case ["device", "info", "processes", "--device", udid, "--json-output", path]:
            there(udid)
            listed = json.loads(recorded("devicectl-processes.json"))
            with state() as known:
                for number, app in enumerate(known["running"].get(udid, {})):
                    name = known["apps"][udid][app]["name"]
                    url = f"file:///private/var/containers/Bundle/Application/B/{name}.app/{name}"
                    listed["result"]["runningProcesses"].append({"processIdentifier": 900 + number, "executable": url})
            answer(path, listed)
        case ["device", "install", "app", "--device", udid, "--json-output", path, package]:
            there(udid)
            app = bundle(package)
            if app["id"] == "demo.refused":
                fail(1, "ERROR: The application failed to install: no valid provisioning profile\n       NSURL = file")
            with state() as known:
                known["apps"].setdefault(udid, {})[app["id"]] = app
            answer(path, {"info": {"outcome": "success"}})
        case ["device", "uninstall", "app", "--device", udid, "--json-output", path, app]:
            there(udid)
            with state() as known:
                del known["apps"][udid][app]
            answer(path, {"info": {"outcome": "success"}})
        case ["device", "process", "launch", "--device", udid, "--json-output", path, "--terminate-existing", *rest]:
            there(udid)
            env = {}
            if rest[0] == "--environment-variables":
                env, rest = json.loads(rest[1]), rest[2:]
            with state() as known:
                known["running"].setdefault(udid, {})[rest[0]] = {"arguments": rest[1:], "env": env}
            answer(path, {"info": {"outcome": "success"}})
        case ["device", "process", "terminate", "--device", udid, "--json-output", path, "--pid", pid]:
            there(udid)
            with state() as known:
                del known["running"][udid][list(known["running"][udid])[int(pid) - 900]]
            answer(path, {"info": {"outcome": "success"}})
        case ["device", "reboot", "--device", udid, "--json-output", path]:
            there(udid)
            with state() as known:
                known["away"] = 3  # looks, of whomever
            answer(path, {"info": {"outcome": "success"}})
        case _:
            refuse(words)


# Xcode


def xcresulttool(words):
    match words:
        case ["get", "test-results", ("tests" | "summary") as what, "--path", path]:
            if not Path(path).is_dir():
                fail(1, f"Error: No file exists at {path}")
            found = json.loads(recorded(f"xcresult-{what}.json"))
            only = json.loads((Path(path) / "only").read_text())
            if only and what == "tests":
                for suite in found["testNodes"][0]["children"][0]["children"]:
                    suite["children"] = [case for case in suite["children"] if chosen(case["nodeIdentifier"], only)]
            print(json.dumps(found))
        case ["export", "attachments", "--path", path, "--output-path", folder]:
            target = Path(folder)
            target.mkdir()
            (target / "manifest.json").write_text(recorded("xcresult-manifest.json"))
            (target / "2F3A.txt").write_text("some notes")
            (target / "9C1D.png").write_bytes(PNG)
            print(f"Exported 2 attachments of {path} to: {folder}")
        case _:
            refuse(words)


def chosen(identifier, only):
    """Whether a test of the recorded bundle is among those that -only-testing names."""
    name = f"DemoTests/{identifier.removesuffix('()')}"
    return not only or any(name == each or name.startswith(f"{each}/") for each in only)


def xcodebuild(words):
    rest = list(words)
    if rest == ["-version"]:
        version = mode("xcode", "16.2")
        if version == "none":
            fail(
                1, "xcode-select: error: tool 'xcodebuild' requires Xcode, but active is a command line tools instance"
            )
        print(f"Xcode {version}\nBuild version 16C5032a")
        return
    head = rest.pop(0)
    if head not in ("test", "test-without-building"):
        refuse(words)
    wanted = {"-destination", "-resultBundlePath"} | ({"-xctestrun"} if head != "test" else {"-scheme"})
    given, only = {}, []
    while rest:
        option = rest.pop(0)
        if option.startswith("-only-testing:"):
            only.append(option.removeprefix("-only-testing:"))
            continue
        if option.startswith("-skip-testing:"):
            continue
        known = wanted | {"-project", "-workspace", "-testPlan", "-configuration", "-test-iterations"}
        if option not in known or not rest:
            refuse(words)
        given[option] = rest.pop(0)
    if wanted - set(given) or not re.fullmatch(r"id=[-0-9A-F]+|platform=macOS", given["-destination"]):
        refuse(words)
    (HOME / "environment").write_text(json.dumps(dict(os.environ)))
    runner = Path(given.get("-xctestrun", "project")).stem
    if runner == "Broken":
        print("xcodebuild: error: Unable to find a destination matching the provided destination specifier")
        sys.exit(70)
    for line in recorded("xcodebuild-output.txt").splitlines(keepends=True):
        case = re.search(r"-\[DemoTests\.(\w+) (\w+)\]", line)
        if case and not chosen(f"{case[1]}/{case[2]}", only):
            continue
        hanging = runner == "Hang" and "testWrongPassword]' started" in line
        if hanging:
            (HOME / "hanging").write_text(str(os.getpid()))
        sys.stdout.write(line)
        sys.stdout.flush()
        if hanging:
            time.sleep(600)
    Path(given["-resultBundlePath"]).mkdir()
    (Path(given["-resultBundlePath"]) / "Info.plist").write_text("version 3")
    (Path(given["-resultBundlePath"]) / "only").write_text(json.dumps(only))
    sys.exit(65)


# the rest


def log(words):
    match words:
        case ["stream", "--style", "syslog"]:
            print("Filtering the log data using no predicate", flush=True)
            while True:
                print(f"live line {time.time()}", flush=True)
                time.sleep(0.05)
        case ["show", "--style", "syslog"]:
            print("Timestamp                       (process)[PID]\nan old line\na new line")
        case ["show", "--start", start, "--style", "syslog"] if re.fullmatch(r"@\d+", start):
            print(f"a new line since {start}")
        case _:
            refuse(words)


def stat(words):
    """stat of macOS, by the letters that the driver uses."""
    names = {
        1: "Fifo File",
        4: "Directory",
        8: "Regular File",
        10: "Symbolic Link",
        2: "Character Device",
        12: "Socket",
    }
    if words[0] != "-f":
        refuse(words)
    for path in words[2:]:
        found = os.lstat(path)
        letters = {
            "%HT": names.get(found.st_mode >> 12, "???"),
            "%z": str(found.st_size),
            "%p": f"{found.st_mode:o}",
            "%Fm": f"{found.st_mtime_ns // 10**9}.{found.st_mtime_ns % 10**9:09}",
            "%Su": "root" if found.st_uid == 0 else str(found.st_uid),
            "%Sg": str(found.st_gid),
            "%Y": str(Path(path).readlink()) if found.st_mode >> 12 == 10 else "",
            "%N": path,
            "%t": "\t",
        }
        letter = re.compile(r"%(?:HT|Fm|Su|Sg|[zpYNt])")
        if letter.sub("", words[1]).count("%"):
            refuse(words)
        text = letter.sub(lambda found, letters=letters: letters[found[0]], words[1])
        sys.stdout.buffer.write(os.fsencode(text + "\n"))


def plutil(words):
    import plistlib  # likewise

    match words:
        case ["-convert", "json", "-o", "-", "-"]:
            text = sys.stdin.read()
            if not text.strip():
                fail(1, "<stdin>: Property List error: Unexpected end of file")
            found = {}
            for name, body in re.findall(r'"([^"]+)" =     \{(.*?)\n    \};', text, re.DOTALL):
                found[name] = {key: value.strip('"') for key, value in re.findall(r"(\w+) = (.+);", body)}
            print(json.dumps(found))
        case ["-convert", "json", "-o", "-", path]:
            try:
                print(json.dumps(plistlib.loads(Path(path).read_bytes())))
            except (OSError, plistlib.InvalidFileException):
                fail(1, f"{path}: file does not exist or is not readable or is not a regular file")
        case _:
            refuse(words)


def ditto(words):
    import zipfile  # likewise

    match words:
        case ["-x", "-k", packed, folder]:
            try:
                with zipfile.ZipFile(packed) as archive:
                    archive.extractall(folder)
            except zipfile.BadZipFile:
                fail(1, "ditto: Couldn't read PKZip signature")
        case ["-c", "-k", "--keepParent", folder, packed]:
            source = Path(folder)
            with zipfile.ZipFile(packed, "w") as archive:
                for path in source.rglob("*"):
                    archive.write(path, path.relative_to(source.parent))
        case _:
            refuse(words)


def main(tool, words):
    with (HOME / "calls").open("a") as calls:
        calls.write(json.dumps([tool, *words]) + "\n")
    match [tool, *words]:
        case ["xcrun", "simctl", *rest]:
            simctl(rest)
        case ["xcrun", "devicectl", *rest]:
            devicectl(rest)
        case ["xcrun", "xcresulttool", *rest]:
            xcresulttool(rest)
        case ["xcodebuild", *rest] if rest:
            xcodebuild(rest)
        case ["log", *rest]:
            log(rest)
        case ["stat", _, _, *_]:
            stat(words)
        case ["plutil", *_]:
            plutil(words)
        case ["ditto", *_]:
            ditto(words)
        case ["sysctl", "-n", "kern.boottime"]:
            with state() as known:
                print(f"{{ sec = {1700000000 + known['restarts']}, usec = 123456 }} Tue Nov 14 22:13:20 2023")
        case ["sudo", "-n", "-l", "/sbin/shutdown"]:
            sys.exit(0 if mode("sudo") else 1)
        case ["sudo", "-n", "/sbin/shutdown", "-r", "now"] if mode("sudo") == "slow":
            (HOME / "restart").touch()
            time.sleep(60)
        case ["sudo", "-n", "/sbin/shutdown", "-r", "now"] if mode("sudo"):
            with state() as known:
                known["restarts"] += 1
            (HOME / "restart").touch()
        case ["screencapture", "-x", "-t", "png", path]:
            Path(path).write_bytes(PNG)
        case ["screencapture", "-v", "-x", path]:
            record(path, "")
        case ["killall", "-9", "com.apple.CoreSimulator.CoreSimulatorService"]:
            with state() as known:
                known["booted"] = []
        case _:
            refuse([tool, *words])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
