"""The driver's files: the base that all sandboxes stand on, layers, templates and the sandboxes' own folders.

A sandbox's root is an overlay: its own ``upper`` folder over the layers of its template over the base. A snapshot
makes a layer of a copy of ``upper``. Layers are never changed, and live as long as a template or a sandbox names them.
All functions do file I/O and are called in threads.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from anvild.sdk import AlreadyExists, InvalidArgument, NotFound, PermissionDenied, ResourceExhausted

from .record import Sandbox

BUILT_IN = "host"
BASE = "base-1"
LAYER_LIMIT = 32
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

BASE_FOLDERS = {
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "home/user": 0o755,
    "opt": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "run": 0o755,
    "srv": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "var": 0o755,
    "var/cache": 0o755,
    "var/lib": 0o755,
    "var/log": 0o755,
    "var/tmp": 0o1777,
}
BASE_FILES = {
    # One user identity: the names differ in their home alone.
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:0:0:user:/home/user:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nuser:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/resolv.conf": "",
    "etc/os-release": None,
    "etc/machine-id": "",
}
ACCOUNTS = ("root", "user")
SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


class Layered(msgspec.Struct, frozen=True):
    """A template made by a snapshot. ``environment`` and ``user`` are what processes in sandboxes of it find by
    default."""

    name: str
    layers: tuple[str, ...]
    size: int
    created: datetime
    environment: dict[str, str] = {}
    user: str | None = None


class Storage:
    """The files below the driver's state directory. ``owner`` is the user that sandboxes run as on the host."""

    def __init__(self, root: Path, owner: int) -> None:
        self.root = root
        self.owner = owner
        self.devices = root / "devices"
        self._layers = root / "layers"
        self._templates = root / "templates"

    def prepare(self) -> None:
        """Make the folders and the base. Raises OSError."""
        for folder in (self.devices, self._layers, self._templates):
            folder.mkdir(parents=True, exist_ok=True)
        if not (self.root / BASE).exists():
            partial = self.root / f".{BASE}.{uuid.uuid4().hex}"
            self._build_base(partial)
            try:
                partial.rename(self.root / BASE)
            except OSError:  # another daemon was faster
                remove_tree(partial)
        for leftover in (*self._layers.glob(".*"), *self._templates.glob(".*")):
            remove_tree(leftover)

    def _build_base(self, base: Path) -> None:
        base.mkdir()
        for name, mode in BASE_FOLDERS.items():
            (base / name).mkdir()
            (base / name).chmod(mode)
        for name, text in BASE_FILES.items():
            (base / name).write_text(Path("/", name).read_text() if text is None else text)
        for name in SYSTEM_FOLDERS:
            system = Path("/", name)
            if system.is_symlink():
                (base / name).symlink_to(system.readlink())
            elif system.is_dir():
                (base / name).mkdir()
        self._give_away(base)

    def _give_away(self, tree: Path) -> None:
        if self.owner != os.geteuid():
            for folder, folders, files in os.walk(tree):
                for name in (".", *folders, *files):
                    os.chown(Path(folder, name), self.owner, self.owner, follow_symlinks=False)

    # sandboxes

    def device(self, identity: str) -> Path:
        return self.devices / identity

    def make_device(self, identity: str) -> Path:
        """Make the folder of a new sandbox. Raises OSError."""
        folder = self.device(identity)
        folder.mkdir(mode=0o700)
        for name in ("upper", "work"):
            (folder / name).mkdir()
            (folder / name).chmod(0o755)
        self._give_away(folder / "upper")
        self._give_away(folder / "work")
        return folder

    def overlay_options(self, identity: str, layers: tuple[str, ...]) -> str:
        """Return the options of a sandbox's overlay mount, relative to ``root``."""
        lower = ":".join([*(f"layers/{layer}" for layer in layers), BASE])
        place = f"devices/{identity}"
        return f"userxattr,lowerdir={lower},upperdir={place}/upper,workdir={place}/work"

    def used(self, identity: str) -> int:
        """Return how many bytes a sandbox has written."""
        return tree_size(self.device(identity) / "upper")

    # templates

    def templates(self) -> list[Layered]:
        """Return the templates made by snapshots, by name."""
        found = [msgspec.json.decode(path.read_bytes(), type=Layered) for path in self._templates.glob("[!.]*.json")]
        return sorted(found, key=lambda template: template.name)

    def template(self, name: str) -> Layered:
        """Find a template; the built-in one has no layers. Raises NotFound."""
        if name == BUILT_IN:
            return Layered(name=name, layers=(), size=0, created=datetime.fromtimestamp(0, UTC))
        for template in self.templates():
            if template.name == name:
                return template
        raise NotFound(f"there is no sandbox template {name!r}; there is {BUILT_IN!r} and what snapshots have made")

    def check_new(self, name: str) -> None:
        """Raise InvalidArgument or AlreadyExists when no template of this name can be made."""
        if not NAME.fullmatch(name):
            raise InvalidArgument(
                f"{name!r} is no template name: use up to 64 small letters, digits, '.', '_' and '-', no sign first"
            )
        if name == BUILT_IN or (self._templates / f"{name}.json").exists():
            raise AlreadyExists(f"there is a sandbox template {name!r} already")

    def new_layer(self) -> tuple[str, Path, Path]:
        """Return an id for a layer, the place to copy it to, and its place when it is whole."""
        layer = uuid.uuid4().hex
        return layer, self._layers / f".{layer}", self._layers / layer

    def check_depth(self, layers: tuple[str, ...]) -> None:
        if len(layers) >= LAYER_LIMIT:
            raise ResourceExhausted(f"a sandbox template may stand on {LAYER_LIMIT - 1} snapshots, and this one does")

    def add_template(self, template: Layered) -> None:
        partial = self._templates / f".{template.name}.json"
        partial.write_bytes(msgspec.json.encode(template))
        partial.rename(self._templates / f"{template.name}.json")

    def remove_template(self, name: str) -> None:
        """Remove a template. Raises NotFound, PermissionDenied."""
        if name == BUILT_IN:
            raise PermissionDenied(f"the sandbox template {name!r} is built in and cannot be removed")
        self.template(name)
        (self._templates / f"{name}.json").unlink()
        self.sweep_layers()

    def sweep_layers(self) -> None:
        """Remove the layers that neither a template nor a sandbox names."""
        used = {layer for template in self.templates() for layer in template.layers}
        for folder in self.devices.iterdir():
            sandbox = Sandbox.load(folder)
            if sandbox is not None:
                used.update(sandbox.layers)
        for layer in self._layers.glob("[!.]*"):
            if layer.name not in used:
                remove_tree(layer)


