"""The templates of one driver: snapshots that users took, and the warm templates of built images."""

from __future__ import annotations

import errno
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import trio

from anvild.sdk import AlreadyExists, InvalidArgument, NotFound, PermissionDenied, Template, WrongState

from .files import remove_tree, scratch
from .host import Host
from .image.builder import WARM, Images
from .machine import differences
from .template import Manifest, describe_template, link_template, read_manifest, write_manifest

__all__ = ["Templates", "check_name"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Warm = Callable[[Path, Manifest, Path], Awaitable[Manifest]]
"""Boots the image in the first folder and puts a warm template of it into the second, an empty one."""


def check_name(name: str) -> str:
    """Return a template's name when it is one. Raises InvalidArgument."""
    if NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f"{name!r} is no name for a template: letters, digits, dots, hyphens and underscores, at most 64"
        )
    return name


class Templates:
    """Finds, adds and removes templates. ``recipes`` names the recipes that could be built."""

    def __init__(
        self, host: Host, folder: Path, images: Images, warm: Warm, recipes: Callable[[], Mapping[str, Path]]
    ) -> None:
        self._host = host
        self._folder = folder
        self._images = images
        self._warm = warm
        self._recipes = recipes
        self._warming = trio.Lock()

    async def get(self, name: str) -> tuple[Path, Manifest]:
        """Return a template's folder and manifest; an image that has no fitting warm template gets one first.

        Raises NotFound that names what there is, WrongState that names the differences when a snapshot was taken on
        another machine.
        """
        check_name(name)
        folder = self._folder / name
        manifest, image = await trio.to_thread.run_sync(self._look_up, folder, name)
        if manifest is not None and not self._unfit(manifest) and (image is None or fresh(manifest, image[1])):
            return folder, manifest
        if image is not None and (manifest is None or manifest.image is not None):
            return await self._warm_up(folder, *image)
        if manifest is None:
            raise NotFound(await trio.to_thread.run_sync(self._missing, name))
        raise WrongState(
            f"the template {name!r} was taken on another machine and cannot be started here: "
            f"{'; '.join(self._unfit(manifest))}"
        )

    def _look_up(self, folder: Path, name: str) -> tuple[Manifest | None, tuple[Path, Manifest] | None]:
        return read_manifest(folder), self._images.find(name)

    def _unfit(self, manifest: Manifest) -> list[str]:
        if manifest.machine is None:
            return []
        return differences(manifest.machine, self._host.machine(manifest.vcpus, manifest.memory))

    def _missing(self, name: str) -> str:
        there = sorted(self._names())
        listed = f"there are {', '.join(there)}" if there else "there is none yet"
        if name in self._recipes():
            return f"the image {name!r} has not been built: anvil image build {name}"
        return f"there is no template {name!r}; {listed}"

    def _names(self) -> set[str]:
        own = {path.name for path in self._folder.iterdir() if not path.name.startswith(".")}
        return own | self._images.names()

    async def _warm_up(self, folder: Path, image_folder: Path, image: Manifest) -> tuple[Path, Manifest]:
        """Take the image's warm template from the cache, or make it, and put it among the templates."""
        async with self._warming:
            manifest = await trio.to_thread.run_sync(read_manifest, folder)
            if manifest is not None and fresh(manifest, image) and not self._unfit(manifest):
                return folder, manifest
            warm = image_folder / WARM
            manifest = await trio.to_thread.run_sync(read_manifest, warm)
            if manifest is None or not fresh(manifest, image) or self._unfit(manifest):
                self._host.log("info", "template.warming", template=image.name)
                async with scratch(image_folder) as work:
                    made = work / WARM
                    await trio.to_thread.run_sync(made.mkdir)
                    manifest = await self._warm(image_folder, image, made)
                    await trio.to_thread.run_sync(put, made, warm)
            async with scratch(self._folder) as work:
                copy = work / WARM
                await trio.to_thread.run_sync(copy_template, warm, manifest, copy)
                await trio.to_thread.run_sync(put, copy, folder)
            return folder, manifest

    async def listing(self) -> list[Template]:
        """Return all templates by name. An image without a warm template is cold."""
        return await trio.to_thread.run_sync(self._listing)

    def _listing(self) -> list[Template]:
        found = []
        for name in sorted(self._names()):
            folder = self._folder / name
            manifest = read_manifest(folder)
            if manifest is None and (image := self._images.find(name)) is not None:
                folder, manifest = image
            if manifest is not None:
                found.append(describe_template(folder, manifest))
        return found

    async def one(self, name: str) -> Template:
        """Return one template. Raises NotFound."""
        for template in await self.listing():
            if template.name == name:
                return template
        raise NotFound(await trio.to_thread.run_sync(self._missing, name))

    async def refuse_taken(self, name: str) -> None:
        """Raise AlreadyExists when a template, an image or a recipe has this name."""
        check_name(name)
        taken = await trio.to_thread.run_sync(lambda: self._names() | set(self._recipes()))
        if name in taken:
            raise AlreadyExists(f"there is a template {name!r} already")

    async def add(self, name: str, made: Path) -> Template:
        """Put a complete folder among the templates. Raises AlreadyExists."""
        target = self._folder / name
        try:
            await trio.to_thread.run_sync(made.rename, target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise AlreadyExists(f"there is a template {name!r} already") from error
            raise
        manifest = await trio.to_thread.run_sync(read_manifest, target)
        assert manifest is not None, "a template is added with its manifest"
        return await trio.to_thread.run_sync(describe_template, target, manifest)

    async def remove(self, name: str) -> None:
        """Remove a snapshot's template. Raises NotFound, PermissionDenied for an image's."""
        folder = self._folder / check_name(name)
        manifest, image = await trio.to_thread.run_sync(self._look_up, folder, name)
        if image is not None or (manifest is not None and manifest.image is not None):
            raise PermissionDenied(f"the template {name!r} belongs to a built image and is not removed")
        if manifest is None:
            raise NotFound(await trio.to_thread.run_sync(self._missing, name))
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(remove_tree, folder)


def fresh(manifest: Manifest, image: Manifest) -> bool:
    """True when a template need not be made anew: a snapshot, or one of this very image with the present agent."""
    return manifest.image is None or (manifest.image, manifest.agent) == (image.image, image.agent)


def put(source: Path, target: Path) -> None:
    """Give a folder its place; what was there is removed."""
    remove_tree(target)
    source.rename(target)


def copy_template(source: Path, manifest: Manifest, target: Path) -> None:
    target.mkdir()
    link_template(source, manifest, target)
    write_manifest(target, manifest)
