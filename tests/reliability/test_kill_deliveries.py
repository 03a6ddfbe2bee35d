"""Kill -9 in the middle of a delivery: everything arrives, in order, and what arrives twice says that it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import msgspec
import pytest

from tests.daemon import EMAIL, PASSWORD, Daemon

from .conftest import CONFIG

KILLS = 3
CAPSULES = 2
ALLOWED = '[notify]\nallow = ["127.0.0.0/8"]\n'
PATIENCE = 120.0


@dataclass
class Arrival:
    """A message as it came in. One that was ``held`` may not have got its answer."""

    id: str
    what: tuple[str, str]
    held: bool


@dataclass
class Receiver:
    """Takes what is sent to ``/taken``, and holds the next answer back while it is told to; refuses all else."""

    arrivals: list[Arrival] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)
    held: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def take(self, path: str, id_: str, body: dict[str, Any]) -> int:
        if path != "/taken":
            return 503
        with self.came:
            held = not self.go_on.is_set()
            self.arrivals.append(Arrival(id_, (body["event"], body["resource"]["id"]), held))
            self.came.notify_all()
        if held:
            self.held.set()
            self.go_on.wait(PATIENCE)
        return 204

    def first(self) -> list[tuple[str, str]]:
        """What has arrived, each once, in the order in which it first did."""
        with self.came:
            return list(dict.fromkeys(arrival.what for arrival in self.arrivals))

    def wait_for(self, enough: Callable[[], bool]) -> None:
        with self.came:
            assert self.came.wait_for(enough, PATIENCE), f"only {len(self.arrivals)} messages came"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """The receiver, on a free port, in threads of its own: it outlives the daemons."""
    found = Receiver()
    found.go_on.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = msgspec.json.decode(self.rfile.read(int(self.headers["content-length"])))
            status = found.take(self.path, self.headers["webhook-id"], body)
            try:
                self.send_response(status)
                self.end_headers()
            except OSError:
                return  # the daemon that waited for it is dead

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    found.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


class Session:
    """The first user's session, which outlives the daemons. Its cookies are for HTTPS, so they are sent by hand."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        answer = httpx2.post(f"{daemon.url}/v1/auth/login", json={"email": EMAIL, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        morsels = [SimpleCookie(line) for line in answer.headers.get_list("set-cookie")]
        self._cookies = {name: morsel.value for each in morsels for name, morsel in each.items()}

    def __call__(self, method: str, path: str, **request: Any) -> Any:
        headers = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items()),
            "X-CSRF-Token": self._cookies["wrenn_csrf"],
        }
        answer = httpx2.request(method, f"{self._daemon.url}{path}", headers=headers, timeout=60, **request)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def until(self, path: str, states: set[str]) -> None:
        """Wait until a capsule is in one of these states. A real daemon has a real clock, so this looks again."""
        until = time.monotonic() + PATIENCE
        while (state := self("GET", path)["status"]) not in states:
            assert state != "error", self._daemon.tail()
            assert time.monotonic() < until, f"{path} is {state}\n{self._daemon.tail()}"
            time.sleep(0.05)


def live_and_die(session: Session) -> list[tuple[str, str]]:
    """Make a capsule and destroy it; returns what a channel must tell of that."""
    id_ = session("POST", "/v1/capsules", json={"template": "host"})["id"]
    session.until(f"/v1/capsules/{id_}", {"running"})
    session("DELETE", f"/v1/capsules/{id_}")
    session.until(f"/v1/capsules/{id_}", {"stopped"})
    return [("capsule.create", id_), ("capsule.destroy", id_)]


def test_kills_in_the_middle_of_deliveries(daemon_factory: Any, receiver: Receiver) -> None:
    daemon: Daemon = daemon_factory(CONFIG + ALLOWED)
    daemon.bootstrap()
    daemon.start()
    daemon.wait_for_driver("sandbox")
    session = Session(daemon)
    channels = {}
    for name in ("taken", "refused"):
        body = {
            "name": name,
            "provider": "webhook",
            "config": {"url": f"{receiver.url}/{name}"},
            "events": ["capsule.create", "capsule.destroy"],
        }
        channels[name] = session("POST", "/v1/channels", json=body)["id"]
    expected: list[tuple[str, str]] = []
    for _ in range(KILLS):
        receiver.held.clear()
        receiver.go_on.clear()
        for _ in range(CAPSULES):
            expected += live_and_die(session)
        assert receiver.held.wait(PATIENCE)
        # One message is with the receiver, its answer on the way; the others wait behind it.
        daemon.kill()
        receiver.go_on.set()
        daemon.start()
        daemon.wait_for_driver("sandbox")
    receiver.wait_for(lambda: len({arrival.id for arrival in receiver.arrivals}) >= len(expected))
    assert receiver.first() == expected
    ids: dict[str, tuple[str, str]] = {}
    repeated = 0
    for number, arrival in enumerate(receiver.arrivals):
        assert ids.setdefault(arrival.id, arrival.what) == arrival.what
        again = any(later.id == arrival.id for later in receiver.arrivals[number + 1 :])
        repeated += again and not arrival.held
    assert len(ids) == len(expected)
    assert repeated <= KILLS, f"{repeated} messages that had their answer came again"

    # The other channel lost nothing either, and its head remembers that it was tried.
    def refused() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = session("GET", f"/v1/channels/{channels['refused']}/deliveries?limit=200")
        return found[::-1]

    until = time.monotonic() + PATIENCE
    while len(waiting := refused()) < len(expected) or waiting[0]["attempts"] == 0:
        assert time.monotonic() < until, f"{waiting}\n{daemon.tail()}"
        time.sleep(0.05)
    assert [each["event"] for each in waiting] == [kind for kind, _ in expected]
    assert all(each["attempts"] == 0 for each in waiting[1:])
