"""Kill -9 in the middle of builds: they begin anew, keep their turns, and leave nothing behind."""

from __future__ import annotations

import time
from http.cookies import SimpleCookie
from typing import Any

import httpx2
import pytest

from tests.daemon import EMAIL, PASSWORD, Daemon

PATIENCE = 300.0
ALL = "/v1/admin/builds"


class Admin:
    """The session of an admin, whose cookies are kept by hand: they are for HTTPS alone."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        login = httpx2.post(
            f"{daemon.url}/v1/auth/login",
            json={"email": EMAIL, "password": PASSWORD},
            trust_env=False,
            timeout=PATIENCE,
        )
        assert login.status_code == 200, login.text
        cookies = {
            name: morsel.value
            for line in login.headers.get_list("set-cookie")
            for name, morsel in SimpleCookie(line).items()
        }
        self._headers = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
            "X-CSRF-Token": cookies["wrenn_csrf"],
        }

    def __call__(self, method: str, path: str, status: int, **request: Any) -> Any:
        answer = httpx2.request(
            method, self._daemon.url + path, headers=self._headers, trust_env=False, timeout=PATIENCE, **request
        )
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def submit(self, name: str, *recipe: str) -> str:
        body = {"name": name, "base_template": "host", "recipe": recipe, "skip_pre_post": True}
        return str(self("POST", ALL, 202, json=body)["id"])

    def reaches(self, build: str, status: str, steps: int = 0) -> Any:
        """Wait until a build has a status and so many of its steps have ended."""
        until = time.monotonic() + PATIENCE
        while (shown := self("GET", f"{ALL}/{build}", 200))["status"] != status or shown["current_step"] < steps:
            assert shown["status"] in ("pending", "running"), shown
            assert time.monotonic() < until, f"{shown}\n{self._daemon.tail()}"
            time.sleep(0.05)
        return shown

    def templates(self) -> list[str]:
        return sorted(each["name"] for each in self("GET", "/v1/snapshots", 200))


@pytest.fixture
def building(daemon_factory: Any) -> Daemon:
    """A running daemon with a first user, who is its admin."""
    daemon: Daemon = daemon_factory("[drivers.microvm]\nenabled = false\n")
    daemon.bootstrap()
    daemon.start()
    daemon.wait_for_driver("sandbox")
    return daemon


def test_builds_outlive_a_daemon_that_is_killed(building: Daemon) -> None:
    admin = Admin(building)
    waits = ("RUN echo begun", "RUN --timeout=1h sleep 3000")
    first, second = (admin.submit(f"n{number}", *waits) for number in range(2))
    third = admin.submit("n2", "RUN true")
    for build in (first, second):
        admin.reaches(build, "running", steps=1)
    building.kill()
    building.start()
    building.wait_for_driver("sandbox")
    admin = Admin(building)
    for build in (first, second):
        shown = admin.reaches(build, "running", steps=1)
        assert [step["cmd"] for step in shown["logs"]] == ["RUN echo begun"]
    assert admin("GET", f"{ALL}/{third}", 200)["status"] == "pending"
    admin("POST", f"{ALL}/{first}/cancel", 204)
    admin.reaches(third, "success")
    admin("POST", f"{ALL}/{second}/cancel", 204)
    assert [admin("GET", f"{ALL}/{build}", 200)["status"] for build in (first, second)] == ["cancelled"] * 2
    assert admin.templates() == ["host", "n2"]
    state = building.data_dir / "drivers" / "sandbox"
    until = time.monotonic() + PATIENCE
    while left := [*(state / "devices").iterdir()]:
        assert time.monotonic() < until, f"{left}\n{building.tail()}"
        time.sleep(0.05)
    assert len([*(state / "templates").iterdir()]) == 1
