"""Both ends speak the same wire, and the host believes nothing that it has not checked."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anvild.sdk import DriverFault, InvalidArgument
from anvild.sdk.agent import GUEST_FILE, protocol

SHARED = (
    "VERSION",
    "MAGIC",
    "NONCE_SIZE",
    "PAYLOAD_LIMIT",
    "WINDOW",
    "FRAME_COST",
    "KEPT_OUTPUT",
    "KEPT_EXITS",
    "REQUEST_LIMIT",
    "NEST_LIMIT",
)
MINIMAL_LIBRARY_LACKS = {
    "json",
    "pty",
    "termios",
    "tty",
    "shutil",
    "tarfile",
    "ctypes",
    "asyncio",
    "resource",
    "typing",
}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def guest_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("guest_under_test", GUEST_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_guest_repeats_the_constants(guest_module: ModuleType) -> None:
    assert {name: getattr(guest_module, name) for name in SHARED} == {name: getattr(protocol, name) for name in SHARED}
    assert guest_module.HEADER.format == protocol.HEADER.format
    assert {kind.name: getattr(guest_module, kind.name) for kind in protocol.Kind} == {
        kind.name: kind.value for kind in protocol.Kind
    }
    assert list(protocol.Close) == [guest_module.CLOSE_RELEASE, guest_module.CLOSE_COLLECTED, guest_module.CLOSE_UNDO]


def test_the_guest_gets_by_with_a_minimal_library() -> None:
    program = f"""
import sys
sys.path = []
class Bar:
    def find_spec(self, name, path=None, target=None):
        if name in {MINIMAL_LIBRARY_LACKS!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Bar())
sys.path = [p for p in {sys.path!r} if p.endswith(('python3.' + str(sys.version_info[1]), 'lib-dynload'))]
exec(compile(open({str(GUEST_FILE)!r}).read(), 'guest', 'exec'), {{'__name__': 'guest'}})
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


@settings(max_examples=50, deadline=None)
@given(values)
def test_a_message_survives_the_way(guest_module: ModuleType, value: protocol.Packed) -> None:
    there = guest_module.unpack(protocol.pack(value))
    assert protocol.unpack(guest_module.pack(there)) == there == value


@given(st.binary(max_size=200))
def test_an_odd_message_is_a_fault_of_the_driver(data: bytes) -> None:
    try:
        protocol.unpack(data)
    except DriverFault:
        return


@given(st.lists(st.sampled_from([b"x", protocol.MAGIC, protocol.MAGIC[:7], protocol.MAGIC[7:]]), max_size=12))
def test_no_frame_holds_the_magic(parts: list[bytes]) -> None:
    data = b"".join(parts)
    sent = b"".join(protocol.frame(protocol.Kind.DATA, 2**31 - 1, piece) for piece in protocol.pieces(data))
    assert protocol.MAGIC not in sent
    assert b"".join(protocol.pieces(data)) == data


def test_text_that_no_device_can_take_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        protocol.pack("\ud800")
    with pytest.raises(InvalidArgument):
        protocol.pack(2**64)
