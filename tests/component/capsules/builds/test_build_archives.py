"""Builds with files: archives of all forms, and those that are refused."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from .conftest import ALL, Yard

FILES: Mapping[str, bytes] = {
    "app/run.sh": b"#!/bin/sh\necho ran\n",
    "app/data/one": bytes(range(256)) * 300,
    "top": b"",
}


CHECK = (
    "bin/run.sh && ./run.sh && cmp data/one renamed && cmp renamed /var/lib/whole/app/data/one && stat -c %a data/one"
)


def as_tar(files: Mapping[str, bytes], mode: str = "w", *more: tarfile.TarInfo) -> bytes:
    """A tar of files; the scripts among them can be run."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755 if name.endswith(".sh") else 0o640
            archive.addfile(info, io.BytesIO(content))
        for info in more:
            archive.addfile(info)
    return written.getvalue()


def as_zip(files: Mapping[str, bytes], mode: int = stat.S_IFREG) -> bytes:
    """The same as a zip."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | (0o755 if name.endswith(".sh") else 0o640)) << 16
            archive.writestr(info, content)
    return written.getvalue()


def special(name: str, kind: bytes, target: str = "") -> bytes:
    """A tar with one member that is no plain file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return as_tar({}, "w", info)


def form(archive: bytes | None, *recipe: str, **wish: Any) -> dict[str, Any]:
    config = json.dumps({"name": "made", "base_template": "host", "recipe": recipe, "skip_pre_post": True, **wish})
    parts: list[Any] = [("config", (None, config))]
    if archive is not None:
        parts.append(("archive", ("files", archive)))
    return {"files": parts}


@pytest.mark.parametrize("pack", [as_tar, lambda files: as_tar(files, "w:gz"), as_zip], ids=["tar", "tar.gz", "zip"])
async def test_what_came_with_a_build_is_copied(yard: Yard, pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
    recipe = (
        "WORKDIR /var/lib/made",
        "COPY app/run.sh top bin/",
        "COPY app .",
        "COPY ./app//data/./one renamed",
        "COPY . /var/lib/whole",
        f"RUN {CHECK}",
    )
    sent = await yard.admin("POST", ALL, 202, **form(pack(FILES), *recipe))
    build = await yard.reaches(sent["id"], "success", "failed")
    assert build["status"] == "success", build
    assert [each["stdout"] for each in build["logs"]][1:] == [
        "2 files\n",
        "2 files\n",
        "1 file\n",
        "3 files\n",
        "ran\nran\n640\n",
    ]
    await yard.nothing_is_left(templates=1)


UNUSABLE = (
    (as_tar({"../etc/passwd": b""}), "'../etc/passwd' does not lie below its root"),
    (as_tar({"/etc/passwd": b""}), "'/etc/passwd' does not lie below its root"),
    (as_tar({"a/../../b": b""}), "does not lie below its root"),
    (special("link", tarfile.SYMTYPE, "/etc"), "'link' is a link"),
    (special("link", tarfile.LNKTYPE, "top"), "'link' is a link"),
    (special("null", tarfile.CHRTYPE), "'null' is a device"),
    (special("pipe", tarfile.FIFOTYPE), "'pipe' is a device"),
    (as_zip({"../b": b""}), "does not lie below its root"),
    (as_zip({"link": b"/etc"}, stat.S_IFLNK), "'link' is a link"),
    (as_zip({"null": b""}, stat.S_IFCHR), "'null' is a device"),
    (as_tar({"a": b"", "a/b": b""}), "'a' is a file in the archive"),
    (b"this is no archive at all" * 100, "damaged, or no tar, tar.gz or zip"),
    (b"", "damaged, or no tar, tar.gz or zip"),
    (b"PK\x03\x04 nothing", "damaged, or no tar, tar.gz or zip"),
    (b"\x1f\x8b nothing", "damaged, or no tar, tar.gz or zip"),
    (as_tar(FILES, "w:gz")[:-20], "damaged, or no tar, tar.gz or zip"),
    (as_tar({"other": b""}), "the archive has no 'top'"),
)


async def test_an_archive_that_cannot_be_used_is_refused(yard: Yard) -> None:
    for archive, says in UNUSABLE:
        refused = await yard.admin("POST", ALL, 400, promised=False, **form(archive, "COPY top /top"))
        assert refused["code"] == "invalid_request"
        assert says in refused["message"], refused
    assert await yard.admin("GET", ALL, 200) == []
    await yard.nothing_is_left()


async def test_too_much_is_not_taken(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anvild.capsules.build_files.CONTENT_LIMIT", 2**20)
    bomb = as_tar({"zeros": bytes(2**21)}, "w:gz")
    refused = await yard.admin("POST", ALL, 400, promised=False, **form(bomb, "COPY zeros /zeros"))
    assert "holds more than 1 MiB" in refused["message"]
    monkeypatch.setattr("anvild.capsules.routes.admin.builds.ARCHIVE_LIMIT", 2**16)
    large = await yard.admin("POST", ALL, 413, promised=False, **form(bytes(2**17), "COPY zeros /zeros"))
    assert large["code"] == "too_large"


async def test_a_form_of_other_parts_is_refused(yard: Yard) -> None:
    both = form(as_tar(FILES), "RUN true")
    for request in (
        {"files": [("archive", ("files", as_tar(FILES)))]},
        {"files": [*both["files"], both["files"][0]]},
        {"files": [("other", (None, "x")), *both["files"]]},
        {"files": [("config", (None, "no json"))]},
        {"content": b"x", "headers": {"Content-Type": "text/plain"}},
    ):
        refused = await yard.admin("POST", ALL, 400, promised=False, **request)
        assert refused["code"] == "invalid_request"
