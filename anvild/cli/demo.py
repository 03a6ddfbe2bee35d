"""``make demo``: the whole of anvild in one go, with the commands that a person would type.

It keeps its data under ``.cache/demo`` of the present directory (``ANVIL_DEMO_DIR`` names another place), so that the
second time finds the guest image built. Nothing in here is special: each step is ``anvil`` or ``anvild``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

READY_SECONDS = 60
STOP_SECONDS = 60

WRITE = "print(6 * 7, file=open('/home/answer', 'w'))"
READ = "print('6 x 7 =', open('/home/answer').read().strip())"

console = Console(highlight=False)


class DemoFailed(Exception):
    """A step did not work; the message says which and what it printed."""


def main() -> int:
    """Run the demo and return the exit status: 0 only when the pipeline passed and everything ended cleanly."""
    directory = Path(os.environ.get("ANVIL_DEMO_DIR", ".cache/demo")).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return _demo(directory)
    except DemoFailed as error:
        console.print(f"[bold red]The demo failed:[/] {error}")
        return 1


def _demo(directory: Path) -> int:
    data, log = directory / "data", directory / "anvild.log"
    began = time.monotonic()
    # No hypervisor can be installed everywhere: then namespaces carry the guest, and the demo says so.
    driver = "microvm" if shutil.which("qemu-system-x86_64") or shutil.which("qemu-system-aarch64") else "sandbox"
    if driver == "sandbox":
        console.print("[yellow]No QEMU on this machine: the guest is a namespace sandbox, which shares this kernel.[/]")
    config = directory / "anvild.toml"
    other = "sandbox" if driver == "microvm" else "microvm"
    phones = shutil.which("adb") is not None and shutil.which("bwrap") is not None
    config.write_text(
        f"[drivers.{other}]\nenabled = false\n[drivers.ios]\nenabled = false\n[drivers.macos]\nenabled = false\n"
        f"[drivers.android]\n{'simulate = 1' if phones else 'enabled = false'}\n"
    )

    keys = _bootstrap(data)
    if driver == "microvm":
        _step("building the guest image (cached after the first time)")
        _run([_program("anvil"), "image", "build", "minimal", "--data-dir", str(data), "--config", str(config)])
    _step("starting the daemon")
    with _daemon(data, config, log) as url:
        console.print(f"  ready at [bold]{url}[/] after {time.monotonic() - began:.1f} s")
        environ = {**os.environ, "ANVIL_URL": url, "ANVIL_API_KEY": keys["live_key"]}
        _step("what runs here")
        _run([_program("anvil"), "drivers"], environ)
        _step(f"running the pipeline smoke on a guest of the driver {driver}")
        started = time.monotonic()
        status = subprocess.run([_program("anvil"), "run", "smoke", "--wait"], env=environ, check=False).returncode
        took = time.monotonic() - started
        run = _latest_run(environ)
        reports = _fetch_artifacts(run["id"], directory / "artifacts", environ)
        rows: list[tuple[str, ...]] = [(run["pipeline"], driver, run["id"][-12:], run["status"], f"{took:.1f} s")]
        if phones:
            rows.append(_phone(directory, environ))
        else:
            console.print("[yellow]A simulated phone needs the packages adb, bubblewrap and busybox-static.[/]")
        steps = _fork("minimal" if driver == "microvm" else "host", environ)
    _show_steps(steps)
    table = Table(title="anvild demo")
    for column in ("pipeline", "driver", "run", "verdict", "took"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    report = next((str(path) for path in reports if path.suffix == ".html"), "missing")
    console.print(f"The report is {report}.", soft_wrap=True)
    console.print(
        f"The API was at {url}/api/v1 (its description: {url}/api/v1/openapi.json). The log is {log}.", soft_wrap=True
    )
    console.print(f"The whole demo took {time.monotonic() - began:.1f} s.")
    return 0 if status == 0 and run["status"] == "passed" else 1


def _phone(directory: Path, environ: dict[str, str]) -> tuple[str, ...]:
    """Test an app on a simulated phone. One of its tests fails, and the demo is good when that comes out."""
    _step("testing an app on a simulated phone: it installs, one of three tests fails, and a screenshot shows it")
    apps, junit = directory / "apps", directory / "junit.xml"
    _run([_program("anvil"), "android", "sample", str(apps)], environ)
    command = [_program("anvil"), "run", "app-tests", "--junit", str(junit)]
    command += ["--input", f"app={apps / 'app.apk'}", "--input", f"tests={apps / 'tests.apk'}"]
    command += ["--param", "package=org.example.notes", "--param", "target=org.example.notes.test"]
    started = time.monotonic()
    status = subprocess.run(command, env=environ, check=False).returncode
    took = time.monotonic() - started
    run = _latest_run(environ)
    files = _fetch_artifacts(run["id"], directory / "artifacts", environ)
    pictures = [path for path in files if path.suffix == ".png"]
    failures = ElementTree.parse(junit).getroot().get("failures")  # noqa: S314  # our own, just written
    if (status, failures, bool(pictures)) != (1, "1", True):
        raise DemoFailed(f"the phone's run ended with {status}, {failures} failures and {len(pictures)} screenshots")
    console.print(f"JUnit: {junit}. Screenshot: {pictures[0]}.", soft_wrap=True)
    return (run["pipeline"], "android", run["id"][-12:], f"{run['status']}, as it should", f"{took:.1f} s")


def _fork(template: str, environ: dict[str, str]) -> list[tuple[str, float]]:
    """Make a capsule, teach it something, and fork it: the copy goes on where the first one was. Returns what took how
    many seconds; each step is a command, whose own start is about a third of a second of it."""
    _step("forking a capsule: the copy goes on where the first one was, with its memory where the driver can")
    steps: list[tuple[str, float]] = []

    def anvil(what: str, *words: str) -> str:
        began = time.monotonic()
        printed = _output([_program("anvil"), "capsule", *words], environ).strip()
        steps.append((what, time.monotonic() - began))
        return printed

    name = f"demo-{secrets.token_hex(4)}"
    first = anvil(f"create a capsule from {template}", "create", template)
    anvil("write a file in it with Python", "exec", first, "--", "python3", "-c", WRITE)
    anvil("take a template of it while it runs", "snapshot", first, name)
    copy = anvil("create a copy from that template", "create", name)
    found = anvil("read the file in the copy with Python", "exec", copy, "--", "python3", "-c", READ)
    for capsule in (first, copy):
        anvil("destroy one of them", "destroy", capsule)
    anvil("remove the template", "remove-template", name)
    if found != "6 x 7 = 42":
        raise DemoFailed(f"the forked capsule said {found!r}")
    console.print(f"  the copy says: {found}")
    return steps


def _show_steps(steps: list[tuple[str, float]]) -> None:
    table = Table(title="a capsule and its fork")
    table.add_column("step")
    table.add_column("took", justify="right")
    for what, seconds in steps:
        table.add_row(what, f"{seconds:.2f} s")
    console.print(table)


def _step(text: str) -> None:
    console.print(f"[bold cyan]·[/] {text}")


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _run(command: list[str], environ: dict[str, str] | None = None) -> None:
    status = subprocess.run(command, env=environ, check=False).returncode
    if status != 0:
        raise DemoFailed(f"{' '.join(Path(part).name for part in command[:3])} ended with status {status}")


def _output(command: list[str], environ: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise DemoFailed(f"{Path(command[0]).name} {command[1]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _bootstrap(data: Path) -> dict[str, str]:
    """Make or find the demo's user. The password lies beside the data, readable by its owner alone."""
    secret = data.with_name("password")
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_urlsafe(16))
    command = [_program("anvil"), "bootstrap", "--data-dir", str(data), "--email", "demo@example.org"]
    keys: dict[str, str] = json.loads(_output([*command, "--password", secret.read_text(), "--json"]))
    return keys


@contextlib.contextmanager
def _daemon(data: Path, config: Path, log: Path) -> Iterator[str]:
    """Run the daemon on a free port; end it, and say so when it does not end cleanly."""
    command = [_program("anvild"), "serve", "--data-dir", str(data), "--config", str(config)]
    with log.open("ab") as errors:
        process = subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=errors)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise DemoFailed(f"the daemon did not start; its log is {log}")
        yield json.loads(line)["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise DemoFailed(f"the daemon did not stop within {STOP_SECONDS} s; its log is {log}") from None
    if status != 0:
        raise DemoFailed(f"the daemon ended with status {status}; its log is {log}")
    _step("the daemon stopped cleanly")


def _latest_run(environ: dict[str, str]) -> dict[str, str]:
    runs = json.loads(_output([_program("anvil"), "runs", "list", "--json"], environ))["runs"]
    run: dict[str, str] = runs[0]
    return run


def _fetch_artifacts(run_id: str, directory: Path, environ: dict[str, str]) -> list[Path]:
    target = directory / run_id
    _output([_program("anvil"), "runs", "fetch", run_id, "--to", str(target), "--json"], environ)
    return sorted(target.iterdir())


if __name__ == "__main__":
    sys.exit(main())
