"""Whether KVM runs guests at a hardware's speed. Run as a program, in a process that its parent can end.

Some hosts offer a /dev/kvm whose guests run correctly but through an instruction emulator, a hundred times too slow.
So a small machine in long mode with paging stores 100,000 numbers, and the time that it takes is the verdict. One
line of JSON on standard output tells it: ``{"milliseconds": 0.9, "fault": null}``.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import struct
import sys
import time

KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_TSS_ADDR = 0xAE47
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_RUN = 0xAE80
KVM_GET_REGS = 0x8090AE81
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_EXIT_IO = 2

MEMORY = 4 * 2**20
TABLES = 0x1000
CODE = 0x10000
NUMBERS = 0x200000
ROUNDS = 100_000
TSS = 0x7FFBD000  # any three pages outside of the memory; some processors need them

PRESENT_WRITABLE = 0x3
LARGE_PAGE = 0x80
CR0 = 0x80050033  # protection and paging on
CR4 = 0x20  # physical address extension
EFER = 0x500  # long mode enabled and active

PROGRAM = (
    b"\xb9" + struct.pack("<I", ROUNDS)  # mov ecx, ROUNDS
    + b"\x31\xc0"  # xor eax, eax
    + b"\x48\xff\xc0"  # again: inc rax
    + b"\x48\x89\x04\xcf"  # mov [rdi + rcx*8], rax
    + b"\xe2\xf7"  # loop again
    + b"\xe6\x10"  # out 0x10, al
    + b"\xf4"  # hlt
)  # fmt: skip


def segment(kind: int, *, long_mode: int) -> bytes:
    """A flat segment: base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable, padding."""
    return struct.pack("<QIH10B", 0, 0xFFFFFFFF, 8, kind, 1, 0, 1 - long_mode, 1, long_mode, 1, 0, 0, 0)


def measure() -> tuple[float, str | None]:
    """Run the small machine; return its milliseconds and what was wrong with its result."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    fcntl.ioctl(vm, KVM_SET_TSS_ADDR, TSS)
    memory = mmap.mmap(-1, MEMORY)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, MEMORY, address))

    memory[CODE : CODE + len(PROGRAM)] = PROGRAM
    levels = (TABLES, TABLES + 0x1000, TABLES + 0x2000)
    struct.pack_into("<Q", memory, levels[0], levels[1] | PRESENT_WRITABLE)
    struct.pack_into("<Q", memory, levels[1], levels[2] | PRESENT_WRITABLE)
    for index in range(MEMORY // 2**21):
        struct.pack_into("<Q", memory, levels[2] + 8 * index, index * 2**21 | LARGE_PAGE | PRESENT_WRITABLE)

    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    state = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
    special = bytearray(0x138)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, special)
    special[:24] = segment(11, long_mode=1)
    special[24:144] = segment(3, long_mode=0) * 5
    struct.pack_into("<QQQQQQ", special, 224, CR0, 0, TABLES, CR4, 0, EFER)
    fcntl.ioctl(vcpu, KVM_SET_SREGS, special)
    registers = [0] * 18
    registers[5], registers[16], registers[17] = NUMBERS, CODE, 2  # rdi, rip, rflags
    fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("<18Q", *registers))

    begin = time.perf_counter()
    fcntl.ioctl(vcpu, KVM_RUN, 0)
    milliseconds = (time.perf_counter() - begin) * 1000

    (reason,) = struct.unpack_from("<I", state, 8)
    answer = bytearray(0x90)
    fcntl.ioctl(vcpu, KVM_GET_REGS, answer)
    (counted,) = struct.unpack_from("<Q", answer, 0)
    (stored,) = struct.unpack_from("<Q", memory, NUMBERS + 8)
    if reason != KVM_EXIT_IO or counted != ROUNDS or stored != ROUNDS:
        return milliseconds, f"it gave a wrong result (exit {reason}, {counted} counted, {stored} stored)"
    return milliseconds, None


def main() -> None:
    try:
        milliseconds, fault = measure()
    except OSError as error:
        milliseconds, fault = 0.0, str(error)
    sys.stdout.write(json.dumps({"milliseconds": milliseconds, "fault": fault}) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
