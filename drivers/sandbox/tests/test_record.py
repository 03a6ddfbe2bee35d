"""What is kept of a sandbox is read again, also what an earlier version has written."""

from __future__ import annotations

from pathlib import Path

from anvild.sdk.cgroups import Limits
from anvild_sandbox.record import RECORD, Sandbox

EARLIER = """{
"request": {"template": "host", "name": "box", "identity": "box"},
"layers": [], "limits": {"vcpus": 2, "memory": 268435456, "processes": 64}, "created": "2026-01-01T00:00:00Z",
"init": {"pid": 7, "started": 70, "boot": "b"}, "outer": {"pid": 6, "started": 60, "boot": "b"}}"""


def test_a_record_of_an_earlier_version(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(EARLIER)
    sandbox = Sandbox.load(tmp_path)
    assert sandbox is not None
    assert sandbox.size.limits == Limits(memory=2**28, processors=2, processes=64)
    assert not sandbox.init.alive()
    sandbox.save(tmp_path)
    assert Sandbox.load(tmp_path) == sandbox
