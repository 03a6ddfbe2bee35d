"""Capsules that are machines: paused with all that runs in them, resumed, and taken up again by another daemon."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.daemon import Daemon
from tests.guests import guest_processes
from tests.support.contract import Document
from tests.support.program import ONE, Program


@pytest.fixture
def program(guest_daemon: Daemon, contract: Document) -> Iterator[Program]:
    """A program with a key."""
    program = Program(guest_daemon, contract)
    yield program
    program.close()


CLONE = "cat /etc/machine-id /run/anvil-agent/generation; cd /proc/sys/kernel/random; cat boot_id uuid; hostname"
LOOK = "cat /proc/sys/kernel/random/boot_id; cat /tmp/counted"
COUNT = "i=0; while :; do i=$((i+1)); echo $i >> /tmp/counted; echo $i; sleep 0.05; done"


def test_a_capsule_is_paused_with_all_that_runs_in_it(program: Program) -> None:
    made = program("POST", "/v1/capsules", 202, json={"timeout_sec": 3600})
    assert (made["status"], made["template"], made["timeout_sec"]) == ("starting", "minimal", 3600)
    capsule = {"id": made["id"]}
    program.reaches(capsule, "running")
    assert program.shell(capsule, "python3 -c 'print(6 * 7)'; git --version").startswith("42\ngit version")
    background = {"cmd": "/bin/sh", "args": ["-c", COUNT], "background": True, "tag": "counting"}
    started = program("POST", ONE + "/exec", 202, capsule, json=background)
    form = [("path", (None, b"/tmp/in/file")), ("file", ("file", bytes(range(256)) * 4096))]
    program("POST", ONE + "/files/write", 204, capsule, files=form)
    before = program.shell(capsule, LOOK + "; sha256sum /tmp/in/file")

    assert program("POST", ONE + "/pause", 202, capsule)["status"] in ("pausing", "paused")
    program.reaches(capsule, "paused")
    assert guest_processes(program.daemon.data_dir) == []
    assert program("GET", ONE + "/metrics", 200, capsule)["points"], "the metrics are kept over a pause"
    refused = program("POST", ONE + "/exec", 409, capsule, json={"cmd": "true"})
    assert refused["error"]["code"] == "invalid_state"
    assert program("POST", ONE + "/resume", 202, capsule)["status"] in ("resuming", "running")
    program.reaches(capsule, "running")

    drift = abs(float(program.shell(capsule, "date +%s.%N")) - time.time())
    assert drift < 5, "the clock was not set right"
    after = program.shell(capsule, LOOK + "; sha256sum /tmp/in/file").split()
    boot, *counted = after[:-2]
    assert (boot, after[-2:]) == (before.split()[0], before.split()[-2:])
    assert counted == [str(number + 1) for number in range(len(counted))]
    assert len(counted) > len(before.split()) - 3, "the program stands still"
    found = program("GET", ONE + "/processes", 200, capsule)["processes"]
    assert [each["pid"] for each in found if each.get("tag") == "counting"] == [started["pid"]]
    program("DELETE", ONE + "/processes/{selector}", 204, {**capsule, "selector": "counting"})
    program.end(capsule)


def test_a_template_holds_what_runs(program: Program) -> None:
    source = {"id": program("POST", "/v1/capsules", 202, json={})["id"]}
    program.reaches(source, "running")
    background = {"cmd": "/bin/sh", "args": ["-c", COUNT], "background": True, "tag": "counting"}
    started = program("POST", ONE + "/exec", 202, source, json=background)
    made = program("POST", "/v1/snapshots", 201, json={"sandbox_id": source["id"], "name": "counting"})
    assert (made["type"], made["platform"], made["memory_mb"]) == ("snapshot", False, 512)
    fork = program("POST", "/v1/capsules", 202, json={"template": "counting", "memory_mb": 4096, "vcpus": 3})
    assert (fork["memory_mb"], fork["vcpus"]) == (512, 1), "the template fixes the sizes"
    program.reaches(fork, "running")
    found = program("GET", ONE + "/processes", 200, fork)["processes"]
    assert [each["pid"] for each in found if each.get("tag") == "counting"] == [started["pid"]]
    looks = [program.shell(each, CLONE).split() for each in (source, fork)]
    assert all(one != other for one, other in zip(*looks, strict=True))
    for each, generation in ((source, "1"), (fork, "2")):
        metadata = program("GET", ONE, 200, each)["metadata"]
        assert metadata["clone_generation"] == generation
        assert metadata["vmm_version"].startswith("QEMU ")
    program("DELETE", "/v1/snapshots/{name}", 204, {"name": "counting"})
    assert program.shell(fork, "echo still") == "still\n"
    program.end(source, fork)


class Greeter(BaseHTTPRequestHandler):
    """Says hello, and nothing of who asked."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def site() -> Iterator[str]:
    """A web server on the host's loopback, which the daemon permits its capsules to be allowed to reach."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Greeter) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


FETCH = "unset no_proxy NO_PROXY; python3 -c 'import urllib.request as u; print(u.urlopen(\"http://{}/\").read())'"


def test_capsules_outlive_a_daemon_that_is_killed(program: Program, site: str) -> None:
    wish = {"network": {"allow": [site]}}
    awake, asleep = ({"id": program("POST", "/v1/capsules", 202, json=wish)["id"]} for _ in range(2))
    for each in (awake, asleep):
        program.reaches(each, "running")
        program.shell(each, "echo here > /tmp/here")
    background = {"cmd": "/bin/sh", "args": ["-c", COUNT], "background": True, "tag": "counting"}
    program("POST", ONE + "/exec", 202, awake, json=background)
    program("POST", ONE + "/pause", 202, asleep)
    program.reaches(asleep, "paused")
    program.daemon.kill()
    program.daemon.start()
    program.daemon.wait_for_driver("microvm")
    program.reaches(awake, "running")
    program.reaches(asleep, "paused")
    counted = program.shell(awake, "cat /tmp/here /tmp/counted").split()[1:]
    assert counted == [str(number + 1) for number in range(len(counted))]
    program("POST", ONE + "/resume", 202, asleep)
    program.reaches(asleep, "running")
    assert program.shell(asleep, "cat /tmp/here") == "here\n"
    for each in (awake, asleep):
        assert program("GET", ONE, 200, each)["network"] == wish["network"]
        assert program.shell(each, FETCH.format(site)) == "b'hello'\n", "it keeps its network"
    program.end(awake, asleep)
