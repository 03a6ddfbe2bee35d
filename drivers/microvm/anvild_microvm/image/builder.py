"""Images: built once from a recipe, kept in the cache, a cold template each.

An image's folder is a template's folder without memory (see :mod:`anvild_microvm.template`), with the parts beside it
that its initial file system is made of: a new version of the guest agent needs no new image.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import trio

from anvild.sdk.agent import guest_archive

from ..children import Tool, check_tools
from ..disks import EMPTY, TOOLS, create_overlay
from ..files import remove_tree, scratch, write_atomic
from ..machine import AGENT_PORT
from ..process import Account
from ..template import KERNEL, Manifest, read_manifest, write_manifest
from .apt import host_codename, host_sources
from .initrd import AGENT_DIRECTORY, build_initrd
from .kernel import MODULES, Kernel, fetch_kernel, newest_kernel_package
from .recipe import Recipe
from .rootfs import build_rootfs

__all__ = ["Images", "agent_digest"]

FORMAT = 2
BUSYBOX = Path("/bin/busybox")
AGENT_FILE = "agent.pyz"
PARTS = "parts"
WARM = "warm"
BUILD_TOOLS: tuple[Tool, ...] = (
    ("mmdebstrap", "mmdebstrap"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("mke2fs", "e2fsprogs"),
    ("busybox", "busybox-static"),
    *TOOLS,
)


def agent_digest() -> str:
    """Return the digest of the guest agent of this daemon. It reads files."""
    return hashlib.sha256(guest_archive()).hexdigest()[:16]


class Images:
    """The built images below one folder of the cache."""

    def __init__(self, folder: Path, account: Account) -> None:
        self._folder = folder
        self._account = account

    def find(self, name: str) -> tuple[Path, Manifest] | None:
        """Return the newest image of a recipe's name, with the present agent in it. It reads and writes files."""
        found: list[tuple[Path, Manifest]] = []
        for folder in self._folder.glob(f"{name}-*"):
            manifest = read_manifest(folder)
            if manifest is not None and manifest.name == name:
                found.append((folder, manifest))
        if not found:
            return None
        folder, manifest = max(found, key=lambda image: image[1].created)
        agent = agent_digest()
        if manifest.agent != agent:
            manifest = self._put_agent(folder, manifest, agent)
        return folder, manifest

    def names(self) -> set[str]:
        """Return the names of the recipes that have been built."""
        manifests = (read_manifest(folder) for folder in self._folder.glob("*-*"))
        return {manifest.name for manifest in manifests if manifest is not None}

    async def build(
        self, name: str, recipe: Recipe, report: Callable[[str], Awaitable[None]], *, rebuild: bool
    ) -> tuple[Path, Manifest]:
        """Build a recipe's image, or take it from the cache; return its folder and manifest.

        Cancelling removes what was half done. Raises Unavailable that names missing tools, DriverFault with the last
        words of a tool that failed.
        """
        codename = await trio.to_thread.run_sync(host_codename)
        digest = hashlib.sha256(msgspec.json.encode((FORMAT, codename, recipe))).hexdigest()[:16]
        folder = self._folder / f"{name}-{digest}"
        if not rebuild and await trio.to_thread.run_sync(read_manifest, folder) is not None:
            await report(f"{name}: taken from the cache")
        else:
            check_tools(BUILD_TOOLS, "building an image")
            await self._build(name, recipe, digest, codename, folder, report)
        found = await trio.to_thread.run_sync(self.find, name)
        assert found is not None, "a built image is found"
        return found

    async def _build(
        self,
        name: str,
        recipe: Recipe,
        digest: str,
        codename: str,
        folder: Path,
        report: Callable[[str], Awaitable[None]],
    ) -> None:
        began = trio.current_time()
        sources = await trio.to_thread.run_sync(host_sources, codename)
        await trio.to_thread.run_sync(lambda: self._folder.mkdir(parents=True, exist_ok=True))
        async with scratch(self._folder) as work:
            await report("kernel: looking for the newest")
            package = await newest_kernel_package()
            await report(f"kernel: fetching {package}")
            kernel = await fetch_kernel(package, work)
            await report(f"system: unpacking {codename}")
            base = f"{digest}.ext4"
            await build_rootfs(recipe, codename=codename, sources=sources, target=work / base, report=report)
            await report("image: putting it together")
            image = work / "image"
            manifest = Manifest(
                name=name,
                created=datetime.now(UTC),
                vcpus=recipe.vcpus,
                memory=recipe.memory_bytes,
                disk=recipe.disk_bytes,
                layers=(base,),
                initrd="",
                agent="",
                account=recipe.account,
                hostname=recipe.hostname,
                image=f"{digest}-{secrets.token_hex(4)}",
                warm_up=recipe.warm_up,
                prepare=recipe.prepare,
                health_check=recipe.health_check,
                starts=recipe.starts,
                facts={"kernel": kernel.package.partition("=")[2], "release": codename, "account": recipe.account},
            )
            await trio.to_thread.run_sync(self._assemble, work, image, manifest, kernel)
            await create_overlay(image / EMPTY, base, manifest.disk)
            await trio.to_thread.run_sync(self._publish, image, folder, manifest)
        await report(f"{name}: built in {trio.current_time() - began:.0f} s")

    def _assemble(self, work: Path, image: Path, manifest: Manifest, kernel: Kernel) -> None:
        parts = image / PARTS
        parts.mkdir(parents=True)
        (parts / "busybox").write_bytes(BUSYBOX.read_bytes())
        for module, content in kernel.modules.items():
            (parts / f"{module}.ko").write_bytes(content)
        (image / KERNEL).write_bytes(kernel.image)
        for base in manifest.layers:
            (work / base).rename(image / base)
        self._account.share(image / KERNEL, *(image / base for base in manifest.layers))

    def _publish(self, image: Path, folder: Path, manifest: Manifest) -> None:
        """Give the image its name; one of the same recipe that was there is replaced, older ones are removed."""
        self._put_agent(image, manifest, agent_digest())
        remove_tree(folder)
        image.rename(folder)
        for other in self._folder.glob(f"{manifest.name}-*"):
            if other != folder and (found := read_manifest(other)) is not None and found.name == manifest.name:
                remove_tree(other)

    def _put_agent(self, folder: Path, manifest: Manifest, agent: str) -> Manifest:
        """Make the initial file system with the present agent."""
        parts = folder / PARTS
        modules: Mapping[str, bytes] = {
            name: (parts / f"{name}.ko").read_bytes() for name in MODULES if (parts / f"{name}.ko").exists()
        }
        initrd = build_initrd(
            busybox=(parts / "busybox").read_bytes(),
            modules=modules,
            agent={AGENT_FILE: guest_archive()},
            agent_argv=("/usr/bin/python3", "-I", "-S", f"{AGENT_DIRECTORY}/{AGENT_FILE}", "port", AGENT_PORT),
        )
        name = f"initrd-{agent}"
        write_atomic(folder / name, initrd)
        self._account.share(folder / name)
        manifest = msgspec.structs.replace(manifest, initrd=name, agent=agent)
        write_manifest(folder, manifest)
        return manifest
