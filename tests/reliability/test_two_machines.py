"""Two lab machines, each in a network of its own, and the cable between them, which is pulled and put in again."""

from __future__ import annotations

import ctypes
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.daemon import BIN, EMAIL, PASSWORD, PHONES, WITHOUT, environment

SCRIPT = Path(__file__).parents[1] / "support" / "quick_links.py"
LAB, FAR = "198.51.100.1", "198.51.100.2"
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
PATIENCE = 120.0

WRITER = "i=0; while true; do i=$((i+1)); echo $i >> /tmp/lines; echo $i; sleep 0.05; done"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@dataclass(frozen=True)
class Cable:
    """Two network namespaces, and what connects them."""

    lab: str
    far: str

    def pull(self) -> None:
        ip("-n", self.far, "link", "set", "cable", "down")

    def put_in(self) -> None:
        ip("-n", self.far, "link", "set", "cable", "up")


@pytest.fixture
def cable() -> Iterator[Cable]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces are made by root alone")
    made = Cable(f"anvil-lab-{os.getpid()}", f"anvil-far-{os.getpid()}")
    try:
        ip("netns", "add", made.lab)
    except FileNotFoundError:
        pytest.skip("there is no ip command: apt install iproute2")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine lets no network namespace be made: {error.stderr.decode().strip()}")
    with ExitStack() as stack:
        stack.callback(ip, "netns", "delete", made.lab)
        ip("netns", "add", made.far)
        stack.callback(ip, "netns", "delete", made.far)
        ip("-n", made.lab, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", made.far)
        for namespace, address in ((made.lab, LAB), (made.far, FAR)):
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                ip("-n", namespace, "link", "set", link, "up")
        yield made


@dataclass
class Program:
    """One of the two, as a process in its namespace."""

    namespace: str
    role: str
    data_dir: Path
    slots: int
    process: subprocess.Popen[bytes] | None = None
    message: dict[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.data_dir.with_suffix(".log")

    def start(self, *words: str) -> None:
        config = self.data_dir.with_suffix(".toml")
        off = "".join(WITHOUT.format(name) for name in (*PHONES, "microvm"))
        config.write_text(f"[drivers.sandbox]\nslots = {self.slots}\n{off}")
        command = [sys.executable, str(SCRIPT), self.role, str(self.data_dir), str(config), *words]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**environment(), "ANVIL_HOST": self.role, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else b""
        assert line, f"it did not become ready:\n{self.tail()}"
        self.message = json.loads(line)

    def kill(self) -> None:
        self._end("kill")

    def stop(self) -> None:
        self._end("terminate")

    def ended(self) -> int:
        """Wait until it has ended by itself, and return its exit status."""
        assert self.process is not None
        status = self.process.wait(PATIENCE)
        self._end("kill")
        return status

    def _end(self, how: str) -> None:
        if self.process is not None:
            getattr(self.process, how)()
            self.process.wait(PATIENCE)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def tail(self) -> str:
        return self.log.read_bytes()[-6000:].decode(errors="replace") if self.log.exists() else ""


class Client:
    """Asks the daemon from inside its namespace: the thread that does so has gone there."""

    def __init__(self, namespace: str, url: str, headers: dict[str, str]) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=partial(_enter, namespace))
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=False)

    def __call__(self, method: str, path: str, **request: Any) -> httpx2.Response:
        return self._thread.submit(self._http.request, method, path, **request).result()

    def close(self) -> None:
        self._thread.submit(self._http.close).result()
        self._thread.shutdown()


def _enter(namespace: str) -> None:
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


def signed_in(namespace: str, url: str) -> Client:
    """Somebody with a session."""
    nobody = Client(namespace, url, {})
    answer = nobody("POST", "/v1/auth/login", json={"email": EMAIL, "password": PASSWORD})
    nobody.close()
    assert answer.status_code == 200, answer.text
    cookies = dict(line.split(";")[0].split("=", 1) for line in answer.headers.get_list("set-cookie"))
    shown = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return Client(namespace, url, {"Cookie": shown, "X-CSRF-Token": cookies["wrenn_csrf"]})


