"""The parts of an image: recipes, package sources, kernel, initial file system."""

from __future__ import annotations

import lzma
import struct
import subprocess
from pathlib import Path

import pytest
import trio

from anvild.sdk import DriverFault, InvalidArgument, Unavailable
from anvild_microvm.children import check_tools, run_tool
from anvild_microvm.image.apt import host_codename, host_sources, read_one_line, read_stanzas
from anvild_microvm.image.builder import Images
from anvild_microvm.image.initrd import build_initrd, newc
from anvild_microvm.image.kernel import find_modules, lz4_payload
from anvild_microvm.image.recipe import parse_size, read_recipe
from anvild_microvm.image.rootfs import customisation
from anvild_microvm.process import Hypervisor, guest_account, processes_in

RECIPES = Path(__file__).parents[3] / "config" / "images"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_can_be_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.disk_bytes > recipe.memory_bytes
    assert recipe.memory_bytes == 512 * 2**20, "a capsule has as much by default, and then starts from memory"
    assert recipe.warm_up or recipe.starts
    assert recipe.starts == (path.stem == "code-runner-beta")


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("256M", 2**28), ("2GiB", 2**31), ("3 K", 3072), ("1TB", 2**40)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1.5G", "0", "1X"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('packages = ["git; rm"]', r"packages\[0\]"),
        ('account = "Root User"', "account"),
        ("disk = 5", "disk"),
        ('memroy = "256M"', "memroy"),
        ("= broken", "wrong"),
        ('prepare = ["RUN true", "FLY"]', "line 2 of the recipe: 'FLY'"),
        ('prepare = ["COPY a /a"]', "COPY takes files that come with a recipe"),
        ('health_check = "--retries=x true"', "the health check: --retries"),
    ],
)
def test_a_wrong_recipe_names_its_field(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=words):
        read_recipe(path)


def test_one_line_sources() -> None:
    lines = [
        "# deb http://left.example/ out main",
        "deb-src http://debian.example/ trixie main",
        "deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://debian.example/ trixie main contrib # why",
        "deb http://security.example/ trixie-security main",
    ]
    first, second = read_one_line(lines)
    assert first.uris == ("http://debian.example/",)
    assert first.components == ("main", "contrib")
    assert first.options == {"Architectures": "amd64", "Signed-By": "/usr/share/keyrings/a.gpg"}
    assert second.suites == ("trixie-security",)


def test_stanzas_with_a_key_inside_and_disabled_ones() -> None:
    text = """Types: deb deb-src
# a remark
URIs: http://debian.example/
Suites: trixie trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
Enabled: no
URIs: http://off.example/
Suites: trixie

Types: deb-src
URIs: http://source.example/
Suites: trixie
"""
    (source,) = read_stanzas(text)
    assert source.suites == ("trixie", "trixie-updates")
    assert source.options["Signed-By"].splitlines()[-1].strip() == "abc"
    (again,) = read_stanzas(source.stanza())
    assert again == source


