"""The simulated device through a third party's client, which speaks to the adb server by itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild_android.simulator import build_apk

adbutils = pytest.importorskip("adbutils", reason="needs the client adbutils: pip install adbutils")
Connect = MakeDevice = Any  # the types of the fixtures' values, which stand in conftest.py


async def in_thread(action: Any, *arguments: Any) -> Any:
    with trio.fail_after(60):
        return await trio.to_thread.run_sync(lambda: action(*arguments), abandon_on_cancel=True)


@pytest.fixture
async def phone(adb: Any) -> Any:
    """The device as the client has it."""
    return adbutils.AdbClient(host="127.0.0.1", port=adb.server.port).device(serial=adb.serial)


async def test_it_lists_and_asks(adb: Any, phone: Any) -> None:
    client = adbutils.AdbClient(host="127.0.0.1", port=adb.server.port)
    listed = await in_thread(lambda: client.list(extended=True))
    assert [each.tags["model"] for each in listed if each.serial == adb.serial] == ["Simulated_Phone"]
    assert await in_thread(phone.get_state) == "device"
    assert await in_thread(lambda: phone.prop.get("ro.serialno")) == "SIM0001"
    assert "shell_v2" in await in_thread(phone.get_features)


async def test_it_runs_commands(phone: Any) -> None:
    done = await in_thread(lambda: phone.shell2("echo out; echo err >&2; exit 4", v2=True))
    assert (done.returncode, done.stdout, done.stderr) == (4, "out\n", "err\n")
    assert await in_thread(phone.shell, ["echo", "two words"]) == "two words"


async def test_it_carries_files(phone: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    await in_thread(phone.sync.push, tmp_path / "file", "/sdcard/folder/file")
    found = await in_thread(phone.sync.stat, "/sdcard/folder/file")
    assert (found.size, found.mode & 0o777) == (256_000, 0o777)
    assert [each.path for each in await in_thread(phone.sync.list, "/sdcard/folder")] == [".", "..", "file"]
    await in_thread(phone.sync.pull, "/sdcard/folder/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
    assert not await in_thread(phone.sync.exists, "/sdcard/folder/missing")


async def test_it_installs_starts_and_removes(phone: Any, tmp_path: Path) -> None:
    (tmp_path / "app.apk").write_bytes(build_apk("com.example.app", version="3.1"))
    await in_thread(lambda: phone.install(str(tmp_path / "app.apk"), nolaunch=True, silent=True))
    assert "com.example.app" in await in_thread(phone.list_packages)
    assert (await in_thread(phone.app_info, "com.example.app")).version_name == "3.1"
    await in_thread(phone.app_start, "com.example.app")
    assert (await in_thread(phone.shell, "pidof com.example.app")).isdecimal()
    await in_thread(phone.app_stop, "com.example.app")
    await in_thread(phone.uninstall, "com.example.app")
    assert "com.example.app" not in await in_thread(phone.list_packages)


async def test_it_reaches_ports(phone: Any, echo_server: int) -> None:
    await in_thread(phone.reverse, "tcp:7000", f"tcp:{echo_server}")
    assert [each.remote for each in await in_thread(lambda: list(phone.reverse_list()))] == ["tcp:7000"]
    assert await in_thread(phone.shell, "wget -q -O - http://127.0.0.1:7000/") == "echoed"
    await in_thread(
        phone.shell, "nc -ll -p 8000 -e cat >/dev/null 2>&1 & while ! netstat -ltn | grep -q :8000; do :; done"
    )
    stream = await in_thread(phone.create_connection, adbutils.Network.TCP, 8000)
    with stream:
        stream.sendall(b"hello")
        assert await in_thread(stream.recv, 5) == b"hello"


@pytest.fixture
def echo_server() -> Iterator[int]:
    """A server of one connection that answers a request of HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            visitor, _ = listener.accept()
            with visitor:
                visitor.recv(1000)
                visitor.sendall(b"HTTP/1.0 200 OK\r\n\r\nechoed")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
