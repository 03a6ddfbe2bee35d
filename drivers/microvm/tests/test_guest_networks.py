"""Networks of real guests: what their programs reach through the filter, and what they never do."""

from __future__ import annotations

import functools
import http.server
import json
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from anvild.sdk import (
    Command,
    DeviceFact,
    DeviceRequest,
    InvalidArgument,
    Lease,
    NetworkPolicy,
    NotFound,
    WrongState,
    run,
)
from anvild_microvm.driver import MicrovmDriver
from anvild_microvm.session import MicrovmSession

Ask = Callable[..., DeviceRequest]
Shell = Callable[[DeviceFact, str], Awaitable[str]]
MakeDriver = Callable[..., AbstractAsyncContextManager[MicrovmDriver]]
Logged = list[tuple[str, str, dict[str, object]]]

PROBE = """
import json, socket, sys

def proxied(url):
    host = url.split("/")[2]
    with socket.create_connection(("127.0.0.1", 3128), 60) as proxy:
        proxy.sendall(f"GET {url} HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        answer = b"".join(iter(lambda: proxy.recv(65536), b""))
    return int(answer.split()[1])

def by_socks(name, port):
    with socket.create_connection(("127.0.0.1", 3128), 60) as proxy:
        proxy.sendall(b"\\5\\1\\0\\5\\1\\0\\3" + bytes([len(name)]) + name.encode() + port.to_bytes(2, "big"))
        answer = b""
        while len(answer) < 12 and (more := proxy.recv(100)):
            answer += more
    return answer[3]

def direct(host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as plain:
        plain.settimeout(60)
        try:
            plain.connect((host, port))
        except OSError as error:
            return error.errno
    return 0

ways = {"http": proxied, "socks": by_socks, "direct": direct}
print(json.dumps([ways[how](*words) for how, *words in json.loads(sys.argv[1])]))
"""
NO_ROUTE, REFUSED = 101, 111
GIT = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
WITHOUT_EXCEPTIONS = "unset no_proxy NO_PROXY;"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and tells nobody."""

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def web(tmp_path: Path) -> Iterator[int]:
    """The port of a web server on the host's loopback, with a git repository on it."""
    tree, site = tmp_path / "tree", tmp_path / "site"
    tree.mkdir()
    (tree / "words").write_text("from the host\n")
    for words in (("init", "-q"), ("add", "."), (*GIT, "commit", "-q", "-m", "first")):
        subprocess.run(["git", "-C", str(tree), *words], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(tree), str(site / "words.git")], check=True)
    subprocess.run(["git", "-C", str(site / "words.git"), "update-server-info"], check=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def policy(*allow: str) -> NetworkPolicy:
    return NetworkPolicy(allow=allow, private=("127.0.0.1/32",))


async def probe(shell: Shell, fact: DeviceFact, *questions: tuple[object, ...]) -> list[int]:
    answers: list[int] = json.loads(await shell(fact, f"python3 -c '{PROBE}' '{json.dumps(questions)}'"))
    return answers


async def test_a_guest_with_a_network(driver: MicrovmDriver, shell: Shell, ask: Ask, web: int, logged: Logged) -> None:
    fact = await driver.create(ask("out", network=policy("*", f"127.0.0.1:{web}"), environment={"http_proxy": "own"}))
    assert await shell(fact, "echo $http_proxy $HTTPS_PROXY") == "own http://127.0.0.1:3128\n", (
        "people may say otherwise"
    )
    site = f"http://127.0.0.1:{web}"
    clone = f"export http_proxy=$https_proxy; cd /tmp && git clone -q {site}/words.git && cat words/words"
    assert await shell(fact, WITHOUT_EXCEPTIONS + clone) == "from the host\n"
    taken = await probe(
        shell,
        fact,
        ("http", f"{site}/words.git/HEAD"),
        ("http", f"{site}/nothing"),
        ("socks", "127.0.0.1", web),
        ("http", f"http://127.0.0.1:{web - 1}/"),
        ("http", "http://169.254.169.254/latest/meta-data/"),
        ("http", f"http://[::1]:{web}/"),
        ("http", f"http://[::ffff:127.0.0.1]:{web}/words.git/HEAD"),
        ("http", f"http://127.0.0.2:{web}/"),
        ("http", "http://10.0.0.1/"),
        ("http", "http://[fe80::1]/"),
        ("http", "http://[fc00::1]/"),
        ("http", f"http://2130706433:{web}/"),
        ("http", f"http://0177.0.0.1:{web}/"),
        ("socks", "169.254.169.254", 80),
        ("socks", "127.0.0.3", web),
        ("direct", "127.0.0.1", web),
        ("direct", "169.254.169.254", 80),
        ("direct", "203.0.113.1", 80),
        ("direct", "2001:db8::1", 80),
    )
    denied = [403] * 3 + [200] + [403] * 4
    assert taken == [200, 404, 0, *denied, 400, 400, 2, 2, REFUSED, NO_ROUTE, NO_ROUTE, NO_ROUTE]
    use = await driver.network_use("out")
    assert use.denied == 9
    assert use.carried >= 5
    assert {values["device"] for _, event, values in logged if event == "network.denied"} == {"out"}


async def test_a_guest_without_a_network(driver: MicrovmDriver, shell: Shell, ask: Ask) -> None:
    fact = await driver.create(ask("in"))
    assert await shell(fact, "env | grep -ic proxy || true") == "0\n"
    questions = [("direct", "203.0.113.1", 80), ("direct", "127.0.0.1", 3128), ("direct", "2001:db8::1", 80)]
    assert await probe(shell, fact, *questions) == [NO_ROUTE, REFUSED, NO_ROUTE]
    with pytest.raises(NotFound):
        await driver.network_use("nobody")


async def test_networks_over_pauses_forks_and_reboots(driver: MicrovmDriver, shell: Shell, ask: Ask, web: int) -> None:
    site = ("http", f"http://127.0.0.1:{web}/words.git/HEAD")
    fact = await driver.create(ask("origin", network=policy(f"127.0.0.1:{web}")))
    assert await probe(shell, fact, site) == [200]
    await driver.suspend("origin")
    fact = await driver.resume("origin")
    assert await probe(shell, fact, site) == [200]
    await driver.snapshot("origin", "networked")
    assert await probe(shell, fact, site) == [200], "the source goes on"
    alone = await driver.create(ask("alone", "networked"))
    assert await probe(shell, alone, ("direct", "127.0.0.1", 3128)) == [REFUSED]
    assert await shell(alone, "env | grep -ic proxy || true") == "0\n"
    other = await driver.create(ask("other", "networked", network=policy("example.org")))
    assert await probe(shell, other, site) == [403], "the policy of the new creation counts"
    await driver.clean(fact)
    assert await probe(shell, fact, site) == [200]


async def test_a_guest_keeps_its_network_over_daemons(
    make_driver: MakeDriver, ask: Ask, lease: Lease, web: int
) -> None:
    """A program that connects while no daemon is there waits for the next one."""
    url = f"http://127.0.0.1:{web}/words.git/HEAD"
    questions = json.dumps([("http", url), ("http", "http://169.254.169.254/"), ("http", url)])
    script = f"sleep 0.5; python3 -c '{PROBE}' '{questions}'"
    async with make_driver() as first:
        fact = await first.create(ask("kept", network=policy(f"127.0.0.1:{web}")))
        async with first.open(fact, lease) as session:
            assert isinstance(session, MicrovmSession)
            async with await session.start(Command(argv=("/bin/sh", "-c", script), tag="asks")):
                pass
    async with make_driver() as second:
        assert fact.handle is not None
        await second.recover(fact.handle)
        async with second.open(fact, lease) as session:
            assert isinstance(session, MicrovmSession)
            async with await session.attach("asks") as process:
                said = b"".join([output.data async for output in process])
            assert json.loads(said) == [200, 403, 200]
            await session.freeze()
    async with make_driver() as third:
        await third.recover(fact.handle)
        capsule = await third._all().get("kept")
        await capsule.thaw()
        async with third.open(fact, lease) as session:
            assert isinstance(session, MicrovmSession)
            done = await run(session, Command(argv=("python3", "-c", PROBE, questions)), deadline=60)
            assert json.loads(done.stdout) == [200, 403, 200], "a guest that was frozen meanwhile"
        await third.destroy("kept")


async def test_what_no_guest_gets(driver: MicrovmDriver, ask: Ask) -> None:
    with pytest.raises(InvalidArgument, match="no policy lets it through"):
        await driver.create(ask("meta", network=NetworkPolicy(allow=("169.254.169.254",))))


async def test_a_port_that_a_program_of_the_template_has_is_named(
    driver: MicrovmDriver, shell: Shell, ask: Ask, lease: Lease
) -> None:
    fact = await driver.create(ask("busy"))
    serve = 'import socket, time; s = socket.create_server(("", 3128)); print(1, flush=True); time.sleep(600)'
    async with driver.open(fact, lease) as session:
        assert isinstance(session, MicrovmSession)
        async with await session.start(Command(argv=("python3", "-c", serve), tag="has-it")) as process:
            async for _ in process:
                break
        assert (await run(session, Command(argv=("true",)))).exit.ok
    await driver.snapshot("busy", "busy")
    with pytest.raises(WrongState, match="cannot listen on port 3128"):
        await driver.create(ask("late", "busy", network=policy("example.org")))
