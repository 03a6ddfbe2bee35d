"""The guest's root file system: a minimal Debian, made by mmdebstrap from the host's own sources."""

from __future__ import annotations

import os
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from ..children import run_tool
from ..files import copy_sparse, new_sparse, scratch
from .apt import Source
from .recipe import Recipe

__all__ = ["build_rootfs", "customisation"]

LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
NEEDED_PACKAGES = ("python3-minimal", "e2fsprogs")
"""The agent is a Python program; a larger disk is taken into use by resize2fs."""


def customisation(recipe: Recipe) -> str:
    """Return the shell commands that finish the tree ``$1``: the account, the names, no identity of its own."""
    account = shlex.quote(recipe.account)
    hostname = shlex.quote(recipe.hostname)
    return "\n".join(
        (
            "set -e",
            f'chroot "$1" useradd --create-home --shell /bin/bash --user-group {account}',
            f'printf "%s\\n" {hostname} > "$1/etc/hostname"',
            f'printf "127.0.0.1\\tlocalhost %s\\n::1\\tlocalhost\\n" {hostname} > "$1/etc/hosts"',
            ': > "$1/etc/machine-id"',
            ': > "$1/etc/fstab"',
            'rm -f "$1/etc/resolv.conf" "$1"/etc/ssh/ssh_host_*',
            'rm -rf "$1"/var/cache/apt/*.bin "$1"/var/lib/apt/lists/* "$1"/var/log/*.log "$1"/var/log/apt',
        )
    )


def file_system(image: Path) -> str:
    """Return the shell command that writes the tree ``$1`` into the ext4 file ``image``.

    What is mounted inside the tree for the packages' scripts is kept out by a second view of the tree alone. With a
    smaller journal a disk of 5 GiB could not grow while it is in use.
    """
    make = """mount --bind "$0" "$1" && exec mke2fs -q -F -t ext4 -J size=16 -m 0 -L root -d "$1" "$2\""""
    view = str(image.with_name("view"))
    return f"""mkdir {shlex.quote(view)} && unshare --mount sh -c '{make}' "$1" {shlex.join((view, str(image)))}"""


async def build_rootfs(
    recipe: Recipe, *, codename: str, sources: list[Source], target: Path, report: Callable[[str], Awaitable[None]]
) -> None:
    """Write an ext4 file system of the recipe to ``target``, a sparse file.

    The file system is made inside the namespace in which mmdebstrap has unpacked it, where owners are right without
    the rights of root. Its folder is one of the host's temporary folders when the daemon is not root, because that
    namespace's users must reach it.
    """
    as_root = os.geteuid() == 0
    async with scratch(target.parent if as_root else None) as work:
        image, listed, unpacked = await trio.to_thread.run_sync(prepare, work, recipe, sources)
        packages = dict.fromkeys((*NEEDED_PACKAGES, *recipe.packages))
        await run_tool(
            [
                "mmdebstrap",
                f"--mode={'root' if as_root else 'unshare'}",
                "--format=null",
                "--variant=minbase",
                f"--include={','.join(packages)}",
                '--aptopt=Acquire::Languages "none"',
                '--aptopt=APT::Install-Recommends "false"',
                *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
                f"--customize-hook={customisation(recipe)}",
                f"--customize-hook={file_system(image)}",
                codename,
                "-",
                listed,
            ],
            env={"TMPDIR": str(unpacked)},
            report=lambda line: tell_progress(line, report),
        )
        await trio.to_thread.run_sync(copy_sparse, image, target)


async def tell_progress(line: str, report: Callable[[str], Awaitable[None]]) -> None:
    """Pass on what mmdebstrap says that it is doing, without the commands that it repeats."""
    if line.startswith("I: ") and "-hook in shell" not in line:
        await report(f"system: {line.removeprefix('I: ')}")


def prepare(work: Path, recipe: Recipe, sources: list[Source]) -> tuple[Path, Path, Path]:
    """Make the empty image, the list of sources and the place to unpack to, for users of another namespace too."""
    image, listed, unpacked = work / "root.ext4", work / "host.sources", work / "unpacked"
    new_sparse(image, recipe.disk_bytes)
    listed.write_text("\n".join(source.stanza() for source in sources))
    unpacked.mkdir()
    for path, mode in ((work, 0o711), (image, 0o666), (listed, 0o644), (unpacked, 0o777)):
        path.chmod(mode)
    return image, listed, unpacked
