"""The client of lockdownd: what a device says of itself, and the way to its services."""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import trio

from .usbmux import Usbmux
from .wire.plists import encode_message, receive_message
from .wire.streams import Wire, WireBroken, WireClosed

__all__ = ["Lockdown", "LockdownRefused", "PairRecord", "open_lockdown", "open_service"]

LOCKDOWN_PORT = 62078
ANSWER_SECONDS = 10.0
LABEL = "anvild"


class LockdownRefused(WireBroken):
    """The device refused a request. ``code`` is its own word: ``InvalidHostID``, ``PasswordProtected``, …"""

    def __init__(self, code: str, request: str) -> None:
        super().__init__(f"the device refused {request}: {code}")
        self.code = code


class PairRecord:
    """The keys that this host and a device have agreed on."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.host_id = str(values.get("HostID", ""))
        self.system_id = str(values.get("SystemBUID", ""))
        self.escrow: bytes | None = values.get("EscrowBag")
        self._certificate: bytes = values.get("HostCertificate", b"")
        self._key: bytes = values.get("HostPrivateKey", b"")
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext:
        """Return the TLS side of this host, made once. Raises WireBroken for keys that cannot be read."""
        if self._context is None:
            self._context = await trio.to_thread.run_sync(self._make_context)
        return self._context

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # A device shows a certificate of its own making, some with keys that are weak by today's rules. What is proved
        # is this host's key, to a device on this host's own cable.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # private to this user; OpenSSL reads only files
            file.write(self._certificate + b"\n" + self._key)
            file.flush()
            try:
                context.load_cert_chain(file.name)
            except (ssl.SSLError, OSError) as error:
                raise WireBroken(f"the keys of the pair record cannot be read: {error}") from error
        return context


class Lockdown:
    """A connection to a device's lockdownd. One task uses it at a time."""

    def __init__(self, wire: Wire, number: int, mux: Usbmux) -> None:
        self._wire = wire
        self._number = number
        self._mux = mux
        self._pair: PairRecord | None = None

    async def value(self, domain: str | None = None, key: str | None = None) -> Any:
        """Return a value, or all of a domain; None where the device has none. Raises LockdownRefused, WireBroken."""
        request = {"Domain": domain, "Key": key}
        try:
            answer = await self._ask("GetValue", {name: each for name, each in request.items() if each is not None})
        except LockdownRefused as error:
            if error.code in ("MissingValue", "InvalidValue"):
                return None
            raise
        return answer.get("Value")

    async def start_session(self, pair: PairRecord) -> None:
        """Prove that this host is the one that the device trusts. Raises LockdownRefused, WireBroken."""
        answer = await self._ask("StartSession", {"HostID": pair.host_id, "SystemBUID": pair.system_id})
        if answer.get("EnableSessionSSL"):
            self._wire = await _secure(self._wire, pair)
        self._pair = pair

    async def service(self, name: str) -> Wire:
        """Start a service of the device and return a connection to it. Raises LockdownRefused, WireBroken."""
        assert self._pair is not None, "a session comes before a service"
        request: dict[str, Any] = {"Service": name}
        if self._pair.escrow is not None:
            request["EscrowBag"] = self._pair.escrow
        answer = await self._ask("StartService", request)
        wire = Wire(await self._mux.connect(self._number, int(answer.get("Port", 0))))
        if not answer.get("EnableServiceSSL"):
            return wire
        try:
            return await _secure(wire, self._pair)
        except BaseException:
            await wire.aclose()
            raise

    async def offers(self, name: str) -> bool:
        """Say whether the device has a service. Raises LockdownRefused, WireBroken."""
        try:
            await self._ask("StartService", {"Service": name})
        except LockdownRefused as error:
            if error.code == "InvalidService":
                return False
            raise
        return True

    async def aclose(self) -> None:
        """End the session and the connection."""
        await self._wire.aclose()

    async def _ask(self, request: str, values: dict[str, Any]) -> dict[str, Any]:
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await self._wire.send(encode_message({"Label": LABEL, "Request": request, **values}))
                answer = await receive_message(self._wire)
        except trio.TooSlowError:
            raise WireClosed(f"the device has not answered {request} for {ANSWER_SECONDS:g} s") from None
        if error := answer.get("Error"):
            raise LockdownRefused(str(error), request)
        return answer


async def _secure(wire: Wire, pair: PairRecord) -> Wire:
    stream = trio.SSLStream(wire.release(), await pair.context(), https_compatible=True)
    try:
        with trio.fail_after(ANSWER_SECONDS):
            await stream.do_handshake()
    except trio.TooSlowError:
        raise WireClosed("the device has not ended the TLS handshake in time") from None
    except (trio.BrokenResourceError, ssl.SSLError) as error:
        raise WireClosed(f"the device does not accept this host's keys: {error.__cause__ or error}") from error
    return Wire(stream)


@contextlib.asynccontextmanager
async def open_lockdown(mux: Usbmux, number: int, pair: PairRecord | None = None) -> AsyncIterator[Lockdown]:
    """Connect to a device's lockdownd, with a session when ``pair`` is given. Raises WireBroken."""
    lockdown = Lockdown(Wire(await mux.connect(number, LOCKDOWN_PORT)), number, mux)
    try:
        if pair is not None:
            await lockdown.start_session(pair)
        yield lockdown
    finally:
        await lockdown.aclose()


async def open_service(mux: Usbmux, number: int, pair: PairRecord, name: str) -> Wire:
    """Start a service and return a connection to it, which the caller closes. Raises WireBroken."""
    wire: Wire | None = None
    try:
        async with open_lockdown(mux, number, pair) as lockdown:
            wire = await lockdown.service(name)
    except BaseException:  # the end of the session with lockdownd can be cancelled too
        if wire is not None:
            await wire.aclose()
        raise
    return wire
