"""The driver keeps the rules of the conformance kit, as far as stubs of Apple's tools can show it."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from anvild.sdk import Apps, AppTests, Attachments, Mend
from anvild.sdk.testing import RULES, AppProfile, InProcess, Level, Profile, TestsProfile, examine
from anvild_macos import paired, watcher
from anvild_macos.driver import MacosDriver, token_of
from anvild_macos.tagged import end_all

MAC = "0A1B2C3D-0000-4000-8000-0000000000FF"
SIMULATOR = "11111111-0000-4000-8000-000000000001"
PHONE = "00008110-001A2B3C4D5E6F70"


@pytest.mark.parametrize("device", [MAC, SIMULATOR, PHONE])
async def test_conformance(sshd: Any, stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(paired, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(watcher, "LOOK_SECONDS", 1.0)
    app, products = tmp_path / "demo.ipa", tmp_path / "products.zip"
    info = plistlib.dumps({"CFBundleIdentifier": "demo.app"})
    for path, name, content in ((app, "Payload/Demo.app/Info.plist", info), (products, "Demo.xctestrun", b"")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
    (tmp_path / "Demo.xctestrun").touch()
    on_mac = device == MAC
    tests = TestsProfile(
        target=str(tmp_path / "Demo.xctestrun") if on_mac else "Demo.xctestrun",
        packages=() if on_mac else (products,),
        passed=3,
        failed=2,
    )
    profile = Profile(
        settings={"hosts": [msgspec.to_builtins(sshd.settings())]},
        device=device,
        app=AppProfile(package=app, identifier="demo.app"),
        tests=tests,
    )
    # The driver's life is the same whatever the device.
    rules = RULES if on_mac else [each for each in RULES if each.about in (Apps, AppTests, Attachments, Mend)]
    state = tmp_path / "state"
    for folder in (state, tmp_path / "cache"):
        folder.mkdir()
    try:
        report = await examine(InProcess(MacosDriver), profile, rules=rules, directories=(state, tmp_path / "cache"))
    finally:
        clear(f"/tmp/anvild-{token_of(state)}")  # the kit cleans no device when it has done with it
    assert report.failures == ()
    assert report.grade is Level.PLATINUM


def clear(folder: str) -> None:
    for kept in Path(folder).glob("*/kept"):
        subprocess.run(end_all(str(kept)), check=True)
    shutil.rmtree(folder, ignore_errors=True)
