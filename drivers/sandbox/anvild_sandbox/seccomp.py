"""The system call filter of sandboxes: a small BPF program, put together from a table.

Calls that a program in a sandbox has no use for, and that open much of the kernel to it, fail with EPERM. The rest is
left to namespaces and to the lack of capabilities. Calls of a foreign architecture end the program.
"""

from __future__ import annotations

import struct

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ARCHITECTURES = tuple(AUDIT_ARCH)

# Each denied call with its numbers on x86_64 and aarch64; None where the architecture does not have it.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sysfs": (139, None),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
CLONE = (56, 220)
CLONE3 = (435, 435)
IOCTL = (16, 29)

CLONE_NAMESPACES = 0x7E020000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # both type into the terminal of whoever looks on
X32_BIT = 0x40000000
EPERM, ENOSYS = 1, 38

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCH_AT, FIRST_ARGUMENT_AT, SECOND_ARGUMENT_AT = 0, 4, 16, 24
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def build_filter(machine: str) -> bytes:
    """Return the filter for ``machine`` (``x86_64`` or ``aarch64``) as the kernel and bubblewrap take it.

    Raises KeyError for another machine.
    """
    column = ARCHITECTURES.index(machine) if machine in AUDIT_ARCH else -1
    program = [
        _step(LOAD, ARCH_AT),
        _step(JUMP_EQUAL, AUDIT_ARCH[machine], 1, 0),
        _step(RETURN, KILL),
        _step(LOAD, NUMBER_AT),
    ]
    if machine == "x86_64":
        program += [_step(JUMP_AT_LEAST, X32_BIT, 0, 1), _step(RETURN, FAIL | ENOSYS)]
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            program += [_step(JUMP_EQUAL, number, 0, 1), _step(RETURN, FAIL | EPERM)]
    program += [
        # clone3 hides its flags from a filter; the C library then takes clone.
        _step(JUMP_EQUAL, CLONE3[column], 0, 1),
        _step(RETURN, FAIL | ENOSYS),
        _step(JUMP_EQUAL, CLONE[column], 0, 4),
        _step(LOAD, FIRST_ARGUMENT_AT),
        _step(JUMP_SET, CLONE_NAMESPACES, 0, 1),
        _step(RETURN, FAIL | EPERM),
        _step(RETURN, ALLOW),
        _step(JUMP_EQUAL, IOCTL[column], 0, 4),
        _step(LOAD, SECOND_ARGUMENT_AT),
        _step(JUMP_EQUAL, TIOCSTI, 1, 0),
        _step(JUMP_EQUAL, TIOCLINUX, 0, 1),
        _step(RETURN, FAIL | EPERM),
        _step(RETURN, ALLOW),
    ]
    return b"".join(program)
