"""How the agent is started: find its channel, be alone with it, serve."""

from __future__ import annotations

import os
import socket
import sys

from .agent import Agent


def main(words: list[str]) -> None:
    how, where = words
    while os.open("/dev/null", os.O_RDWR) < 3:
        pass  # standard input, output and error are there, so that no pipe becomes one of them
    for fd in os.listdir("/proc/self/fd"):
        if int(fd) > 2 and os.path.exists(f"/proc/self/fd/{fd}"):
            os.set_inheritable(int(fd), False)
    if how == "port":
        agent = Agent(os.open(port_path(where), os.O_RDWR | os.O_NOCTTY))
    elif how == "connect":
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(where)
        agent = Agent(peer.detach())
    elif how == "listen" and where.isdigit():
        agent = Agent(int(where), listener=True)
    elif how == "listen":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(where)
        listener.listen()
        agent = Agent(listener.detach(), listener=True)
    else:
        agent = Agent(int(where))
    agent.run()


def port_path(name: str) -> str:
    """Find a virtio-serial port by its name."""
    if name.startswith("/"):
        return name
    for port in os.listdir("/sys/class/virtio-ports"):
        with open(f"/sys/class/virtio-ports/{port}/name") as file:
            if file.read().strip() == name:
                return "/dev/" + port
    sys.exit(f"there is no virtio port named {name!r}")
