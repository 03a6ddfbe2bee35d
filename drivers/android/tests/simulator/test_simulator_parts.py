"""The simulator's parts by themselves: packets, streams, keys, files, packages."""

from __future__ import annotations

import base64
import io
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from anvild_android.simulator import TestSpec, build_apk
from anvild_android.simulator.apk import Refused, read_apk
from anvild_android.simulator.auth import KeyRing, parse_key
from anvild_android.simulator.axml import Element, read_xml, write_xml
from anvild_android.simulator.files import Files
from anvild_android.simulator.packets import Command, Packet, Reader, read_packet
from anvild_android.simulator.streams import AdbStream


async def read_from(data: bytes) -> Packet:
    send, receive = trio.testing.memory_stream_one_way_pair()
    await send.send_all(data)
    await send.aclose()
    return await read_packet(Reader(receive))


async def test_a_packet_is_read_as_it_was_written() -> None:
    packet = Packet(Command.WRTE, 7, 9, b"payload")
    assert await read_from(packet.encode()) == packet
    (checksum,) = struct.unpack_from("<I", Packet(Command.CNXN, 0, 0, b"\1\2").encode(), 16)
    assert checksum == 3


@pytest.mark.parametrize("spoilt", [0, 12, 20])
async def test_what_is_no_packet_is_refused(spoilt: int) -> None:
    data = bytearray(Packet(Command.OPEN, 1, 0, b"x").encode())
    data[spoilt + 3] ^= 0xFF
    with pytest.raises((ValueError, EOFError)):
        await read_from(bytes(data))


async def test_a_packet_that_breaks_off_is_an_end() -> None:
    with pytest.raises(EOFError):
        await read_from(Packet(Command.OPEN, 1, 0, b"whole").encode()[:-1])


def stream(posted: list[Packet], **values: Any) -> AdbStream:
    return AdbStream(1, 5, posted.append, **{"max_payload": 4, "delayed": False, **values})


async def test_one_packet_is_under_way_at_a_time() -> None:
    posted: list[Packet] = []
    one = stream(posted)
    one.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_all, b"123456789")
        for sent in (b"1234", b"5678", b"9"):
            await trio.testing.wait_all_tasks_blocked()
            assert posted[-1] == Packet(Command.WRTE, 1, 5, sent)
            one.acknowledged(Packet(Command.OKAY, 5, 1))
    await one.aclose()
    assert posted[-1] == Packet(Command.CLSE, 1, 5)


async def test_delayed_acknowledgement_sends_what_was_granted() -> None:
    posted: list[Packet] = []
    one = stream(posted, delayed=True, credit=6)
    one.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_all, b"123456789")
        await trio.testing.wait_all_tasks_blocked()
        assert b"".join(each.payload for each in posted[1:]) == b"12345678"
        one.acknowledged(Packet(Command.OKAY, 5, 1, struct.pack("<i", 8)))
    assert posted[-1].payload == b"9"
    one.arrived(b"abc")
    assert await one.receive_some(2) == b"ab"
    assert posted[-1] == Packet(Command.OKAY, 1, 5, struct.pack("<i", 2))


async def test_a_close_waits_for_what_was_sent_and_a_cancelled_one_does_not() -> None:
    posted: list[Packet] = []
    one = stream(posted)
    one.accept()
    await one.send_all(b"1234")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.aclose)
            await trio.testing.wait_all_tasks_blocked()
            assert posted[-1].command == Command.WRTE
            scope.cancel()
    assert posted[-1].command == Command.CLSE


async def test_what_has_arrived_is_read_before_the_end() -> None:
    one = stream([])
    one.accept()
    one.arrived(b"last words")
    one.hung_up()
    assert await one.receive_some() == b"last words"
    assert await one.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await one.send_all(b"x")


async def test_a_stream_that_was_taken_and_closed_at_once_was_taken() -> None:
    one = stream([])
    one.acknowledged(Packet(Command.OKAY, 9, 1))
    one.arrived(b"all")
    one.hung_up()
    assert await one.opened()
    assert await one.receive_some() == b"all"
    assert await one.receive_some() == b""
    refused = stream([])
    refused.hung_up()
    assert not await refused.opened()


