"""``anvil`` as a person and a script use it, against a real daemon and real sandboxes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.daemon import BIN, EMAIL, PASSWORD, Daemon

Done = subprocess.CompletedProcess[str]
Anvil = Callable[..., Done]
Told = Callable[..., Any]
InTerminal = Callable[..., tuple[int, bytes]]

PROMPT = b"$ " if os.geteuid() else b"# "

NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def box(lab: Daemon) -> Iterator[str]:
    """A sandbox that a person made to use it by hand."""
    made = lab.anvil("device", "make", "host", "--driver", "sandbox", "--name", "box", "--json", check=True)
    identity: str = json.loads(made.stdout)["device"]["id"]
    yield identity
    lab.anvil("device", "remove", identity, check=True)


def test_a_run_from_start_to_verdict(anvil: Anvil, told: Told, tmp_path: Path, lab: Daemon) -> None:
    done = lab.anvil("run", "smoke", "--param", "greeting=good day", "--meta", "commit=4f2a9c1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run.passed" in done.stdout
    assert "commit" in done.stdout
    run = re.findall(r"^run\t(\S+)$", done.stdout, re.M)[0]

    shown = told("runs", "show", run)
    assert (shown["run"]["status"], shown["state"]["state"]) == ("passed", "passed")
    assert run in {each["id"] for each in told("runs", "list", "--status", "passed")["runs"]}
    left = told("runs", "artifacts", run)["artifacts"]
    written = told("runs", "fetch", run, "--to", tmp_path / "out")["files"]
    assert sorted(os.path.relpath(each, tmp_path / "out") for each in written) == sorted(each["name"] for each in left)
    assert {Path(each).stat().st_size for each in written} == {each["size"] for each in left}
    assert anvil("runs", "fetch", run, "nothing.txt").returncode == 3


def test_scripts_get_one_document(anvil: Anvil) -> None:
    done = anvil("run", "smoke", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["run"]["status"] == "passed"
    assert answer.keys() >= {"run", "findings", "state"}


@pytest.fixture
def waiting(box: str, told: Told) -> str:
    """A run that cannot begin: its device is in a person's hands."""
    run: str = told("run", "smoke", "--device", "box", "--no-wait")["run"]["id"]
    return run


def test_a_run_is_cancelled(anvil: Anvil, told: Told, waiting: str) -> None:
    state = told("runs", "show", waiting)["state"]
    assert state["state"] == "queued"
    assert anvil("runs", "cancel", waiting).stdout == f"{waiting} cancelled\n"
    assert anvil("runs", "pause", waiting).returncode == 6


def test_waiting_has_an_end_and_the_run_goes_on(anvil: Anvil, told: Told, box: str) -> None:
    done = anvil("run", "smoke", "--device", box, "--timeout", "0.5", "--json")
    assert done.returncode == 7
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["code"] == "timed_out"
    run = re.findall(r"run (\S+) did", error["message"])[0]
    assert told("runs", "show", run)["run"]["status"] == "queued"
    told("runs", "cancel", run)


