"""Small parts: the kept log, films, notes on leases, the port of a device, the sentences of tools."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anvild_ios.animation import Animation, PictureDamaged
from anvild_ios.apps import read_package
from anvild_ios.children import Ended
from anvild_ios.inspection import needs_tunnel, sysfs_port
from anvild_ios.ledger import Ledger, Left
from anvild_ios.simulator.services.instruments import picture
from anvild_ios.spool import Spool


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


async def test_a_log_is_kept_up_to_its_limit(tmp_path: Path) -> None:
    spool = Spool(tmp_path, limit=400)
    written = bytes(range(250)) * 4
    for start in range(0, len(written), 37):
        await spool.append(written[start : start + 37])
    assert spool.end == len(written)
    assert 300 <= spool.end - spool.start <= 400
    place, kept = spool.start, b""
    while await spool.wait(place) and place < spool.end:
        place, data = await spool.read(place, 33)
        kept += data
        if place == spool.end:
            spool.finish()
    assert kept == written[spool.end - len(kept) :]
    assert len(kept) >= 300
    assert (await spool.read(0, 5))[1] == kept[:5]
    assert 300 <= sum(sizes(tmp_path)) <= 500
    await spool.aclose()
    assert sizes(tmp_path) == []


def test_pictures_of_another_size_begin_a_new_film(tmp_path: Path) -> None:
    film = Animation(tmp_path / "film.png")
    assert film.add(picture(4, 12), 1.0)
    assert not film.add(picture(12, 4), 1.0)
    assert film.add(picture(4, 12), 1.0)
    film.close()
    film.close()
    data = (tmp_path / "film.png").read_bytes()
    assert film.size == len(data)
    assert struct.unpack_from(">I", data, data.index(b"acTL") + 4) == (2,)


@settings(deadline=None)
@given(st.integers(0, 200), st.binary(max_size=20))
def test_damaged_pictures_are_refused(tmp_path_factory: pytest.TempPathFactory, cut: int, more: bytes) -> None:
    film = Animation(tmp_path_factory.mktemp("film") / "film.png")
    try:
        whole = picture(4, 12)
        if cut < whole.index(b"IDAT") + 4:
            with pytest.raises(PictureDamaged):
                film.add(whole[:cut], 1.0)
        if not more.startswith(b"\x89PNG"):
            with pytest.raises(PictureDamaged):
                film.add(more, 1.0)
    finally:
        film.close()


async def test_notes_on_a_lease_are_kept_and_forgotten(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "left")
    assert await ledger.read("A") == Left()
    await ledger.note_apps("A", ("one",))
    await ledger.note_apps("A", ("one", "two"))
    await ledger.note_path("A", "/x")
    await ledger.note_path("A", "/x")
    assert await Ledger(tmp_path / "left").read("A") == Left(apps=("one",), paths=("/x",))
    assert await ledger.read("B") == Left()
    await ledger.forget("A")
    await ledger.forget("A")
    assert await ledger.read("A") == Left()
    assert sizes(tmp_path) == []


def test_the_port_is_found_by_the_serial_number(tmp_path: Path) -> None:
    for port, serial in (("1-1", "0000"), ("1-4.2", "00008110000A5B")):
        (tmp_path / port).mkdir()
        (tmp_path / port / "serial").write_text(f"{serial}\n")
    assert sysfs_port("00008110-000A5B", tmp_path) == "1-4.2"
    assert sysfs_port("00008110-FFFFFF", tmp_path) is None
    assert sysfs_port("x", tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("version", "needed"), [("16.7.10", False), ("17.0", True), ("18.1", True), ("9.3", False), (None, False)]
)
def test_the_tunnel_begins_with_17(version: str | None, needed: bool) -> None:
    assert needs_tunnel(version) is needed


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        (
            '{"level":"WARN","msg":"chatter"}\n{"level":"ERROR","msg":"it failed","err":"no image"}',
            "it failed: no image",
        ),
        (
            '{"level":"INFO","msg":"Failed running","error":"no service"}\n{"level":"INFO","msg":"bye"}',
            "Failed running: no service",
        ),
        ('{"level":"WARN","msg":"no tunnel","error":"x"}', "it ended with status 3 and said nothing"),
        ("Traceback\nValueError: plain words\n", "ValueError: plain words"),
        ("", "it ended with status 3 and said nothing"),
    ],
)
def test_a_tools_own_sentence_is_found(errors: str, reason: str) -> None:
    assert Ended(3, errors).reason == reason


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_may_be_called_a_package(data: bytes) -> None:
    assert read_package(io.BytesIO(data)) is None


def test_a_package_is_read_for_its_app() -> None:
    demo = Path(__file__).parents[1] / "anvild_ios/simulator/demo.ipa"
    with demo.open("rb") as file:
        app = read_package(file)
    assert app is not None
    assert (app.identifier, app.name, app.version) == ("com.example.demo", "Demo", "1.2")


def test_a_package_whose_list_is_damaged_is_left_to_the_device() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("Payload/X.app/Info.plist", b"<plist><dict><key>")
    assert read_package(made) is None
