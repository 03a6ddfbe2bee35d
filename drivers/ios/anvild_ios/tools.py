"""The programs that do the heavy work: go-ios first, the pymobiledevice3 command line second, whichever is there."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import trio

from anvild.sdk import InvalidArgument, TestRequest

from .children import run_child

__all__ = ["INSTALL", "Tool", "find_tool"]

INSTALL = "npm install -g go-ios"
PROGRAMS = ("ios", "pymobiledevice3")
VERSION_SECONDS = 4.5
VERSION = re.compile(r"\d+(?:\.\d+)+[^\s\"]*")


class Tool(msgspec.Struct, frozen=True):
    """A program that was found, and how it is told what to do."""

    kind: Literal["go-ios", "pymobiledevice3"]
    path: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.version}"

    @property
    def needs_tunnel(self) -> bool:
        """Whether it reaches iOS 17 through a tunnel process of ours; the other makes a tunnel for each call."""
        return self.kind == "go-ios"

    def launch(self, app: str, arguments: Sequence[str], env: Mapping[str, str]) -> list[str]:
        """Start an app."""
        if self.kind == "go-ios":
            return [
                "launch",
                app,
                "--kill-existing",
                *(f"--arg={each}" for each in arguments),
                *(f"--env={name}={value}" for name, value in env.items()),
            ]
        words = [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
        return ["developer", "dvt", "launch", *words, shlex.join([app, *arguments])]

    def stop(self, app: str) -> list[str]:
        """End an app."""
        return ["kill", app] if self.kind == "go-ios" else ["developer", "dvt", "pkill", "--bundle", app]

    def screenshot(self, target: Path) -> list[str]:
        """Take a picture into a file."""
        if self.kind == "go-ios":
            return ["screenshot", f"--output={target}"]
        return ["developer", "dvt", "screenshot", str(target)]

    def run_tests(self, request: TestRequest, bundle: str) -> list[str]:
        """Run tests; ``bundle`` is the name of the test bundle inside the runner. Raises InvalidArgument."""
        app = request.app or request.target
        if self.kind == "go-ios":
            return [
                "runtest",
                f"--bundle-id={app}",
                f"--test-runner-bundle-id={request.target}",
                f"--xctest-config={bundle}",
                "--log-output=-",
                *(["--xctest"] if request.arguments.get("kind") == "unit" else []),
                *(f"--test-to-run={_selector(each)}" for each in request.only),
                *(f"--test-to-skip={_selector(each)}" for each in request.skip),
                *(f"--env={name}={value}" for name, value in request.env.items()),
            ]
        if request.only or request.skip:
            raise InvalidArgument(f"pymobiledevice3 cannot choose tests; go-ios can: {INSTALL}")
        return [
            "developer",
            "dvt",
            "xcuitest",
            *(["--target-bundle-id", app] if request.app else []),
            "--output-log",
            "/dev/stdout",
            *(word for name, value in request.env.items() for word in ("--env", f"{name}={value}")),
            request.target,
        ]

    def command(self, udid: str, words: Sequence[str], *, tunnel_port: int | None = None) -> list[str]:
        """The whole argument list for one device."""
        if self.kind == "go-ios":
            tunnel = [] if tunnel_port is None else [f"--tunnel-info-port={tunnel_port}"]
            return [self.path, *words, f"--udid={udid}", *tunnel]
        return [self.path, "--no-color", *words, "--udid", udid]


async def find_tool(setting: str | None) -> Tool | None:
    """Look for a program and ask it for its version; None when there is none that answers."""
    for program in PROGRAMS if setting is None else (setting,):
        path = await trio.to_thread.run_sync(shutil.which, program)
        if path is None:
            continue
        said: list[str] = []

        async def keep(line: str, said: list[str] = said) -> None:
            said.append(line)

        with trio.move_on_after(VERSION_SECONDS):
            ended = await run_child([path, "version"], line=keep)
            found = VERSION.search("\n".join(said))
            if ended.status == 0 and found is not None:
                kind: Literal["go-ios", "pymobiledevice3"] = (
                    "pymobiledevice3" if "pymobiledevice3" in Path(path).name else "go-ios"
                )
                return Tool(kind, path, found[0].rstrip('"}'))
    return None


def _selector(name: str) -> str:
    """``SUITE#TEST`` as Xcode writes it."""
    return name.replace("#", "/", 1)
