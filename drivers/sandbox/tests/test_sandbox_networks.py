"""Networks of sandboxes: the host's own curl, git and pip go out by the proxy, and a flood harms nobody else."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import Command, DeviceRequest, InvalidArgument, Lease, NetworkPolicy, NotFound, run
from anvild.sdk.network.outlet import CONNECTIONS
from anvild_sandbox.driver import SandboxDriver
from anvild_sandbox.session import MeasuredSession

DriverMaker = Callable[[], AbstractAsyncContextManager[SandboxDriver]]

LEASE = Lease(lease_id="lease", fence=1, holder="test")
WITHOUT_EXCEPTIONS = "unset no_proxy NO_PROXY; export HOME=/tmp; cd /tmp;"
GIT = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
WHEEL = {
    "words.py": "TEXT = 'from the host'\n",
    "words-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: words\nVersion: 1.0\n",
    "words-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "words-1.0.dist-info/RECORD": "",
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and tells nobody."""

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def web(tmp_path: Path) -> Iterator[int]:
    """The port of a web server on the host's loopback: a file, a git repository, and an index of packages."""
    tree, site = tmp_path / "tree", tmp_path / "site"
    for folder in (tree, site / "simple" / "words"):
        folder.mkdir(parents=True)
    (site / "file").write_bytes(bytes(range(256)) * 4096)
    (tree / "words").write_text("from the host\n")
    for words in (("init", "-q"), ("add", "."), (*GIT, "commit", "-q", "-m", "first")):
        subprocess.run(["git", "-C", str(tree), *words], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(tree), str(site / "words.git")], check=True)
    subprocess.run(["git", "-C", str(site / "words.git"), "update-server-info"], check=True)
    with zipfile.ZipFile(site / "simple" / "words" / "words-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in WHEEL.items():
            wheel.writestr(name, text)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def policy(*allow: str) -> NetworkPolicy:
    return NetworkPolicy(allow=allow, private=("127.0.0.1/32",))


@asynccontextmanager
async def box(driver: SandboxDriver, network: NetworkPolicy | None, **more: Any) -> AsyncIterator[MeasuredSession]:
    request = DeviceRequest(template="host", name="box", identity="box", network=network, **more)
    async with driver.open(await driver.create(request), LEASE) as session:
        assert isinstance(session, MeasuredSession)
        yield session


async def said(session: MeasuredSession, script: str) -> str:
    done = await run(session, Command(argv=("sh", "-c", WITHOUT_EXCEPTIONS + script)), deadline=120)
    assert done.exit.ok, done
    return done.stdout.decode().strip()


TOOLS = {
    "curl": "curl -sf {site}/file | sha256sum | cut -c 1-8",
    "curl by a tunnel": "curl -sfp {site}/file | sha256sum | cut -c 1-8",
    "curl by SOCKS": "env -u http_proxy curl -sf --socks5-hostname 127.0.0.1:3128 {site}/file | sha256sum | cut -c 1-8",
    "git": "git clone -q {site}/words.git && cat words/words",
    "pip": "python3 -m pip install -q --no-cache-dir --disable-pip-version-check --target here "
    "--index-url {site}/simple/ words && PYTHONPATH=here python3 -c 'import words; print(words.TEXT)'",
}


@pytest.mark.parametrize("tool", TOOLS)
async def test_what_knows_of_proxies_goes_out(driver: SandboxDriver, web: int, tool: str) -> None:
    program = tool.split()[0]
    if shutil.which(program, path="/usr/bin:/bin") is None:
        pytest.skip(f"{program} is missing: apt-get install {'python3-pip' if program == 'pip' else program}")
    async with box(driver, policy(f"127.0.0.1:{web}")) as session:
        answer = await said(session, TOOLS[tool].format(site=f"http://127.0.0.1:{web}"))
        assert answer in ("fbbab289", "from the host")


async def test_refusals_say_why(driver: SandboxDriver, web: int) -> None:
    ask = "python3 -c 'import sys, urllib.error, urllib.request as u\ntry: u.urlopen(sys.argv[1])\n"
    ask += 'except urllib.error.HTTPError as error: print(error.code, error.read().decode())\' "$0"'
    async with box(driver, policy("example.org", f"127.0.0.1:{web}")) as session:

        async def asked(url: str) -> str:
            done = await run(session, Command(argv=("sh", "-c", WITHOUT_EXCEPTIONS + ask, url)), deadline=60)
            return done.stdout.decode().strip()

        assert (
            await asked("http://packages.example.org/simple/") == "403 packages.example.org:80 is not on the allow-list"
        )
        assert await asked("http://169.254.169.254/") == ("403 169.254.169.254:80 is link-local or a metadata service")
        assert await asked("http://127.0.0.2/") == "403 127.0.0.2:80 is loopback"
        assert (await asked("http://2130706433/")).startswith("400 ")
        assert (await driver.network_use("box")).denied == 3


async def test_a_sandbox_without_a_network(driver: SandboxDriver, web: int) -> None:
    connect = "import socket, sys; print(socket.socket().connect_ex((sys.argv[1], int(sys.argv[2]))))"
    async with box(driver, None) as session:
        for host, port, trouble in (("127.0.0.1", web, 111), ("127.0.0.1", 3128, 111), ("203.0.113.1", 80, 101)):
            done = await run(session, Command(argv=("python3", "-c", connect, host, str(port))))
            assert int(done.stdout) == trouble
        assert await said(session, "env | grep -ic _proxy= || true") == "0"
        assert (await driver.network_use("box")).carried == 0
    with pytest.raises(NotFound):
        await driver.network_use("nobody")


async def test_policies_that_cannot_be_make_nothing(driver: SandboxDriver) -> None:
    for entry in ("10.0.0.0/8", "169.254.0.0/16", "not a host"):
        with pytest.raises(InvalidArgument):
            async with box(driver, NetworkPolicy(allow=(entry,))):
                pass


async def test_the_network_outlives_sessions_and_drivers(start_driver: DriverMaker, web: int) -> None:
    fetch = f"curl -sf http://127.0.0.1:{web}/file | wc -c"
    if shutil.which("curl", path="/usr/bin:/bin") is None:
        pytest.skip("curl is missing: apt-get install curl")
    async with start_driver() as first:
        for _ in range(2):
            async with box(first, policy("127.0.0.0/8")) as session:
                assert await said(session, fetch) == "1048576"
    async with start_driver() as second:
        async with box(second, None) as session:  # the same identity is the same sandbox
            assert await said(session, fetch) == "1048576"
        await second.destroy("box")


FLOOD = """
import socket
held = []
for number in range({count}):
    one = socket.create_connection(("127.0.0.1", 3128), 60)
    one.sendall(b"GET http://")
    held.append(one)
print("all", flush=True)
input()
"""


async def test_a_flood_waits_and_harms_nothing_else(driver: SandboxDriver) -> None:
    """Programs hold more connections than are carried; those that are too many wait, and other verbs do not."""
    async with box(driver, policy("example.org")) as session:
        flood = Command(argv=("python3", "-c", FLOOD.format(count=CONNECTIONS + 30)), stdin=True)
        async with await session.start(flood) as process:
            async for output in process:
                if b"all" in output.data:
                    break
            with trio.fail_after(60):
                while (await driver.network_use("box")).open < CONNECTIONS:
                    await session.agent.ping()
            for _ in range(20):
                await session.agent.ping()
            assert (await driver.network_use("box")).open == CONNECTIONS
            assert await said(session, "echo works") == "works"
            await process.send(b"\n")
            assert (await process.wait()).ok
        with trio.fail_after(60):
            while (await driver.network_use("box")).open:
                await session.agent.ping()


async def test_a_frozen_sandbox_keeps_its_network(driver: SandboxDriver, web: int) -> None:
    async with box(driver, policy(f"127.0.0.1:{web}")) as session:
        if not hasattr(session, "freeze"):
            pytest.skip("this host lets the driver make no control groups with a freezer")
        await session.freeze()
        await session.thaw()
        script = (
            f"python3 -c 'import urllib.request as u; print(len(u.urlopen(\"http://127.0.0.1:{web}/file\").read()))'"
        )
        assert await said(session, script) == "1048576"
