"""The link to one device on the cable: connections to its services, and the moment in which it goes away."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import trio

from anvild.sdk import (
    AnvilError,
    DeviceLost,
    DriverFault,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

from .afc import Afc, AfcError
from .lockdown import Lockdown, LockdownRefused, PairRecord, open_lockdown, open_service
from .usbmux import MuxDevice, Usbmux
from .wire.afc import AfcStatus
from .wire.streams import Wire, WireBroken

__all__ = ["Link", "Plugging", "advice", "afc_error"]

ADVICE = {
    "InvalidHostID": "it does not trust this host any more: unlock it, plug it in again and tap Trust",
    "PasswordProtected": "it is locked: unlock it once since its start",
    "PairingDialogResponsePending": "it asks whether to trust this host: unlock it and tap Trust",
    "UserDeniedPairing": "its person chose not to trust this host: plug it in again and tap Trust",
    "InvalidService": "it does not offer this service; a developer image may have to be mounted: ios image auto",
}


def advice(code: str) -> str:
    """Say what a refusal of lockdownd means, and what the operator does about it."""
    return ADVICE.get(code, f"it refused with {code}")


class Plugging:
    """One stay of a device on the cable. ``gone`` is set when it ends; verbs in flight end with it.

    ``developer`` says that the device was seen to offer its developer services over the cable.
    """

    def __init__(self, device: MuxDevice) -> None:
        self.device = device
        self.gone = trio.Event()
        self.pair: PairRecord | None = None
        self.developer = False
        self._scopes: set[trio.CancelScope] = set()

    def end(self) -> None:
        """The device has gone: cancel all that uses it. Ending twice is fine."""
        self.gone.set()
        for scope in self._scopes:
            scope.cancel()

    @contextlib.contextmanager
    def scope(self) -> Iterator[trio.CancelScope]:
        """A scope that is cancelled when the device goes."""
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)


class Link:
    """A session's way to its device. ``plugging`` is replaced when the device comes back from a restart of ours."""

    def __init__(self, mux: Usbmux, plugging: Plugging, name: str) -> None:
        self.mux = mux
        self.plugging = plugging
        self.name = name

    @contextlib.asynccontextmanager
    async def verb(self) -> AsyncIterator[None]:
        """Turn the errors of the wire into those of the interface, and end at once when the device goes."""
        plugging = self.plugging
        if plugging.gone.is_set():
            raise self._lost()
        try:
            with plugging.scope() as scope:
                yield
        except AfcError as error:
            raise afc_error(error) from error
        except LockdownRefused as error:
            raise Unavailable(f"{self.name}: {advice(error.code)}", code=error.code) from error
        except WireBroken as error:
            raise await self._why(error) from error
        if scope.cancelled_caught:
            raise self._lost()

    async def _why(self, error: WireBroken) -> AnvilError:
        """Connections break shortly before usbmuxd tells that the device has gone: ask it."""
        try:
            present = any(each.number == self.plugging.device.number for each in await self.mux.devices())
        except WireBroken:
            present = False
        if present:
            return Unavailable(f"{self.name}: {error}")
        self.plugging.end()
        return self._lost()

    def _lost(self) -> DeviceLost:
        return DeviceLost(f"{self.name} is not on the cable any more")

    async def _pair(self) -> PairRecord:
        plugging = self.plugging
        if plugging.pair is None:
            record = await self.mux.pair_record(plugging.device.udid)
            if record is None:
                raise LockdownRefused("InvalidHostID", "a session")
            plugging.pair = PairRecord(record)
        return plugging.pair

    @contextlib.asynccontextmanager
    async def lockdown(self) -> AsyncIterator[Lockdown]:
        """A session with lockdownd. Raises WireBroken."""
        async with open_lockdown(self.mux, self.plugging.device.number, await self._pair()) as lockdown:
            yield lockdown

    async def open(self, service: str) -> Wire:
        """Start a service; the caller closes the connection. Raises WireBroken."""
        return await open_service(self.mux, self.plugging.device.number, await self._pair(), service)

    @contextlib.asynccontextmanager
    async def service(self, name: str) -> AsyncIterator[Wire]:
        """A connection to a service. Raises WireBroken."""
        wire = await self.open(name)
        try:
            yield wire
        finally:
            await wire.aclose()

    @contextlib.asynccontextmanager
    async def afc(self, service: str) -> AsyncIterator[Afc]:
        """A connection to a service that speaks AFC. Raises WireBroken."""
        async with self.service(service) as wire:
            yield Afc(wire)


def afc_error(error: AfcError) -> AnvilError:
    """Say a refusal of AFC in the words of the interface."""
    words = str(error)
    match error.status:
        case AfcStatus.NOT_FOUND:
            return NotFound(f"there is no {error.path} on the device")
        case AfcStatus.PERMISSION_DENIED:
            return PermissionDenied(f"the device does not allow it: {words}")
        case AfcStatus.NO_SPACE:
            return ResourceExhausted(f"the device is full: {words}")
        case AfcStatus.IS_DIRECTORY | AfcStatus.EXISTS | AfcStatus.NOT_EMPTY | AfcStatus.INVALID_ARGUMENT:
            return InvalidArgument(words)
    return DriverFault(f"the device failed a file operation: {words}")
