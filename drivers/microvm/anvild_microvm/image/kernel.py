"""The guest's kernel: taken out of the distribution's cloud kernel package, which need not be installed."""

from __future__ import annotations

import lzma
import platform
import re
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

from anvild.sdk import DriverFault, NotFound, Unavailable

from ..children import run_tool

__all__ = ["MODULES", "Kernel", "fetch_kernel", "lz4_payload", "newest_kernel_package"]

MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
)
"""What the guest needs, in the order of loading: virtio comes after virtio_ring, whose symbols it uses."""

SETUP_HEADER = b"HdrS"
LZ4_LEGACY = b"\x02\x21\x4c\x18"
KERNEL_NAME = re.compile(r"linux-image-\S+-cloud-\S+")


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel image that QEMU can start, with the modules in the order of loading."""

    package: str
    image: bytes
    modules: dict[str, bytes]


def debian_architecture() -> str:
    """Return the host's architecture in the distribution's words."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


async def newest_kernel_package() -> str:
    """Return ``name=version`` of the release's present cloud kernel, as the host's package lists know it."""
    meta = f"linux-image-cloud-{debian_architecture()}"
    depends = await run_tool(["apt-cache", "depends", "--important", meta])
    names = [match[0] for match in KERNEL_NAME.finditer(depends) if match[0] != meta]
    if not names:
        raise Unavailable(f"the host's package lists do not know {meta}: apt-get update")
    shown = await run_tool(["apt-cache", "show", "--no-all-versions", names[0]])
    version = next((line.split()[1] for line in shown.splitlines() if line.startswith("Version:")), "")
    return f"{names[0]}={version}"


async def fetch_kernel(package: str, work: Path) -> Kernel:
    """Download the package ``name=version`` into ``work`` and take the kernel and its modules out."""
    await run_tool(["apt-get", "download", "-o", "APT::Sandbox::User=root", package], cwd=work)
    archives = await trio.to_thread.run_sync(lambda: list(work.glob("linux-image-*.deb")))
    if not archives:
        raise NotFound(f"apt-get brought no file for {package}")
    tree = work / "kernel"
    await run_tool(["dpkg-deb", "--extract", archives[0], tree])
    packed, unpacked = work / "vmlinux.lz4", work / "vmlinux"
    image, modules = await trio.to_thread.run_sync(take_out, tree, packed)
    if packed.exists() and shutil.which("lz4") is not None:
        await run_tool(["lz4", "-dqf", packed, unpacked])
        image = await trio.to_thread.run_sync(unpacked.read_bytes)
    return Kernel(package=package, image=image, modules=modules)


def take_out(tree: Path, packed: Path) -> tuple[bytes, dict[str, bytes]]:
    """Return the kernel image and the modules of an unpacked package; write an LZ4 payload to ``packed``."""
    image = next(tree.glob("boot/vmlinuz-*")).read_bytes()
    payload = lz4_payload(image)
    if payload is not None:
        packed.write_bytes(payload)
    return image, find_modules(tree, MODULES)


def find_modules(tree: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the modules by name, unpacked. One that is built into the kernel is left out; a missing one raises."""
    built_in = {Path(line).stem for path in tree.glob("**/modules.builtin") for line in path.read_text().splitlines()}
    found: dict[str, bytes] = {}
    for name in names:
        path = next((p for suffix in ("ko", "ko.xz") for p in tree.glob(f"**/{name}.{suffix}")), None)
        if path is not None:
            content = path.read_bytes()
            found[name] = lzma.decompress(content) if path.suffix == ".xz" else content
        elif name not in built_in:
            raise DriverFault(f"the kernel package has no module {name}")
    return found


def lz4_payload(image: bytes) -> bytes | None:
    """Return the compressed kernel inside a bzImage when it is LZ4 packed, else None.

    A kernel that QEMU enters directly (PVH) starts a quarter of a second sooner than one that unpacks itself.
    The last four bytes of the payload are the unpacked size and no part of the LZ4 stream.
    """
    if image[0x202:0x206] != SETUP_HEADER:
        return None
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length - 4]
    return payload if payload.startswith(LZ4_LEGACY) else None
