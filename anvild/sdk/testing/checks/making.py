"""Rules about devices that are made to order, put aside and copied."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import msgspec
import trio

from ...capabilities import Exec, Files, ImageBuild, Network, Provision, Snapshot, Suspend
from ...errors import (
    AlreadyExists,
    AnvilError,
    DeviceLost,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from ...values import DeviceFact, DeviceStatus, NetworkPolicy, NetworkUse, Template
from ..bench import Bench
from ..rules import Broken, Level, NotApplicable, require
from ..trying import limited, refused, valid
from .book import BOOK


@BOOK.of(Provision, "templates", Level.BRONZE)
async def templates(bench: Bench, maker: Provision) -> None:
    """The templates are listed, each with its types and a name of its own."""
    found = await limited("templates", 60, maker.templates)
    valid(list(found), list[Template], "templates")
    names = [each.name for each in found]
    require(len(names) == len(set(names)), f"templates are listed twice: {names}")
    require(names, "there is no template to make a device from")


@BOOK.of(Provision, "create", Level.BRONZE)
async def creates(bench: Bench, maker: Provision) -> None:
    """A device is made with the identity that was asked for, is ready, and opens; when it was destroyed it does not
    open any more."""
    async with _Made(bench) as device:
        valid(device, DeviceFact, "create")
        require(device.status is DeviceStatus.READY, f"the new device is {device.status}")
        require(device.handle, "a device that was made has no handle to be recovered by")
        async with bench.session(device) as session:
            require(session.device.identity == device.identity, "the session is on another device")
        await bench.destroy(device.identity)

        async def call() -> None:
            async with bench.driver.open(device, bench.lease()):
                pass

        await refused("open of a destroyed device", (DeviceLost, NotFound), call)


@BOOK.of(Provision, "create-twice", Level.SILVER)
async def creates_twice(bench: Bench, maker: Provision) -> None:
    """A second `create` with the same identity, later or at the same time, returns the same device with its files."""
    async with _Made(bench) as device:
        await _mark(bench, device)
        again = await bench.make(device.identity)
        await _check_mark(bench, again)
        require(again.identity == device.identity, f"the second call made {again.identity!r}")
        require(again.handle == device.handle, "the second call made another device of the same identity")
        await bench.destroy(device.identity)
        found: list[DeviceFact] = []

        async def make() -> None:
            found.append(await bench.make(device.identity))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make)
            nursery.start_soon(make)
        require(found[0].handle == found[1].handle, "two calls at the same time made two devices")


@BOOK.of(Provision, "destroy-twice", Level.SILVER)
async def destroys_twice(bench: Bench, maker: Provision) -> None:
    """Destroying a device twice, or one that there never was, is no error."""
    async with _Made(bench) as device:
        for _ in range(2):
            await bench.destroy(device.identity)
    await bench.destroy(f"{device.identity}-never")


@BOOK.of(Provision, "wrong-input", Level.SILVER)
async def wrong_input(bench: Bench, maker: Provision) -> None:
    """An unknown template raises NotFound, and more memory or processors than any host has are no crash."""
    request = await bench.request(bench.name())
    unknown = msgspec.structs.replace(request, template="no-such-template")
    await refused("create from an unknown template", NotFound, lambda: maker.create(unknown))
    huge = msgspec.structs.replace(request, disk=2**60)
    try:
        await limited("create with a huge disk", 120, lambda: maker.create(huge))
    except (InvalidArgument, ResourceExhausted):
        pass
    except AnvilError as error:
        raise Broken(f"create with a disk of an exbibyte raised {error!r}") from error
    finally:
        with trio.CancelScope(shield=True):
            await bench.destroy(request.identity)


@BOOK.of(Provision, "another-template", Level.SILVER)
async def another_template(bench: Bench, maker: Provision) -> None:
    """`create` with the identity of a device of another template raises AlreadyExists, and leaves that device."""
    async with _Made(bench) as device:
        request = await bench.request(device.identity)
        others = [each.name for each in await maker.templates() if each.name != request.template]
        if not others:
            raise NotApplicable("there is one template only")
        other = msgspec.structs.replace(request, template=others[0])
        await refused("create with an identity in use", AlreadyExists, lambda: maker.create(other))
        async with bench.session(device):
            pass


@BOOK.of(Provision, "create-cancelled", Level.GOLD)
async def create_cancelled(bench: Bench, maker: Provision) -> None:
    """A `create` that is cancelled, at whatever moment, leaves nothing in the way of the next one."""
    identity = bench.name()
    request = await bench.request(identity)
    try:
        for moment in (0.0, 0.005, 0.02, 0.05):
            with trio.move_on_after(moment):
                await maker.create(request)
        async with bench.session(await bench.make(identity)):
            pass
    finally:
        with trio.CancelScope(shield=True):
            await bench.destroy(identity)


@BOOK.of(Provision, "full", Level.GOLD, seconds=600)
async def full(bench: Bench, maker: Provision) -> None:
    """When all slots are taken the next `create` raises ResourceExhausted, and works when one has become free."""
    slots = bench.description.slots
    if not 1 <= slots <= 8:
        raise NotApplicable(f"the driver tells of {slots} slots")
    names = [bench.name() for _ in range(slots + 1)]
    try:
        taken = 1 if bench.makes else 0
        if taken:
            await bench.device()
        for name in names[: slots - taken]:
            await bench.make(name)
        await refused("create without a slot", ResourceExhausted, lambda: bench.make(names[-1]))
        if slots > taken:
            await bench.destroy(names[0])
            await bench.make(names[-1])
    finally:
        with trio.CancelScope(shield=True):
            for name in names:
                await bench.destroy(name)


@BOOK.of(Suspend, "suspend", Level.BRONZE, seconds=600)
async def suspends(bench: Bench, maker: Suspend) -> None:
    """A device that is suspended, twice, and resumed, twice, opens and has its files."""
    async with _Made(bench) as device:
        await _mark(bench, device)
        for _ in range(2):
            valid(await limited("suspend", 120, lambda: maker.suspend(device.identity)), DeviceFact, "suspend")
        for _ in range(2):
            resumed = await limited("resume", 120, lambda: maker.resume(device.identity))
        require(resumed.identity == device.identity, f"resume returned {resumed.identity!r}")
        await _check_mark(bench, resumed)
    await refused("suspend of no device", NotFound, lambda: maker.suspend("no-such-device"))


@BOOK.of(Snapshot, "snapshot", Level.BRONZE, seconds=600)
async def snapshots(bench: Bench, maker: Snapshot) -> None:
    """A snapshot of a device is a template that is listed once, and makes devices with the files of the first; the
    device goes on."""
    name = bench.name()
    provision = bench.driver_as(Provision)
    async with _Made(bench) as device:
        await _mark(bench, device)
        taken = await limited("snapshot", 300, lambda: maker.snapshot(device.identity, name))
        try:
            valid(taken, Template, "snapshot")
            require(taken.name == name, f"the template is called {taken.name!r}")
            require([each.name for each in await provision.templates()].count(name) == 1, "it is not listed once")
            await _check_mark(bench, device)
            await bench.destroy(device.identity)
            copy = bench.name()
            try:
                await _check_mark(bench, await bench.make(copy, name))
            finally:
                with trio.CancelScope(shield=True):
                    await bench.destroy(copy)
        finally:
            with trio.CancelScope(shield=True):
                await maker.remove_template(name)
        require(name not in [each.name for each in await provision.templates()], "the template is still listed")


@BOOK.of(Snapshot, "wrong-input", Level.SILVER, seconds=600)
async def snapshot_wrong_input(bench: Bench, maker: Snapshot) -> None:
    """A snapshot of no device and the removal of no template raise NotFound; a name in use raises AlreadyExists, one
    that is a path InvalidArgument."""
    name = bench.name()
    await refused("snapshot of no device", NotFound, lambda: maker.snapshot("no-such-device", name))
    await refused("removal of no template", NotFound, lambda: maker.remove_template(name))
    request = await bench.request(name)
    async with _Made(bench) as device:
        await refused(
            "a template's name in use",
            (AlreadyExists, PermissionDenied),
            lambda: maker.snapshot(device.identity, request.template),
        )
        await refused("a name that is a path", InvalidArgument, lambda: maker.snapshot(device.identity, "../../name"))


@BOOK.of(ImageBuild, "unknown", Level.SILVER)
async def unknown_recipe(bench: Bench, maker: ImageBuild) -> None:
    """Building an image without a recipe raises NotFound."""
    await refused("building of no recipe", NotFound, lambda: maker.build_image("no-such-recipe", _unheard))


async def _unheard(line: str) -> None:
    await trio.lowlevel.checkpoint()


@BOOK.of(Network, "policy", Level.SILVER)
async def network_by_policy(bench: Bench, maker: Network) -> None:
    """Programs of a device that is made with a network find its proxy in their environment, those of one without find
    none; `network_use` tells of both, and raises NotFound for a device that there is not."""
    for network in (NetworkPolicy(allow=("192.0.2.1:9",)), None):
        identity = bench.name()
        device = await bench.make(identity, network=network)
        async with bench.session(device) as session:
            if not isinstance(session, Exec):
                raise NotApplicable("the device does not declare exec")
            found = await bench.shell(session, 'echo "$http_proxy $https_proxy $all_proxy"')
        words = len(found.stdout.split())
        require(words == (3 if network else 0), f"with the network {network} the environment has {found.stdout!r}")
        use = await limited("network_use", 10, partial(maker.network_use, identity))
        valid(use, NetworkUse, "network_use")
        require(use == NetworkUse(), f"nobody has used the network, and network_use tells {use}")
        await bench.destroy(identity)
    await refused("network_use of a device that is not", NotFound, lambda: maker.network_use(bench.name()))


@BOOK.of(Network, "wrong-policy", Level.SILVER)
async def wrong_policy(bench: Bench, maker: Network) -> None:
    """`create` with a policy that cannot be, or that would let a link-local address through, raises
    InvalidArgument."""
    for entry in ("no host", "example.org:0", "10.0.0.0/33", "169.254.169.254", "127.0.0.1"):
        make = partial(bench.make, bench.name(), network=NetworkPolicy(allow=(entry,)))
        await refused(f"create with a network to {entry!r}", InvalidArgument, make)


class _Made:
    """A device that is destroyed at the end, whatever happens."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._identity = bench.name()

    async def __aenter__(self) -> DeviceFact:
        return await self._bench.make(self._identity)

    async def __aexit__(self, *exc: object) -> None:
        with trio.CancelScope(shield=True):
            await self._bench.destroy(self._identity)


MARK = b"the same device"


async def _mark(bench: Bench, device: DeviceFact) -> None:
    """Leave a file on a device."""

    async def source() -> AsyncIterator[bytes]:
        yield MARK

    async with bench.session(device) as session:
        path = f"{bench.profile.files.scratch}/conformance"
        if isinstance(session, Files):
            await session.write(path, source())
        elif isinstance(session, Exec):
            await bench.shell(session, f"cat > {path}", stdin=MARK)


async def _check_mark(bench: Bench, device: DeviceFact) -> None:
    async with bench.session(device) as session:
        path = f"{bench.profile.files.scratch}/conformance"
        found = MARK
        if isinstance(session, Files):
            stream = await session.read(path)
            try:
                found = bytes(await stream.receive_some())
            finally:
                await stream.aclose()
        elif isinstance(session, Exec):
            found = (await bench.shell(session, f"cat {path}")).stdout
        require(found == MARK, f"the file that was left came back as {found!r}")
