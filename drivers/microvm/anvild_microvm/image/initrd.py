"""The initial file system of a guest: a cpio archive in the ``newc`` form, written by hand in a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

__all__ = ["build_initrd", "init_script", "newc"]

S_IFDIR = 0o040000
S_IFREG = 0o100000
AGENT_DIRECTORY = "/run/anvild"
TRAILER = "TRAILER!!!"

Member = tuple[str, int, bytes]
"""Name, mode with the file type, content."""


def newc(members: Iterable[Member]) -> bytes:
    """Return a cpio archive in the newc form. All members belong to root and carry no time, so that the same members
    give the same bytes."""
    archive = bytearray()
    for inode, (name, mode, content) in enumerate((*members, (TRAILER, 0, b"")), start=1):
        encoded = name.encode() + b"\0"
        links = 2 if mode & S_IFDIR else 1
        fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        archive += b"070701" + "".join(f"{field:08X}" for field in fields).encode() + encoded
        archive += bytes(-len(archive) % 4)
        archive += content
        archive += bytes(-len(archive) % 4)
    archive += bytes(-len(archive) % 512)
    return bytes(archive)


def init_script(modules: Sequence[str], agent_argv: Sequence[str]) -> str:
    """Return the first program of the guest: load the modules, mount the disk, hand over to the agent."""
    load = "\n".join(f"insmod /modules/{module}.ko" for module in modules)
    return f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs -o mode=0755,nosuid dev /dev
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sys /sys
{load}
ifconfig lo up
mount -t ext4 -o rw,noatime /dev/vda /root || {{ echo "init: no root file system on /dev/vda"; poweroff -f; }}
for place in dev proc sys; do mount --move /$place /root/$place; done
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o gid=5,mode=0620,ptmxmode=0666 devpts /root/dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /root/dev/shm
mount -t tmpfs -o mode=0755,nosuid,nodev run /root/run
mount -t cgroup2 -o nosuid,nodev,noexec cgroup /root/sys/fs/cgroup
ln -sf /proc/self/fd /root/dev/fd
mkdir -p /root{AGENT_DIRECTORY} /root/run/lock
chmod 1777 /root/run/lock
cp /agent/* /root{AGENT_DIRECTORY}/
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec /bin/switch_root /root {" ".join(agent_argv)}
"""


def build_initrd(
    *, busybox: bytes, modules: Mapping[str, bytes], agent: Mapping[str, bytes], agent_argv: Sequence[str]
) -> bytes:
    """Return the archive. ``modules`` are loaded in their order; ``agent`` are the files of the guest agent by name."""
    directories = ("bin", "dev", "proc", "sys", "root", "modules", "agent")
    members: list[Member] = [(name, S_IFDIR | 0o755, b"") for name in directories]
    members.append(("bin/busybox", S_IFREG | 0o755, busybox))
    members.append(("init", S_IFREG | 0o755, init_script(tuple(modules), agent_argv).encode()))
    members += [(f"modules/{name}.ko", S_IFREG | 0o644, content) for name, content in modules.items()]
    members += [(f"agent/{name}", S_IFREG | 0o755, content) for name, content in agent.items()]
    return newc(members)
