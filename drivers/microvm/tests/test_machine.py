"""The machine, its command line, the manifest and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from anvild.sdk import InvalidArgument, WrongState
from anvild_microvm.capsules import first_record
from anvild_microvm.host import Host
from anvild_microvm.machine import Launch, Machine, command_line, differences
from anvild_microvm.record import host_name, read_record, write_record
from anvild_microvm.saving import refuse_unsaveable
from anvild_microvm.template import Manifest, read_manifest, write_manifest
from anvild_microvm.templates import check_name

MACHINE = Machine(qemu="7.2.22", accelerator="tcg", cpu="max", vcpus=1, memory=256 * 2**20)
MANIFEST = Manifest(
    name="minimal",
    created=datetime(2026, 1, 1, tzinfo=UTC),
    vcpus=1,
    memory=256 * 2**20,
    disk=2**31,
    layers=("base.ext4", "a.qcow2"),
    initrd="initrd-1",
    agent="1",
    account="user",
    machine=MACHINE,
    image="digest",
)


class FakeHost(Host, frozen=True):
    """A host of which only the machine matters."""

    def machine(self, vcpus: int, memory: int) -> Machine:
        return msgspec.structs.replace(MACHINE, vcpus=vcpus, memory=memory)


@pytest.fixture
def host() -> Host:
    return FakeHost(  # nothing else of it is looked at
        settings=None, account=None, accelerator=None, qemu=None, background=None,  # type: ignore[arg-type]
        starting=None, log=None, layout=None, scope="x",  # type: ignore[arg-type]
    )  # fmt: skip


def launch(**more: object) -> Launch:
    plain = Launch(program="qemu", identity="a", machine=MACHINE, disk="top.qcow2", ram="ram", agent_fd=7, monitor_fd=8)
    return msgspec.structs.replace(plain, **more)


def test_a_guest_has_no_network_and_a_sandbox() -> None:
    words = command_line(launch())
    text = " ".join(words)
    assert words[words.index("-sandbox") + 1].startswith("on,")
    assert "-nodefaults" in words
    assert not {"-netdev", "-nic", "-net", "-vnc", "-monitor"} & set(words)
    assert "share=off" in text, "the memory file is never written"
    assert "tcg,tb-size=64" in text


def test_kernel_and_incoming_state_are_told_apart() -> None:
    cold = command_line(launch(kernel="kernel", initrd="initrd"))
    assert "-kernel" in cold
    assert "-incoming" not in cold
    warm = command_line(launch(incoming=True))
    assert "-kernel" not in warm
    assert warm[-2:] == ["-incoming", "defer"]


def test_the_same_machine_fits() -> None:
    assert differences(MACHINE, MACHINE) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"qemu": "8.2.0"}, "QEMU 7.2.22, here 8.2.0"),
        ({"memory": 2**30}, "memory 256 MiB, here 1024 MiB"),
        ({"accelerator": "kvm", "cpu": "host (X)"}, "processor max, here host (X)"),
        ({"devices": ("virtio-blk-pci", "nvme")}, "here virtio-blk-pci nvme"),
        ({"vcpus": 4}, "vCPUs 1, here 4"),
        ({"type": "pc"}, "machine type q35, here pc"),
    ],
)
def test_another_machine_is_told_in_words(change: dict[str, object], words: str) -> None:
    assert words in "; ".join(differences(MACHINE, msgspec.structs.replace(MACHINE, **change)))


def test_what_crashes_qemu_is_refused() -> None:
    with pytest.raises(WrongState, match="nvme, whose state cannot be saved"):
        refuse_unsaveable(msgspec.structs.replace(MACHINE, devices=(*MACHINE.devices, "nvme")))
    refuse_unsaveable(MACHINE)


def test_a_manifest_comes_back_and_half_a_folder_is_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "missing") is None
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    write_manifest(tmp_path, msgspec.structs.replace(MANIFEST, format=99))
    assert read_manifest(tmp_path) is None


def test_a_record_comes_back(host: Host, tmp_path: Path, ask: type) -> None:
    record = first_record(host, ask("one", environment={"A": "b"}), MANIFEST)
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert record.ram == "ram"
    assert record.itself.generation == 1
    (tmp_path / "capsule.json").write_text("{")
    assert read_record(tmp_path) is None


def test_another_size_of_an_image_boots_cold_and_of_a_snapshot_is_refused(host: Host, ask: type) -> None:
    assert first_record(host, ask("one", memory=2**30), MANIFEST).ram == "zero"
    assert first_record(host, ask("one", vcpus=2), MANIFEST).ram == "zero"
    odd = first_record(host, ask("one", memory=300 * 2**20 + 1), MANIFEST)
    assert odd.machine.memory == 301 * 2**20
    snapshot = msgspec.structs.replace(MANIFEST, image=None)
    with pytest.raises(InvalidArgument, match="1 vCPUs and 256 MiB"):
        first_record(host, ask("one", memory=2**30), snapshot)
    with pytest.raises(InvalidArgument, match="a smaller one cannot be had"):
        first_record(host, ask("one", disk=2**30), MANIFEST)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "a b"])
def test_what_is_no_template_s_name(name: str) -> None:
    with pytest.raises(InvalidArgument, match="is no name for a template"):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("My Box #1", "my-box-1"), ("ÄÖ", "id-1"), ("-x-", "x"), ("a" * 80, "a" * 63), ("b" * 62 + "--c", "b" * 62)],
)
def test_host_names(name: str, expected: str) -> None:
    assert host_name(name, "id-1") == expected
