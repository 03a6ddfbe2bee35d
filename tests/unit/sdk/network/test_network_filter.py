"""The filter: a name is looked up once, its addresses are judged, and the connection goes to the one that was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
import trio

from anvild.sdk import DeadlineExceeded, InvalidArgument, NetworkPolicy, PermissionDenied, Unavailable
from anvild.sdk.network.filter import CONNECT_SECONDS, LOOKUP_SECONDS, Filter, look_up
from anvild.sdk.network.rules import Rules

LOOPBACK = ("127.0.0.1/32",)


class Names:
    """A resolver that answers each question with the next of its answers, and the last one for ever."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def __call__(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        await trio.lowlevel.checkpoint()
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


def opened(*allow: str, names: Names | None = None, private: Sequence[str] = LOOPBACK) -> Filter:
    policy = NetworkPolicy(allow=allow, private=tuple(private))
    return Filter(Rules(policy), resolve=names or Names(OSError("nobody knows a name")))


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A port of the loopback on which something says who it is."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"here")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def heard(stream: trio.SocketStream) -> bytes:
    async with stream:
        return bytes(await stream.receive_some())


@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1", "[::ffff:7f00:1]"])
async def test_an_address_that_is_permitted(port: int, host: str) -> None:
    assert await heard(await opened("127.0.0.0/8")(host, port)) == b"here"


async def test_a_name_that_leads_to_a_permitted_address(port: int) -> None:
    names = Names(["127.0.0.1"])
    assert await heard(await opened("git.lab", names=names)("Git.Lab.", port)) == b"here"
    assert names.asked == ["git.lab"]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "fe80::1", "fc00::1", "0.0.0.0", "::"],
)
@pytest.mark.parametrize("host", ["{}", "[{}]", "name.example.org"])
async def test_what_never_is_reached(port: int, host: str, address: str) -> None:
    names = Names([address])
    if ":" not in address:
        host = host.strip("[]")
    found = opened("*", "name.example.org", names=names, private=())
    with pytest.raises(PermissionDenied) as caught:
        await found(host.format(address), port)
    if host == "name.example.org":
        assert caught.value.message.startswith(f"name.example.org:{port} leads to an address that is ")
        assert address not in caught.value.message, "who may not go there need not know where it is"


@pytest.mark.parametrize("host", ["127.1", "0177.0.0.1", "0x7f.1", "2130706433", "017700000001", "127.0.0.1%lo"])
async def test_addresses_in_odd_forms_reach_nothing(port: int, host: str) -> None:
    names = Names(["127.0.0.1"])
    with pytest.raises(InvalidArgument):
        await opened("*", "127.0.0.0/8", names=names)(host, port)
    assert names.asked == []


async def test_a_name_that_leads_elsewhere_the_next_moment_changes_nothing(port: int) -> None:
    """The name is looked up once, and the connection goes to that answer."""
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    assert await heard(await opened("a.lab", names=names)("a.lab", port)) == b"here"
    assert names.asked == ["a.lab"]
    with pytest.raises(PermissionDenied):
        await opened("a.lab", names=names)("a.lab", port)


async def test_of_several_addresses_only_those_that_are_let_through_are_tried(port: int) -> None:
    names = Names(["169.254.169.254", "10.0.0.1", "127.0.0.1", "127.0.0.2"])
    assert await heard(await opened("a.lab", names=names)("a.lab", port)) == b"here"


async def test_the_next_address_is_tried_when_one_does_not_answer(port: int) -> None:
    names = Names(["127.0.0.2", "127.0.0.1"])
    found = opened("a.lab", names=names, private=("127.0.0.0/8",))
    assert await heard(await found("a.lab", port)) == b"here"


async def test_a_name_that_is_not_allowed_is_not_even_looked_up(port: int) -> None:
    names = Names(["127.0.0.1"])
    with pytest.raises(PermissionDenied, match=r"^secret\.evil\.example:443 is not on the allow-list$"):
        await opened("packages.example.org", names=names)("secret.evil.example", 443)
    with pytest.raises(PermissionDenied, match="allow-list"):
        await opened("a.lab:443", names=names)("a.lab", port)
    assert names.asked == []


@pytest.mark.parametrize("answer", [OSError("no such name"), [], ["fe80::1%eth0"]])
async def test_names_without_an_address(answer: Sequence[str] | OSError) -> None:
    with pytest.raises(Unavailable, match=r"^a\.lab:80: the name has no address$"):
        await opened("a.lab", names=Names(answer))("a.lab", 80)


async def test_a_resolver_that_does_not_answer(autojump_clock: trio.testing.MockClock) -> None:
    async def silent(_: str) -> Sequence[str]:
        await trio.sleep_forever()
        raise AssertionError("it sleeps")

    with pytest.raises(DeadlineExceeded, match="looked up within"):
        await Filter(Rules(NetworkPolicy(allow=("a.lab",))), resolve=silent)("a.lab", 80)
    assert trio.current_time() >= LOOKUP_SECONDS


async def test_nothing_listens() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(Unavailable, match=f"^127.0.0.1:{port}: nothing listens there$"):
        await opened("127.0.0.1")("127.0.0.1", port)


async def test_nobody_answers(monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock) -> None:
    async def silent(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr("trio._socket._SocketType.connect", silent)
    with pytest.raises(DeadlineExceeded, match="did not answer within"):
        await opened("203.0.113.1")("203.0.113.1", 80)
    assert trio.current_time() >= CONNECT_SECONDS


@pytest.mark.parametrize("port", [0, -1, 65536, 99999])
async def test_ports_that_there_are_not(port: int) -> None:
    with pytest.raises(InvalidArgument, match="no port"):
        await opened("127.0.0.1")("127.0.0.1", port)


async def test_this_machines_own_resolver() -> None:
    resolve = look_up(trio.CapacityLimiter(1))
    assert set(await resolve("localhost")) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError):  # noqa: PT011 each system says it in words of its own
        await resolve("name.invalid")