def until(look: Callable[[], Any], about: Callable[[], str]) -> Any:
    """Wait until it is so. Real daemons have a real clock, so this looks again and again."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, about()
        time.sleep(0.05)
    return found


def test_a_capsule_outlives_a_pulled_cable_and_the_death_of_either_daemon(tmp_path: Path, cable: Cable) -> None:
    lab = Program(cable.lab, "lab", tmp_path / "lab", slots=1)
    far = Program(cable.far, "far", tmp_path / "far", slots=2)
    words = ("--email", EMAIL, "--password", PASSWORD, "--team", "Lab", "--json")
    made = subprocess.run(
        [str(BIN / "anvil"), "bootstrap", "--data-dir", str(lab.data_dir), *words],
        check=True,
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
    )
    with ExitStack() as stack:
        for program in (lab, far):
            stack.callback(program.kill)
        lab.start(f"{LAB}:0")
        url = lab.message["url"]
        client = Client(cable.lab, url, {"X-API-Key": json.loads(made.stdout)["api_key"]})
        stack.callback(client.close)
        admin = signed_in(cable.lab, url)
        stack.callback(admin.close)

        created = admin("POST", "/v1/hosts", json={"type": "regular"}).json()
        host = created["host"]["id"]
        far.start(url, created["registration_token"])
        assert far.message["url"] == url
        kept = far.data_dir / "joined.json"
        assert kept.stat().st_mode & 0o777 == 0o600

        def tails() -> str:
            return f"--- lab\n{lab.tail()}\n--- far\n{far.tail()}"

        def capsule(id_: str, *statuses: str) -> Any:
            found: list[Any] = []

            def look() -> bool:
                found[:] = [client("GET", f"/v1/capsules/{id_}").json()]
                return found[0]["status"] in statuses

            until(look, lambda: f"{id_} is not {statuses} but {found}\n{tails()}")
            return found[0]

        def run(id_: str, command: str) -> httpx2.Response:
            return client("POST", f"/v1/capsules/{id_}/exec", json={"cmd": "/bin/sh", "args": ["-c", command]})

        def make() -> str:
            """A capsule; there is room once both machines are there."""
            answers: list[httpx2.Response] = []

            def look() -> bool:
                answers[:] = [client("POST", "/v1/capsules", json={"template": "host"})]
                return answers[0].status_code == 202

            until(look, lambda: f"no capsule is made: {answers[0].text}\n{tails()}")
            id_: str = answers[0].json()["id"]
            capsule(id_, "running")
            return id_

        def lines(id_: str) -> int:
            """How much the program has written by now: every line, in its order."""
            written = [int(line) for line in run(id_, "cat /tmp/lines").json()["stdout"].split()]
            assert written == list(range(1, len(written) + 1))
            return len(written)

        near, distant = make(), make()
        devices = [each.name for each in (far.data_dir / "drivers" / "sandbox" / "devices").iterdir()]
        assert len(devices) == 1, "the first is made here, and the second there"
        started = client(
            "POST",
            f"/v1/capsules/{distant}/exec",
            json={"cmd": "/bin/sh", "args": ["-c", WRITER], "background": True, "tag": "writer"},
        ).json()
        until(lambda: lines(distant) > 3, tails)

        def goes_on(before: int) -> int:
            capsule(distant, "running")
            until(lambda: run(distant, "true").status_code == 200, tails)
            found = client("GET", f"/v1/capsules/{distant}/processes").json()["processes"]
            assert started["pid"] in [each["pid"] for each in found if each.get("tag") == "writer"]
            until(lambda: lines(distant) > before, tails)
            return lines(distant)

        written = goes_on(0)
        cable.pull()
        missing = capsule(distant, "missing")
        assert missing["metadata"]["reason"] == "host_failure"
        refused = run(distant, "true")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "host_unavailable")
        full = client("POST", "/v1/capsules", json={"template": "host"})
        assert (full.status_code, full.json()["error"]["code"]) == (503, "host_unavailable"), full.text
        assert run(near, "true").json()["exit_code"] == 0, "what is here goes on"
        cable.put_in()
        written = goes_on(written)

        for end in (lab.kill, lab.stop):
            end()
            lab.start(url.removeprefix("http://"))
            written = goes_on(written)
            capsule(near, "running")
        told = admin("GET", "/v1/audit-logs", params={"resource_type": "sandbox"}).json()["entries"]
        assert {entry["action"] for entry in told} == {"create"}, "no capsule has ended or begun anew"

        far.kill()
        capsule(distant, "missing")
        far.start(url)
        goes_on(written)

        blocked = admin("DELETE", f"/v1/hosts/{host}")
        assert (blocked.status_code, blocked.json()["sandbox_ids"]) == (409, [distant])
        assert admin("DELETE", f"/v1/hosts/{host}", params={"force": "true"}).status_code == 204
        assert capsule(distant, "stopped")
        assert list((far.data_dir / "drivers" / "sandbox" / "devices").iterdir()) == []
        assert far.ended() != 0, "the lab does not know it any more"
        assert not kept.exists()
        client("DELETE", f"/v1/capsules/{near}")
        capsule(near, "stopped")
        lab.stop()
