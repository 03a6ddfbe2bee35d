"""Speaks the driver protocol by hand, and lies in it: wrong types, answers that nobody asked for, two devices with one
identity, a device that is gone for good and comes back. It is no plugin: the settings name it as a command."""

from __future__ import annotations

import json
import struct
import sys
from typing import Any


def send(**message: Any) -> None:
    payload = json.dumps({"jsonrpc": "2.0", **message}).encode()
    sys.stdout.buffer.write(struct.pack(">IB", len(payload), 0) + payload)
    sys.stdout.buffer.flush()


def receive() -> dict[str, Any]:
    head = sys.stdin.buffer.read(5)
    if len(head) < 5:
        raise SystemExit
    length, _ = struct.unpack(">IB", head)
    message: dict[str, Any] = json.loads(sys.stdin.buffer.read(length))
    return message


def device(**changed: Any) -> dict[str, Any]:
    plain = {"identity": "lies-1", "platform": "lamp", "name": "A lamp", "status": "ready"}
    return {"kind": "seen", "device": {**plain, **changed}}


LIES: list[Any] = [
    device(),
    device(platform="bulb", name="Another lamp with the same identity"),
    device(identity="lies-2"),
    device(identity="lies-2", status="retired"),
    device(identity="lies-2", status="ready"),
    device(identity="lies-3", status="on fire"),
    device(identity=""),
    device(identity=["lies-4"]),
    device(name=4),
    {"kind": "imagined"},
    "a lamp",
    None,
]


def lie(channel: int) -> None:
    for value in LIES:
        send(method="progress", params={"channel": channel, "value": value})
    send(method="progress", params={"channel": 4711, "value": device()})
    send(method="progress", params="nothing of the kind")
    send(method="credit", params={"stream": 2**40, "amount": -1})
    send(id=4712, result={})
    send(id="a question that was never asked", error={"code": "none"})


def answer(method: str) -> Any:
    if method == "initialize":
        return {"protocol": "1.0", "name": "lies", "version": "1.0", "platforms": ["lamp"], "capabilities": []}
    if method == "driver.describe":
        health = {"state": "healthy", "reason": "everything is fine"}
        return {"name": "lies", "version": "1.0", "platforms": ["lamp"], "capabilities": ["exec"], "health": health}
    return {} if method == "ping" else None


while True:
    asked = receive()
    if asked.get("method") == "driver.watch":
        lie(asked["params"]["report"])
    elif "id" in asked:
        send(id=asked["id"], result=answer(asked["method"]))
