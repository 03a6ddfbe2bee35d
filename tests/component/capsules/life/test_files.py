"""Files of capsules, with namespace sandboxes: every answer is held against the contract."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.capsules import Caller

FILES = "/v1/capsules/{id}/files/"
EXEC = "/v1/capsules/{id}/exec"


async def upload(api: Caller, capsule: str, path: str, data: bytes, *, stream: bool = False) -> None:
    way = FILES + ("stream/write" if stream else "write")
    form = [("path", (None, path.encode())), ("file", ("name", data))]
    await api("POST", way, 204, values={"id": capsule}, files=form)


async def download(api: Caller, capsule: str, path: str, *, stream: bool = False) -> bytes:
    way = (FILES + ("stream/read" if stream else "read")).format(id=capsule)
    answer = await api.client.post(way, json={"path": path})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    return bytes(answer.content)


async def shell(api: Caller, capsule: str, line: str) -> str:
    body = {"cmd": "/bin/sh", "args": ["-c", line]}
    done = await api("POST", EXEC, 200, values={"id": capsule}, json=body)
    assert done["exit_code"] == 0, done
    return str(done["stdout"])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_file_goes_there_and_back(api: Caller, capsule: str, stream: bool) -> None:
    data = hashlib.shake_128(b"a file").digest(3_000_000) + b"\r\n--\r\n--"
    await upload(api, capsule, "/tmp/new/deep/file", data, stream=stream)
    assert await download(api, capsule, "/tmp/new/deep/file", stream=stream) == data
    await upload(api, capsule, "/tmp/new/deep/file", b"", stream=stream)
    assert await download(api, capsule, "/tmp/new/deep/file", stream=stream) == b""


async def test_paths_begin_at_home_unless_they_are_absolute(api: Caller, capsule: str) -> None:
    home = await shell(api, capsule, 'printf %s "$HOME"')
    await upload(api, capsule, "~/one", b"1")
    await upload(api, capsule, "two", b"2")
    await upload(api, capsule, "~odd", b"3")
    assert (await shell(api, capsule, f"cd {home}; cat one two '~odd'")) == "123"
    listed = await api("POST", FILES + "list", 200, values={"id": capsule}, json={"path": "~"})
    assert {"one", "two", "~odd"} <= {each["name"] for each in listed["entries"]}


async def test_directories(api: Caller, capsule: str) -> None:
    one = {"id": capsule}
    made = await api("POST", FILES + "mkdir", 200, values=one, json={"path": "/tmp/a/b"})
    assert (made["entry"]["path"], made["entry"]["type"], made["entry"]["permissions"]) == (
        "/tmp/a/b",
        "directory",
        "drwxr-xr-x",
    )
    again = await api("POST", FILES + "mkdir", 409, values=one, json={"path": "/tmp/a/b"})
    assert again["code"] == "already_exists"
    await upload(api, capsule, "/tmp/a/file", b"12345")
    await shell(
        api, capsule, "cd /tmp/a; chmod 640 file; ln -s b/../file link; mkfifo pipe; touch \"$(printf 'x\\377')\""
    )
    for depth in (0, 1):
        listed = await api("POST", FILES + "list", 200, values=one, json={"path": "/tmp/a", "depth": depth})
        entries = {each["name"]: each for each in listed["entries"]}
        assert set(entries) == {"b", "file", "link", "pipe", "x\ufffd"}
    assert (entries["file"]["size"], entries["file"]["mode"], entries["file"]["permissions"]) == (
        5,
        0o640,
        "-rw-r-----",
    )
    assert (entries["link"]["type"], entries["link"]["symlink_target"]) == ("symlink", "/tmp/a/file")
    assert "type" not in entries["pipe"]
    deep = await api("POST", FILES + "list", 200, values=one, json={"path": "/tmp", "depth": 2})
    assert "/tmp/a/file" in {each["path"] for each in deep["entries"]}
    await api("POST", FILES + "remove", 204, values=one, json={"path": "/tmp/a"})
    for way, more in (("remove", {}), ("list", {}), ("read", {}), ("stream/read", {})):
        missing = await api("POST", FILES + way, 404, values=one, json={"path": "/tmp/a", **more})
        assert missing["code"] == "not_found"


async def test_what_cannot_be_is_refused(api: Caller, capsule: str) -> None:
    one = {"id": capsule}
    for way, body in (
        ("read", {"path": "/tmp"}),
        ("read", {"path": ""}),
        ("list", {"path": "/etc/passwd"}),
        ("mkdir", {"path": ""}),
        ("remove", {"path": "/tmp/\0"}),
        ("remove", {}),
    ):
        refused = await api("POST", FILES + way, 400, promised=False, values=one, json=body)
        assert refused["code"] == "invalid_request"
    forms: list[Any] = [
        {"files": [("file", ("name", b"data")), ("path", (None, b"/tmp/late"))]},
        {"files": [("path", (None, b"/tmp/none"))]},
        {"files": [("path", (None, b"/tmp")), ("file", ("name", b"data"))]},
        {"json": {"path": "/tmp/x"}},
        {"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        {"content": b"-" * 200_000, "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        {
            "content": b"--b\r\nContent-Disposition: form-data; name=path\r\n\r\n/tmp/cut\r\n--b\r\n"
            b"Content-Disposition: form-data; name=file\r\n\r\nonly the beg",
            "headers": {"Content-Type": "multipart/form-data; boundary=b"},
        },
    ]
    for form in forms:
        refused = await api("POST", FILES + "write", 400, promised=False, values=one, **form)
        assert refused["code"] == "invalid_request"
    assert await shell(api, capsule, "ls /tmp") == ""


async def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(api: Caller, capsule: str) -> None:
    async def large() -> AsyncIterator[bytes]:
        yield b"--b\r\nContent-Disposition: form-data; name=path\r\n\r\n/tmp/large\r\n--b\r\n"
        yield b"Content-Disposition: form-data; name=file\r\n\r\n"
        for _ in range(101):
            yield bytes(2**20)

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    refused = await api("POST", FILES + "write", 413, values={"id": capsule}, headers=form, content=large())
    assert refused["code"] == "too_large"
    assert await shell(api, capsule, "ls -A /tmp") == ""


async def test_a_capsule_that_does_not_run_has_no_files(api: Caller, capsule: str) -> None:
    await api("DELETE", "/v1/capsules/{id}", 202, values={"id": capsule})
    for way in ("list", "mkdir", "remove", "stream/read"):
        refused = await api("POST", FILES + way, 409, values={"id": capsule}, json={"path": "/tmp"})
        assert refused["code"] == "invalid_state"
