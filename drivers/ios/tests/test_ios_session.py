"""The verbs of a session that the driver does itself, against a simulated device."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from anvild.sdk import (
    AlreadyExists,
    DeviceLost,
    EntryType,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    WrongState,
)

Bench = Any
Make = Callable[..., bytes]


class Source(AsyncIterator[bytes]):
    """Pieces of bytes, one after another; it says when it was asked for another one."""

    def __init__(self, *pieces: bytes, endless: bool = False) -> None:
        self.pieces = list(pieces)
        self.endless = endless
        self.asked_again = trio.Event()

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.endless:
            self.asked_again.set()
            return bytes(10_000)
        if not self.pieces:
            raise StopAsyncIteration
        return self.pieces.pop(0)


def once(data: bytes, size: int = 100_000) -> Source:
    return Source(*(data[start : start + size] for start in range(0, len(data), size)))


async def whole(stream: trio.abc.ReceiveStream) -> bytes:
    async with stream:
        return b"".join([chunk async for chunk in stream])


async def logged(bench: Bench, words: str, times: int) -> None:
    """Return when the device has written these words so often."""
    with bench.device.read_log() as lines:
        async for line in lines:
            times -= words in line
            if not times:
                return


class TestFiles:
    """Files of the media folder and of apps."""

    async def test_come_back_as_they_went(self, bench: Bench) -> None:
        data = bytes(range(256)) * 12_000
        async with bench.session() as session:
            assert await session.write("/Downloads/a/b.bin", once(data)) == len(data)
            assert await whole(await session.read("/Downloads/a/b.bin")) == data
            entry = await session.stat("/Downloads/a/b.bin")
            assert (entry.type, entry.size, entry.name) == (EntryType.FILE, len(data), "b.bin")
            listed = await session.list("/Downloads", depth=2)
            assert [each.path for each in listed] == ["/Downloads/a", "/Downloads/a/b.bin"]
            await session.remove("/Downloads/a")
            with pytest.raises(NotFound):
                await session.stat("/Downloads/a")

    async def test_two_readers_do_not_disturb_one_another(self, bench: Bench) -> None:
        bench.device.media.put("/one", b"1" * 3_000_000)
        bench.device.media.put("/two", b"2" * 3_000_000)
        async with bench.session() as session:
            first, second = await session.read("/one"), await session.read("/two")
            assert (await first.receive_some(10), await second.receive_some(10)) == (b"1" * 10, b"2" * 10)
            assert len(await whole(second)) == 3_000_000 - 10
            assert len(await whole(first)) == 3_000_000 - 10

    async def test_wrong_paths_are_refused(self, bench: Bench) -> None:
        async with bench.session() as session:
            with pytest.raises(NotFound, match="/missing"):
                await session.read("/missing")
            with pytest.raises(InvalidArgument, match="directory"):
                await session.read("/DCIM")
            with pytest.raises(InvalidArgument, match="directory"):
                await session.write("/DCIM", once(b"x"))
            with pytest.raises(InvalidArgument, match="absolute"):
                await session.read("relative")
            with pytest.raises(AlreadyExists):
                await session.mkdir("/DCIM")
            with pytest.raises(InvalidArgument, match="user"):
                await session.write("/x", once(b"x"), user="root")
            bench.device.media.put("/file", b"")
            with pytest.raises(InvalidArgument, match="no directory"):
                await session.list("/file")
            with pytest.raises(InvalidArgument, match="root"):
                await session.remove("/")

    async def test_a_full_device_keeps_nothing_of_a_file(self, bench: Bench) -> None:
        bench.device.media.limit = 1_000_000
        async with bench.session() as session:
            with pytest.raises(ResourceExhausted, match="full"):
                await session.write("/Downloads/big", once(bytes(2_000_000)))
        assert bench.device.media.directory("/Downloads").entries == {}

    async def test_a_cancelled_writing_leaves_nothing(self, bench: Bench) -> None:
        source = Source(endless=True)
        async with bench.session() as session:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.write, "/Downloads/never", source)
                await source.asked_again.wait()
                nursery.cancel_scope.cancel()
            assert bench.device.media.directory("/Downloads").entries == {}

    async def test_a_source_that_fails_leaves_nothing(self, bench: Bench) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"some"
            raise ValueError("its own")

        async with bench.session() as session:
            with pytest.raises(ValueError, match="its own"):
                await session.write("/Downloads/never", broken())
        assert bench.device.media.directory("/Downloads").entries == {}

    async def test_an_apps_own_folder_is_reached_by_its_name(self, bench: Bench) -> None:
        async with bench.session() as session:
            await session.write("/@com.example.notes/Documents/seed.json", once(b"{}"))
            listed = await session.list("/@com.example.notes/Documents")
            assert [each.path for each in listed] == ["/@com.example.notes/Documents/seed.json"]
            with pytest.raises(NotFound, match="development"):
                await session.list("/@com.apple.Preferences/Documents")
        assert bytes(bench.device.apps["com.example.notes"].container.file("/Documents/seed.json").data) == b"{}"


class TestApps:
    """Installing, listing, removing and clearing."""

    async def test_an_app_comes_and_goes(self, bench: Bench, make_ipa: Make) -> None:
        package = make_ipa(padding=300_000)
        async with bench.session() as session:
            app = await session.install_app(once(package), size=len(package))
            assert app is not None
            assert (app.identifier, app.version) == ("com.example.demo", "1.2")
            assert [each.identifier for each in await session.list_apps()] == ["com.example.demo", "com.example.notes"]
            assert any(each.system for each in await session.list_apps(system=True))
            await session.uninstall_app("com.example.demo")
            with pytest.raises(NotFound, match=r"com\.example\.demo"):
                await session.uninstall_app("com.example.demo")
        assert bench.device.media.directory("/PublicStaging").entries == {}

    async def test_one_that_is_there_is_replaced_or_not(self, bench: Bench, make_ipa: Make) -> None:
        first, second = make_ipa(), make_ipa(info={"CFBundleShortVersionString": "2.0"})
        async with bench.session() as session:
            await session.install_app(once(first), size=len(first))
            with pytest.raises(AlreadyExists):
                await session.install_app(once(second), size=len(second), replace=False)
            app = await session.install_app(once(second), size=len(second))
            assert app is not None
            assert app.version == "2.0"

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            ({"without": "Payload/Demo.app/_CodeSignature/CodeResources"}, "ApplicationVerificationFailed"),
            ({"without": "Payload/Demo.app/Info.plist"}, "PackageInspectionFailed"),
            ({"info": {"MinimumOSVersion": "99.0"}}, "requires iOS 99.0"),
        ],
        ids=["unsigned", "empty", "too new"],
    )
    async def test_a_bad_package_is_refused_in_the_devices_words(
        self, bench: Bench, make_ipa: Make, damage: dict[str, Any], words: str
    ) -> None:
        package = make_ipa(**damage)
        async with bench.session() as session:
            with pytest.raises(InvalidArgument, match=words):
                await session.install_app(once(package), size=len(package))
        assert bench.device.media.directory("/PublicStaging").entries == {}

    async def test_no_package_at_all_is_refused(self, bench: Bench) -> None:
        async with bench.session() as session:
            with pytest.raises(InvalidArgument, match="PackageExtractionFailed"):
                await session.install_app(once(b"this is no package"), size=18)
            with pytest.raises(InvalidArgument, match="announced"):
                await session.install_app(once(b"short"), size=18)

    async def test_a_package_that_does_not_fit_is_refused_before_it_is_sent(self, bench: Bench) -> None:
        bench.device.media.limit = 1000
        async with bench.session() as session:
            with pytest.raises(ResourceExhausted, match="free"):
                await session.install_app(once(b"x"), size=2000)

    @pytest.mark.parametrize("when", ["sending", "installing"])
    async def test_a_cancelled_installation_leaves_nothing(self, bench: Bench, make_ipa: Make, when: str) -> None:
        package = make_ipa()
        reached = trio.Event()

        async def source() -> AsyncIterator[bytes]:
            yield package[:100]
            if when == "sending":
                reached.set()
                await trio.sleep_forever()
            yield package[100:]
            reached.set()

        bench.device.install_gate = trio.Event()
        async with bench.session() as session:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: session.install_app(source(), size=len(package)))
                await reached.wait()
                if when == "installing":
                    await logged(bench, "installation_proxy", 2)
                nursery.cancel_scope.cancel()
            assert bench.device.media.directory("/PublicStaging").entries == {}
            bench.device.install_gate.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert [each.identifier for each in await session.list_apps()] == ["com.example.notes"]

    async def test_wrong_names_and_system_apps_are_refused(self, bench: Bench) -> None:
        async with bench.session() as session:
            with pytest.raises(NotFound):
                await session.clear_app("com.example.stranger")
            with pytest.raises(PermissionDenied):
                await session.uninstall_app("com.apple.Preferences")
            with pytest.raises(PermissionDenied):
                await session.clear_app("com.apple.Preferences")

    async def test_apps_are_started_and_stopped_over_the_cable(self, bench: Bench) -> None:
        async with bench.session() as session:
            await session.launch_app("com.example.notes", arguments=["-x"], env={"K": "v"})
            assert "com.example.notes" in bench.device.running
            await session.stop_app("com.example.notes")
            await session.stop_app("com.example.notes")
            assert bench.device.running == {}
            for verb in (session.launch_app, session.stop_app):
                with pytest.raises(NotFound):
                    await verb("com.example.stranger")

    async def test_a_picture_is_taken_over_the_cable(self, bench: Bench) -> None:
        async with bench.session() as session:
            assert (await whole(await session.screenshot())).startswith(b"\x89PNG")

    async def test_a_film_is_made_of_pictures(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("anvild_ios.screen.FRAME_SECONDS", 0.01)
        monkeypatch.setattr("anvild_ios.screen.PART_PICTURES", 2)
        pictures = pytest.importorskip(
            "PIL.Image", reason="a foreign reader of films is not installed: pip install pillow"
        )
        async with bench.session() as session:
            with pytest.raises(WrongState):
                await session.stop_recording()
            await session.start_recording()
            with pytest.raises(WrongState):
                await session.start_recording()
            while len(session.recording._parts) < 3:
                await session.screenshot()
            parts = await session.stop_recording()
            assert [each.name for each in parts][:2] == ["screen-01.png", "screen-02.png"]
            film = await whole(await session.fetch(parts[0].reference))
            assert len(film) == parts[0].size
            with pictures.open(io.BytesIO(film)) as image:
                assert (image.is_animated, image.n_frames) == (True, 2)
                image.seek(1)
                assert image.convert("RGB").getpixel((45, 100)) == (0x20, 0x40, 0x80)
        assert not list(bench.driver.context.cache_dir.iterdir())

    async def test_a_film_ends_with_its_device(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("anvild_ios.screen.FRAME_SECONDS", 0.01)
        async with bench.session() as session:
            await session.start_recording()
            bench.simulator.unplug(bench.udid)
            with trio.fail_after(60):
                await session.recording._ended.wait()
            assert len(await session.stop_recording()) == 1

    async def test_clearing_removes_its_data(self, bench: Bench) -> None:
        container = bench.device.apps["com.example.notes"].container
        container.put("/Documents/note.txt", b"x")
        container.put("/Library/Preferences/settings.plist", b"x")
        async with bench.session() as session:
            await session.clear_app("com.example.notes")
        assert container.used == 0
        assert set(container.directory("/Library").entries) == {"Caches", "Preferences"}


class TestLogs:
    """The log, with marks, to the present or for ever."""

    async def test_is_sliced_from_a_mark_to_the_present(self, bench: Bench) -> None:
        async with bench.session() as session:
            bench.device.log("demo", "before")
            mark = await session.log_mark()
            bench.device.log("demo", "during")
            text = (await whole(await session.logs(since=mark))).decode()
            assert "during" in text
            assert "before" not in text
            everything = (await whole(await session.logs())).decode()
            assert "before" in everything
            assert "\0" not in everything
            assert all("<Notice>" in line for line in everything.splitlines())

    async def test_goes_on_until_it_is_closed(self, bench: Bench) -> None:
        async with bench.session() as session:
            stream = await session.logs(since=await session.log_mark(), follow=True)
            async with stream:
                for number in range(3):
                    bench.device.log("demo", f"line {number}")
                    seen = b""
                    while f"line {number}".encode() not in seen:
                        seen += await stream.receive_some()

    async def test_a_cancelled_reader_leaves_the_log_usable(self, bench: Bench) -> None:
        async with bench.session() as session:
            mark = await session.log_mark()
            stream = await session.logs(since=mark, follow=True)
            with trio.move_on_after(0.05) as scope:
                await stream.receive_some()
            assert scope.cancelled_caught
            bench.device.log("demo", "still here")
            assert b"still here" in await stream.receive_some()
            await stream.aclose()

    async def test_marks_of_others_are_refused(self, bench: Bench) -> None:
        async with bench.session() as session:
            await session.log_mark()
            with pytest.raises(InvalidArgument, match="another session"):
                await session.logs(since="stranger:0")

    async def test_a_mark_does_not_outlive_a_restart(self, bench: Bench) -> None:
        async with bench.session() as session:
            mark = await session.log_mark()
            await session.reboot()
            with pytest.raises(InvalidArgument, match="restart"):
                await session.logs(since=mark)


class TestCrashReports:
    """Crash reports of the device, by its own clock."""

    async def test_are_listed_and_fetched(self, bench: Bench) -> None:
        bench.device.clock_offset = -3600.0
        bench.device.crashes.put("/Retired/old.ips", b"old", modified=bench.device.now - 600)
        since = datetime.now(UTC) - timedelta(seconds=60)
        path = bench.device.crash("demo")
        async with bench.session() as session:
            assert [each.name for each in await session.crash_reports()] == ["Retired_old.ips", path.strip("/")]
            (report,) = await session.crash_reports(since=since)
            assert b'"procName":"demo"' in await whole(await session.fetch(report.reference))

    async def test_unknown_references_are_refused(self, bench: Bench) -> None:
        async with bench.session() as session:
            with pytest.raises(NotFound):
                await session.fetch("crash:/nothing.ips")
            with pytest.raises(NotFound):
                await session.fetch("local:../../etc/passwd")


class TestAway:
    """A device that goes takes its verbs with it, at once."""

    async def test_a_restart_ends_when_it_answers_again(self, bench: Bench) -> None:
        async with bench.session() as session:
            await session.reboot()
            assert bench.device.boots == 2
            assert await session.list_apps()
        assert not any(each.kind == "lost" for each in bench.watched.sightings)

    async def test_verbs_in_flight_end(self, bench: Bench, make_ipa: Make) -> None:
        package = make_ipa()
        bench.device.install_gate = trio.Event()
        failed: list[str] = []

        async def expect(what: str, verb: Callable[[], Any]) -> None:
            with pytest.raises(DeviceLost):
                await verb()
            failed.append(what)

        async with bench.session() as session:
            stream = await session.logs(since=await session.log_mark(), follow=True)
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(expect, "install", lambda: session.install_app(once(package), size=len(package)))
                    nursery.start_soon(expect, "write", lambda: session.write("/x", Source(endless=True)))
                    nursery.start_soon(expect, "logs", lambda: whole(stream))
                    await logged(bench, "installation_proxy", 2)
                    bench.simulator.unplug(bench.udid)
            assert sorted(failed) == ["install", "logs", "write"]
            with pytest.raises(DeviceLost):
                await session.list_apps()
            await stream.aclose()