def test_only_sources_of_the_host_s_release_are_taken(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://debian.example/ trixie main\ndeb http://old.example/ sid main\n")
    (tmp_path / "sources.list.d" / "other.list").write_text("deb http://other.example/ cloud-trixie main\n")
    (tmp_path / "sources.list.d" / "more.sources").write_text(
        "Types: deb\nURIs: http://more.example/\nSuites: trixie-backports stable\nComponents: main\n"
    )
    found = host_sources("trixie", tmp_path)
    assert [(source.uris, source.suites) for source in found] == [
        (("http://debian.example/",), ("trixie",)),
        (("http://more.example/",), ("trixie-backports",)),
    ]
    with pytest.raises(Unavailable, match="no apt sources of its release 'sid2'"):
        host_sources("sid2", tmp_path)


def test_the_release_is_read_from_the_host(tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    path.write_text('ID=debian\nVERSION_CODENAME="trixie"\n')
    assert host_codename(path) == "trixie"
    with pytest.raises(Unavailable, match="names none"):
        host_codename(tmp_path / "missing")


def test_missing_tools_are_named_with_the_command() -> None:
    with pytest.raises(Unavailable, match="building needs no-such-tool, nor-this: apt-get install first second"):
        check_tools((("no-such-tool", "first"), ("sh", "dash"), ("nor-this", "second")), "building")


async def test_a_tool_that_fails_says_why() -> None:
    with pytest.raises(DriverFault, match="sh ended with status 3: broken"):
        await run_tool(["sh", "-c", "echo broken >&2; exit 3"])


async def test_a_tool_s_lines_are_reported_as_they_come() -> None:
    lines: list[str] = []

    async def note(line: str) -> None:
        lines.append(line)

    assert await run_tool(["sh", "-c", "echo one >&2; echo out; echo two >&2"], report=note) == "out\n"
    assert lines == ["one", "two"]


async def test_a_cancelled_tool_takes_its_children_along(tmp_path: Path) -> None:
    async def cancel(line: str) -> None:
        scope.cancel()

    with trio.CancelScope() as scope:
        program = "trap '' TERM; sleep 60 & echo ready >&2; wait"
        await run_tool(["sh", "-c", program], cwd=tmp_path, report=cancel)
    assert scope.cancelled_caught
    with trio.fail_after(60):
        for killed in map(Hypervisor.adopt, processes_in(tmp_path)):  # a busy host takes a moment to put it away
            if killed is not None:
                await killed.wait()
                killed.close()


async def test_a_cancelled_build_leaves_nothing(tmp_path: Path, image_cache: Path) -> None:
    images = Images(tmp_path, guest_account(None))

    async def cancel(line: str) -> None:
        scope.cancel()

    with trio.CancelScope() as scope:
        recipe = read_recipe(RECIPES / "minimal.toml")
        await images.build("minimal", recipe, cancel, rebuild=True)
    assert scope.cancelled_caught
    assert await trio.to_thread.run_sync(lambda: list(tmp_path.iterdir())) == []


def test_newc_is_what_cpio_reads(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    content = bytes(range(256)) * 3 + b"odd"
    archive.write_bytes(newc([("dir", 0o040755, b""), ("dir/file", 0o100640, content), ("empty", 0o100755, b"")]))
    assert archive.stat().st_size % 512 == 0
    out = tmp_path / "out"
    out.mkdir()
    with archive.open("rb") as file:
        subprocess.run(["busybox", "cpio", "-id"], stdin=file, cwd=out, check=True, capture_output=True)
    assert (out / "dir" / "file").read_bytes() == content
    assert (out / "dir" / "file").stat().st_mode & 0o777 == 0o640
    assert (out / "empty").read_bytes() == b""


def test_the_same_parts_give_the_same_initrd() -> None:
    def build() -> bytes:
        return build_initrd(
            busybox=b"box", modules={"b": b"2", "a": b"1"}, agent={"agent.pyz": b"pass"}, agent_argv=("python3", "x")
        )

    assert build() == build()
    script = build().decode(errors="replace")
    assert script.index("insmod /modules/b.ko") < script.index("insmod /modules/a.ko"), "the order is kept"
    assert "exec /bin/switch_root /root python3 x" in script


def test_modules_are_found_packed_or_built_in(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "one.ko").write_bytes(b"plain")
    (tmp_path / "lib" / "two.ko.xz").write_bytes(lzma.compress(b"packed"))
    (tmp_path / "lib" / "modules.builtin").write_text("kernel/drivers/three.ko\n")
    assert find_modules(tmp_path, ("two", "one", "three")) == {"two": b"packed", "one": b"plain"}
    with pytest.raises(DriverFault, match="no module four"):
        find_modules(tmp_path, ("four",))


def test_the_packed_kernel_is_cut_out() -> None:
    image = bytearray(8192)
    image[0x1F1] = 3
    image[0x202:0x206] = b"HdrS"
    payload = b"\x02\x21\x4c\x18" + b"lz4 data"
    struct.pack_into("<II", image, 0x248, 100, len(payload) + 4)
    start = 4 * 512 + 100
    image[start : start + len(payload)] = payload
    assert lz4_payload(bytes(image)) == payload
    image[start] = 0x1F
    assert lz4_payload(bytes(image)) is None, "packed in another way: QEMU unpacks it by itself"
    assert lz4_payload(b"\x7fELF" + bytes(1024)) is None


def test_names_of_a_recipe_cannot_leave_their_quotes() -> None:
    recipe = read_recipe(RECIPES / "minimal.toml")
    odd = type(recipe)(account="user", hostname="a; touch /tmp/x")
    assert "'a; touch /tmp/x'" in customisation(odd)