def a_key() -> tuple[rsa.RSAPrivateKey, str]:
    key = rsa.generate_private_key(65537, 2048)
    modulus = key.public_key().public_numbers().n
    words = struct.pack("<II", 64, 0) + modulus.to_bytes(256, "little") + bytes(256) + struct.pack("<I", 65537)
    return key, base64.b64encode(words).decode() + " somebody@somewhere"


async def test_a_key_is_accepted_when_it_was_approved(tmp_path: Path) -> None:
    key, line = a_key()
    ring = KeyRing(tmp_path / "keys")
    token = os.urandom(20)
    signature = key.sign(token, padding.PKCS1v15(), Prehashed(hashes.SHA1()))
    assert not ring.accepts(token, signature)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ring.offered, line)
        await trio.testing.wait_all_tasks_blocked()
        assert ring.waiting == 1
        ring.approve()
    assert ring.accepts(token, signature)
    assert not ring.accepts(os.urandom(20), signature)
    assert KeyRing(tmp_path / "keys").accepts(token, signature)


@pytest.mark.parametrize("line", ["", "no base64 !", base64.b64encode(b"short").decode()])
def test_what_is_no_key_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not the public key"):
        parse_key(line)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("of the host")
    files = Files(os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY))
    yield files
    files.close()


def test_no_path_leads_out_of_the_root(files: Files, tmp_path: Path) -> None:
    files.link("/absolute", str(tmp_path / "secret"))
    files.link("/relative", "../secret")
    files.link("/magic", f"/proc/self/cwd/{tmp_path}/secret")
    for path in ("/absolute", "/relative", "/magic", "/../secret", "../secret", "/x/../../secret"):
        with pytest.raises(FileNotFoundError):
            files.read(path)
    files.link("/up", "..")
    files.write("/up/secret", b"of the device")
    files.make_folders("/up/up/folder/deep")
    files.remove_tree("/up/folder")
    assert (tmp_path / "secret").read_text() == "of the host"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["root", "secret"]
    assert files.read("/secret") == b"of the device"


def test_a_manifest_is_read_as_it_was_written() -> None:
    child = Element("child", {"name": "ü" * 200, "exported": False, "minSdkVersion": 7, ":plain": "text"}, [])
    root = Element("manifest", {":package": "a.b"}, [child, Element("child", {}, [Element("deep", {}, [])])])
    assert read_xml(write_xml(root)) == root


@pytest.mark.parametrize("cut", [0, 4, 9, 200, -4])
def test_a_manifest_that_breaks_off_is_refused(cut: int) -> None:
    whole = write_xml(Element("manifest", {":package": "a.b", "versionCode": 3}, []))
    with pytest.raises(ValueError, match="XML"):
        read_xml(whole[:cut])


def test_a_package_tells_what_it_was_built_from() -> None:
    tests = [TestSpec(name="a.B#c", outcome="failed", message="why", seconds=0.5)]
    built = build_apk("a.b", label="The App", version="1.2", version_code=12, instrumentation=tests, target="a.c")
    manifest = read_apk(io.BytesIO(built))
    assert (manifest.package, manifest.version, manifest.version_code, manifest.label) == ("a.b", "1.2", 12, "The App")
    assert [(each.runner, each.target) for each in manifest.instrumentation] == [
        ("androidx.test.runner.AndroidJUnitRunner", "a.c")
    ]
    assert list(manifest.tests) == tests
    assert built == build_apk(
        "a.b", label="The App", version="1.2", version_code=12, instrumentation=tests, target="a.c"
    )
    assert read_apk(io.BytesIO(build_apk("a.d"))).launcher == "a.d.MainActivity"


def test_a_package_without_a_manifest_or_signature_is_refused() -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("classes.dex", b"")
    for content, code in (
        (b"nothing", "NOT_APK"),
        (written.getvalue(), "BAD_MANIFEST"),
        (build_apk("a.b", valid=False), "NO_CERTIFICATES"),
        (build_apk(""), "BAD_PACKAGE_NAME"),
    ):
        with pytest.raises(Refused, match=f"INSTALL_PARSE_FAILED_{code}"):
            read_apk(io.BytesIO(content))