def test_ctrl_c_cancels_the_run(environ: Mapping[str, str], box: str) -> None:
    process = subprocess.Popen(
        [BIN / "anvil", "run", "smoke", "--device", box],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    with process:
        assert process.stdout is not None
        assert "run.queued" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 8, err
    assert "run.cancelled" in out
    assert "cancelling" in err


def test_programs_run_by_hand(anvil: Anvil, box: str) -> None:
    done = anvil("device", "exec", "box", "--env", "NAME=lab", "--", "sh", "-c", "echo $NAME; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "lab\n", "err\n")
    assert anvil("device", "exec", box, "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    assert anvil("device", "exec", box, "--", "no-such-program").returncode == 3
    assert anvil("device", "exec", box, "--timeout", "0.2", "--", "sleep", "60").returncode == 7
    *lines, last = [
        json.loads(line) for line in anvil("device", "exec", box, "--json", "--", "echo", "--json").stdout.splitlines()
    ]
    assert [line["stream"] for line in lines] == ["stdout"]
    assert last == {"exit": {"code": 0, "signal": None}}


def test_files_go_there_and_back(anvil: Anvil, box: str, tmp_path: Path) -> None:
    content = os.urandom(1_500_000)
    (tmp_path / "data.bin").write_bytes(content)
    assert anvil("device", "push", "box", tmp_path / "data.bin", "/tmp/", "--mode", "600").returncode == 0
    assert "600" in anvil("device", "exec", "box", "--", "stat", "-c", "%a", "/tmp/data.bin").stdout
    assert anvil("device", "pull", "box", "/tmp/data.bin", tmp_path / "back.bin").returncode == 0
    assert (tmp_path / "back.bin").read_bytes() == content
    assert anvil("device", "pull", "box", "/proc/sys/kernel/ostype", "-").stdout == "Linux\n"
    assert anvil("device", "pull", "box", "/nothing", tmp_path / "none").returncode == 3
    assert not (tmp_path / "none").exists()
    assert anvil("device", "push", "box", tmp_path / "none", "/tmp/x").returncode == 2


def test_a_terminal(in_terminal: InTerminal, box: str) -> None:
    talk = [(PROMPT, b"stty size; echo $((6*7))"), (b"\n42\r\n", b"exit 9")]
    code, shown = in_terminal(["device", "shell", "box", "--", "sh"], talk)
    assert code == 9
    assert re.search(rb"\d+ \d+\r\n", shown)


def test_a_shell_needs_a_terminal(anvil: Anvil, box: str) -> None:
    assert anvil("device", "shell", "box").returncode == 2


def test_devices_by_hand(anvil: Anvil, told: Told) -> None:
    device = told("devices", "register", "bench supply", "--model", "PS-3005", "--capability", "power")["device"]
    assert told("device", "show", "bench supply")["device"] == device
    assert device["capabilities"] == ["power"]
    assert anvil("devices", "rearm", "bench supply").returncode == 6
    assert anvil("devices", "remove", device["id"]).returncode == 0
    assert anvil("devices", "show", "bench supply").returncode == 3
    assert anvil("devices", "show", NOBODY).returncode == 3


def test_keys(anvil: Anvil, told: Told) -> None:
    made = told("keys", "create", "nightly", "--scope", "runs:read")
    narrow = {"ANVIL_API_KEY": made["plaintext"]}
    assert anvil("runs", **narrow).returncode == 0
    assert anvil("run", "smoke", "--no-wait", **narrow).returncode == 4
    assert "nightly\t" in anvil("keys").stdout
    assert anvil("keys", "revoke", made["id"]).returncode == 0
    assert anvil("runs", **narrow).returncode == 4
    assert anvil("keys", "revoke", NOBODY).returncode == 3


def test_an_account_is_made_beside_the_running_daemon(anvil: Anvil, lab: Daemon) -> None:
    made = ("user", "add", "Ann@Example.org", "--data-dir", str(lab.data_dir), "--password", "a good password")
    done = anvil(*made, "--json")
    assert done.returncode == 0, done.stderr
    user = json.loads(done.stdout)
    assert (user["email"], user["name"], user["admin"]) == ("ann@example.org", "Ann", False)
    body = {"email": "ann@example.org", "password": "a good password"}
    answer = httpx2.post(f"{lab.url}/v1/auth/login", json=body, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert answer.json()["role"] == "owner"
    again = anvil(*made)
    assert again.returncode != 0
    assert "there is an account with this email" in again.stderr


def test_login_keeps_a_key_that_works(anvil: Anvil, lab: Daemon) -> None:
    bare = {"ANVIL_API_KEY": "", "ANVIL_URL": ""}
    assert anvil("runs", "--url", lab.url, **bare).returncode == 4
    wrong = anvil("login", "--url", lab.url, stdin="wrn_00000000000000000000000000000000\n", **bare)
    assert wrong.returncode == 4
    assert anvil("login", "--url", lab.url, stdin=lab.keys["api_key"] + "\n", **bare).returncode == 0
    assert anvil("runs", **bare).returncode == 0
    assert anvil("logout", **bare).returncode == 0
    done = anvil("login", "--url", lab.url, "--email", EMAIL, "--profile", "me", stdin=PASSWORD + "\n", **bare)
    assert done.returncode == 0, done.stderr
    assert anvil("keys", "--profile", "me", **bare).returncode == 0


def test_the_lab_is_described(anvil: Anvil, told: Told) -> None:
    assert {"helper", "sandbox"} == {each["name"] for each in told("drivers")["drivers"]}
    assert {"commands", "devicetests"} <= {each["name"] for each in told("plugins")["plugins"]}
    assert "smoke" in anvil("pipelines").stdout
    assert anvil("drivers").stdout.startswith("NAME\tVERSION\tHEALTH")
    assert "sandbox\t" in anvil("image", "list").stdout or anvil("image", "list").returncode == 0


def test_events_past_and_coming(anvil: Anvil, told: Told, environ: Mapping[str, str]) -> None:
    latest = [json.loads(line) for line in anvil("events", "--limit", "3", "--json").stdout.splitlines()]
    assert len(latest) == 3
    command = [BIN / "anvil", "events", "--follow", "--json", "--kind", "device.", "--after", str(latest[-1]["id"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        device = told("devices", "register", "seen")["device"]["id"]
        assert process.stdout is not None
        event = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert (event["kind"], event["subjectId"]) == ("device.registered", device)
    told("devices", "remove", device)


def test_backup_of_the_running_daemon(anvil: Anvil, lab: Daemon, tmp_path: Path) -> None:
    archive = tmp_path / "lab.tar"
    assert anvil("backup", archive, "--data-dir", lab.data_dir).returncode == 0
    assert anvil("backup", archive, "--data-dir", lab.data_dir).returncode == 6
    assert anvil("restore", archive, "--data-dir", tmp_path / "again", "--json").returncode == 0
    assert anvil("restore", archive, "--data-dir", tmp_path / "again").returncode == 6
    known = anvil("bootstrap", "--email", EMAIL, "--password", "not the password", "--data-dir", tmp_path / "again")
    assert known.returncode == 4
