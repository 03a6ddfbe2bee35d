"""A program that uses capsules of a real daemon by key, as an SDK does: every answer is held against the contract."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.daemon import Daemon
from tests.guests import guest_processes
from tests.support.contract import Document, check_answer

__all__ = ["ONE", "Capsule", "Program"]

PATIENCE = 120.0
ONE = "/v1/capsules/{id}"
Capsule = Mapping[str, str]
"""The parameters of the paths of a capsule."""


class Program:
    """Calls the interface of a daemon, which may be started anew meanwhile."""

    def __init__(self, daemon: Daemon, contract: Document) -> None:
        self.daemon = daemon
        self._contract = contract
        self._client: httpx2.Client | None = None
        self._url = ""

    @property
    def client(self) -> httpx2.Client:
        """A client of the daemon that runs now. Threads may share it once it is there."""
        if self._client is None or self._url != self.daemon.url:
            self.close()
            self._url = self.daemon.url
            key = {"X-API-Key": self.daemon.keys["api_key"]}
            limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
            self._client = httpx2.Client(
                base_url=self.daemon.url, headers=key, timeout=PATIENCE, trust_env=False, limits=limits
            )
        return self._client

    def close(self) -> None:
        """End its connections."""
        if self._client is not None:
            self._client.close()

    def __call__(self, method: str, path: str, status: int, values: Capsule | None = None, **request: Any) -> Any:
        """Call an operation, whose path has these ``values``, and return the body of its answer."""
        answer = self.client.request(method, path.format_map(values or {}), **request)
        assert answer.status_code == status, answer.text
        body = answer.json() if answer.content else None
        check_answer(self._contract, method, path, status, body)
        return body

    def make(self, **wish: Any) -> Capsule:
        """Begin to make a capsule. One of the default sizes starts from the warm template; others boot."""
        return {"id": self("POST", "/v1/capsules", 202, json=wish)["id"]}

    def reaches(self, capsule: Capsule, state: str) -> Any:
        """Wait until a capsule is in a state, and return it."""
        until = time.monotonic() + PATIENCE
        while (shown := self("GET", ONE, 200, capsule))["status"] != state:
            assert shown["status"] not in ("error", "stopped"), f"{shown}\n{self.daemon.tail()}"
            assert time.monotonic() < until, f"{shown}\n{self.daemon.tail()}"
            time.sleep(0.02)
        return shown

    def shell(self, capsule: Capsule, line: str) -> str:
        """Run a line of shell, which must succeed, and return what it printed."""
        body = {"cmd": "/bin/sh", "args": ["-c", line], "timeout_sec": int(PATIENCE)}
        done = self("POST", ONE + "/exec", 200, capsule, json=body)
        assert done["exit_code"] == 0, done
        return str(done["stdout"])

    def leave(self, capsule: Capsule, line: str, tag: str) -> None:
        """Leave a line of shell running."""
        body = {"cmd": "/bin/sh", "args": ["-c", line], "background": True, "tag": tag}
        self("POST", ONE + "/exec", 202, capsule, json=body)

    @contextmanager
    def following(self, capsule: Capsule, tag: str) -> Iterator[Iterator[str]]:
        """The output of what was left running, from what nobody has read yet on."""

        def texts() -> Iterator[str]:
            while True:
                message = json.loads(socket.receive_text())
                if message["type"] == "stdout":
                    yield message["data"]
                elif message["type"] != "start":
                    assert message["type"] == "exit", message
                    return

        with self.client.websocket(f"/v1/capsules/{capsule['id']}/processes/{tag}/stream") as socket:
            yield texts()

    def end(self, *capsules: Capsule) -> None:
        """Destroy capsules, twice each, and wait until nothing of them is left."""
        for capsule in (*capsules, *capsules):
            self("DELETE", ONE, 202, capsule)
        self.wait_ended(capsules)
        assert self("GET", "/v1/capsules", 200) == []
        assert guest_processes(self.daemon.data_dir) == []

    def wait_ended(self, capsules: Sequence[Capsule]) -> None:
        """Wait until capsules have ended."""
        until = time.monotonic() + PATIENCE
        while any(self("GET", ONE, 200, capsule)["status"] != "stopped" for capsule in capsules):
            assert time.monotonic() < until, self.daemon.tail()
            time.sleep(0.05)