def tree_size(tree: Path) -> int:
    """Return the bytes that a tree takes on its disk."""
    size = 0
    for folder, _, files in os.walk(tree):
        for name in (".", *files):
            try:
                size += os.lstat(Path(folder, name)).st_blocks * 512
            except OSError:  # it has just gone
                continue
    return size


def copy_tree_command(source: Path, target: Path) -> list[str]:
    """Return the command that copies a layer with its marks of removed files."""
    return ["cp", "--archive", "--reflink=auto", "--no-target-directory", str(source), str(target)]


def remove_tree(tree: Path) -> None:
    """Remove a tree, opening folders that bar their owner. Raises OSError; what is not there, or goes by itself
    meanwhile, is no error."""
    if not tree.is_dir() or tree.is_symlink():
        tree.unlink(missing_ok=True)
        return
    if os.geteuid() != 0:
        tree.chmod(0o700)
        for folder, folders, _ in os.walk(tree):  # from the top: each is opened before it is listed
            for inner in (Path(folder, name) for name in folders):
                if not inner.is_symlink():
                    inner.chmod(0o700)
    while tree.exists():
        try:
            shutil.rmtree(tree)
        except FileNotFoundError:
            continue


def kernel_message(completed: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a failed tool said."""
    lines = [line for line in completed.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {completed.returncode}"
