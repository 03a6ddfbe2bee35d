"""Both ends speak the same wire, and the host believes nothing that it has not checked."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anvild.sdk import DriverFault, InvalidArgument
from anvild.sdk.agent import guest_archive, protocol
from anvild.sdk.agent.guest import wire

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


def test_the_guest_repeats_the_constants() -> None:
    assert {name: getattr(wire, name) for name in SHARED} == {name: getattr(protocol, name) for name in SHARED}
    assert wire.HEADER.format == protocol.HEADER.format
    assert {kind.name: getattr(wire, kind.name) for kind in protocol.Kind} == {
        kind.name: kind.value for kind in protocol.Kind
    }
    assert list(protocol.Close) == [wire.CLOSE_RELEASE, wire.CLOSE_COLLECTED, wire.CLOSE_UNDO]


def test_the_guest_is_one_file_that_is_the_same_every_time() -> None:
    with zipfile.ZipFile(io.BytesIO(guest_archive())) as archive:
        assert archive.namelist()[0] == "__main__.py"
        assert "guest/agent.py" in archive.namelist()
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    program = "from anvild.sdk.agent import guest_archive as g; import hashlib; print(hashlib.sha256(g()).hexdigest())"
    elsewhere = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert elsewhere.stdout.strip() == hashlib.sha256(guest_archive()).hexdigest()


def test_another_version_of_python_goes_by_the_sources(tmp_path: Path) -> None:
    foreign = tmp_path / "agent.pyz"
    foreign.write_bytes(guest_archive().replace(importlib.util.MAGIC_NUMBER, b"\0\0\r\n"))
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(foreign), "connect", str(tmp_path / "no.sock")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "FileNotFoundError" in ended.stderr


def test_the_guest_gets_by_with_a_minimal_library(agent_file: Path) -> None:
    program = f"""
import sys
class Bar:
    def find_spec(self, name, path=None, target=None):
        if name in {MINIMAL_LIBRARY_LACKS!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Bar())
sys.path = [p for p in {sys.path!r} if p.endswith(('python3.' + str(sys.version_info[1]), 'lib-dynload'))]
sys.path.insert(0, {str(agent_file)!r})
import guest.start
assert not [name for name in sys.modules if name.startswith('anvild')]
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


@settings(max_examples=50, deadline=None)
@given(values)
def test_a_message_survives_the_way(value: protocol.Packed) -> None:
    there = wire.unpack(protocol.pack(value))
    assert protocol.unpack(wire.pack(there)) == there == value


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
