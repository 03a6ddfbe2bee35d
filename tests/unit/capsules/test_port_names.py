"""Names of ports, and connecting to them."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from anvild.capsules.proxy import Names, Place
from anvild.capsules.routes.proxy import dial
from anvild.core.errors import InvalidRequest
from anvild.sdk import CapabilityMissing, DeviceFact, DeviceStatus, Ports, Session, Unavailable
from anvild.web.forward import NoAnswer

ID = "cl-0000000000000000000000001"
PLACE = Place(80, "00000000-0000-0000-0000-000000000001", ID)


def test_a_name_leads_to_a_port() -> None:
    names = Names("lab.example.org")
    assert f"80-{ID}.lab.example.org" in names
    assert names.place(f"80-{ID}.lab.example.org") == PLACE
    for other in (f"80-{ID}", f"80-{ID}.lab-example.org", f"80-{ID}.x.lab.example.org", f"a-{ID}.lab.example.org", ""):
        assert other not in names
    for wrong in (f"0-{ID}", f"65536-{ID}", f"{'9' * 100}-{ID}", "80-cl-", f"80-{ID}0", f"80-{ID[:-1]}!"):
        assert f"{wrong}.lab.example.org" in names
        with pytest.raises(InvalidRequest):
            names.place(f"{wrong}.lab.example.org")


class Late(Session, Ports):
    """A device on which something listens after so many trials."""

    device = DeviceFact(identity="late", platform="test", name="late", status=DeviceStatus.READY)

    def __init__(self, trials: int) -> None:
        self.trials = trials

    async def connect_port(self, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.trials -= 1
        if self.trials >= 0:
            raise Unavailable("nothing listens")
        return trio.testing.memory_stream_pair()[0]


async def test_a_server_may_be_late(autojump_clock: trio.testing.MockClock) -> None:
    for trials, seconds in ((0, 0.0), (1, 0.1), (2, 0.3)):
        began = trio.current_time()
        await dial(Late(trials), PLACE)
        assert trio.current_time() - began == pytest.approx(seconds)
    with pytest.raises(NoAnswer, match="nothing listens"):
        await dial(Late(3), PLACE)


class Shut(Session):
    """A device that has no ports."""

    device = Late.device


async def test_a_device_without_ports() -> None:
    with pytest.raises(CapabilityMissing):
        await dial(Shut(), PLACE)
