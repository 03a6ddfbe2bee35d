"""App packages: what is in them, and whether a device would take them."""

from __future__ import annotations

import io
import plistlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any
from xml.parsers.expat import ExpatError

__all__ = ["Package", "PackageRefused", "inspect_files", "inspect_ipa"]

INFO = re.compile(r"^Payload/([^/]+\.app)/Info\.plist$")
MAX_FILE = 64 * 2**20


class PackageRefused(Exception):
    """A package that a device does not install, in the device's words."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(code)
        self.code = code
        self.words = words


class Package:
    """A package that has passed inspection."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info


def inspect_ipa(data: bytes, version: str) -> Package:
    """Look into a package, as the device with this system version would. Raises PackageRefused."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            wanted = [each for each in archive.infolist() if each.file_size <= MAX_FILE]
            return inspect_files({each.filename: archive.read(each) for each in wanted}, version)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise PackageRefused("PackageExtractionFailed", f"Could not extract archive: {error}") from error


def inspect_files(files: Mapping[str, bytes], version: str) -> Package:
    """Look into the files of a package. Raises PackageRefused."""
    found = [(match[1], data) for name, data in files.items() if (match := INFO.match(name))]
    if not found:
        raise PackageRefused("PackageInspectionFailed", "The package holds no Payload/NAME.app/Info.plist")
    app, data = found[0]
    try:
        info = plistlib.loads(data)
        bundle = info["CFBundleIdentifier"]
    except (plistlib.InvalidFileException, ExpatError, ValueError, KeyError, TypeError) as error:
        raise PackageRefused("MissingBundleIdentifier", "The Info.plist of the app names no bundle") from error
    if f"Payload/{app}/_CodeSignature/CodeResources" not in files:
        words = f"Failed to verify code signature of {app} : 0xe8008014 (The executable contains an invalid signature.)"
        raise PackageRefused("ApplicationVerificationFailed", words)
    least = str(info.get("MinimumOSVersion", "0"))
    if _numbers(least) > _numbers(version):
        raise PackageRefused("DeviceOSVersionTooLow", f"{bundle} requires iOS {least}, the device has {version}")
    return Package(info)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", version))
