"""The filter, run by a small interpreter of its five kinds of step."""

from __future__ import annotations

import struct

import pytest

from anvild_sandbox import seccomp

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def decide(program: bytes, number: int, *, arch: int, arguments: tuple[int, int] = (0, 0)) -> int:
    call = struct.pack("<IIQQQ", number, arch, 0, *arguments)
    steps = list(struct.iter_unpack("<HBBI", program))
    at = value = 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        if code == seccomp.RETURN:
            return int(operand)
        if code == seccomp.LOAD:
            value = struct.unpack_from("<I", call, operand)[0]
        else:
            true = {
                seccomp.JUMP_EQUAL: value == operand,
                seccomp.JUMP_AT_LEAST: value >= operand,
                seccomp.JUMP_SET: bool(value & operand),
            }[code]
            at += if_true if true else if_false


@pytest.mark.parametrize(("column", "machine"), list(enumerate(seccomp.ARCHITECTURES)))
def test_every_call_is_decided(column: int, machine: str) -> None:
    program = seccomp.build_filter(machine)
    arch = seccomp.AUDIT_ARCH[machine]
    denied = {numbers[column] for numbers in seccomp.DENIED.values()} - {None}
    clone3 = seccomp.CLONE3[column]
    for number in range(600):
        expected = EPERM if number in denied else ENOSYS if number == clone3 else ALLOW
        assert decide(program, number, arch=arch) == expected, number


@pytest.mark.parametrize(("column", "machine"), list(enumerate(seccomp.ARCHITECTURES)))
def test_arguments_decide(column: int, machine: str) -> None:
    program = seccomp.build_filter(machine)
    arch = seccomp.AUDIT_ARCH[machine]
    clone, ioctl = seccomp.CLONE[column], seccomp.IOCTL[column]
    assert decide(program, clone, arch=arch, arguments=(0x10000000 | 17, 0)) == EPERM
    assert decide(program, clone, arch=arch, arguments=(0x01200000 | 17, 0)) == ALLOW
    assert decide(program, ioctl, arch=arch, arguments=(0, seccomp.TIOCSTI)) == EPERM
    assert decide(program, ioctl, arch=arch, arguments=(0, seccomp.TIOCLINUX)) == EPERM
    assert decide(program, ioctl, arch=arch, arguments=(0, 0x5401)) == ALLOW


def test_foreign_calls_are_refused() -> None:
    program = seccomp.build_filter("x86_64")
    assert decide(program, 0, arch=0x40000003) == KILL
    assert decide(program, seccomp.X32_BIT, arch=seccomp.AUDIT_ARCH["x86_64"]) == ENOSYS
    with pytest.raises(KeyError):
        seccomp.build_filter("riscv64")
