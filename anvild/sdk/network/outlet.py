"""The network of one device: its programs' connections, carried by its agent to the filter and from there on."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..agent import AgentClient, AgentConnection, accept_connection, listen_for_connections
from ..errors import AnvilError, PermissionDenied
from ..values import NetworkPolicy, NetworkUse
from .filter import Filter, Resolve
from .proxy import serve_program
from .rules import Rules

__all__ = ["PROXY_PORT", "Outlet", "proxy_environment"]

PROXY_PORT = 3128
CONNECTIONS = 64
RATE = 100.0
BURST = 64
LOG_SECONDS = 10.0

_DIRECT = "localhost,127.0.0.1,::1"


def proxy_environment() -> dict[str, str]:
    """Return the environment by which programs of a device that has an :class:`Outlet` find their way out."""
    proxy = f"http://127.0.0.1:{PROXY_PORT}"
    names = {"http_proxy": proxy, "https_proxy": proxy, "all_proxy": proxy, "no_proxy": _DIRECT}
    return names | {name.upper(): value for name, value in names.items()}


class Outlet:
    """The way out of one device, by a policy. Raises InvalidArgument for a policy that cannot be.

    At most 64 connections are carried at the same time and, after as many at once, 100 new ones a second; the next
    wait. A connection on which nothing has moved for ten minutes is closed. What is denied is told to the program,
    counted, and logged at most every ten seconds. ``log`` is the driver's; ``resolve`` looks names up, by default as
    this machine does.
    """

    def __init__(
        self, policy: NetworkPolicy, *, device: str, log: Callable[..., None], resolve: Resolve | None = None
    ) -> None:
        self._filter = Filter(Rules(policy), resolve=resolve)
        self._device = device
        self._log = log
        self._slots = trio.Semaphore(CONNECTIONS, max_value=CONNECTIONS)
        self._open = self._carried = self._denied = self._failed = 0
        self._quiet_until = -float("inf")
        self._due = -float("inf")

    def use(self) -> NetworkUse:
        """Return what was done with it so far."""
        return NetworkUse(open=self._open, carried=self._carried, denied=self._denied, failed=self._failed)

    async def serve(self, agent: AgentClient, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry connections until the one with the agent ends. ``started`` means that programs can connect.

        Raises DeviceLost when the connection with the agent has ended, Unavailable or WrongState when the proxy's
        port cannot be had in the device, CapabilityMissing when the device's agent is too old.
        """
        await listen_for_connections(agent, PROXY_PORT)
        task_status.started()
        async with trio.open_nursery() as nursery:
            failure = await self._accept(agent, nursery)
            nursery.cancel_scope.cancel()
        raise failure

    async def _accept(self, agent: AgentClient, nursery: trio.Nursery) -> AnvilError:
        while True:
            await self._pace()
            await self._slots.acquire()
            try:
                connection = await accept_connection(agent, PROXY_PORT)
            except AnvilError as error:
                self._slots.release()
                return error
            except trio.Cancelled:
                self._slots.release()
                raise
            nursery.start_soon(self._carry, connection)

    async def _pace(self) -> None:
        """Wait so that connections made without a pause take no more than their share of this process."""
        self._due = max(self._due + 1 / RATE, trio.current_time() - BURST / RATE)
        await trio.sleep_until(self._due)

    async def _carry(self, connection: AgentConnection) -> None:
        self._open += 1
        try:
            async with connection:
                await serve_program(connection, self._let_out)
        except Exception as error:  # a defect here must not end the other connections of the device
            self._log("error", "network.defect", device=self._device, error=repr(error))
        finally:
            self._open -= 1
            self._slots.release()

    async def _let_out(self, host: str, port: int) -> trio.SocketStream:
        try:
            stream = await self._filter(host, port)
        except PermissionDenied as error:
            self._denied += 1
            self._tell(error.message)
            raise
        except AnvilError:
            self._failed += 1
            raise
        self._carried += 1
        return stream

    def _tell(self, reason: str) -> None:
        """Log that something was denied, unless that has just been done."""
        now = trio.current_time()
        if now < self._quiet_until:
            return
        self._log("warning", "network.denied", device=self._device, reason=reason, denied=self._denied)
        self._quiet_until = now + LOG_SECONDS
