"""App packages: made for tests and demonstrations, and read as far as a simulated device looks into them."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import msgspec

from .axml import Element, read_xml, write_xml
from .spec import TestSpec

__all__ = ["RUNNER", "Instrumentation", "Manifest", "Refused", "build_apk", "read_apk"]

RUNNER = "androidx.test.runner.AndroidJUnitRunner"
MANIFEST = "AndroidManifest.xml"
TESTS = "assets/simulated-tests.json"
SIGNATURES = (".RSA", ".DSA", ".EC")
SIGNING_BLOCK = b"APK Sig Block 42"
MAIN, LAUNCHER = "android.intent.action.MAIN", "android.intent.category.LAUNCHER"
MAX_MEMBER = 16 << 20
LONG_AGO = (2009, 1, 1, 0, 0, 0)


class Refused(Exception):
    """A package that a device does not take, with the platform's code and words."""

    def __init__(self, code: str, words: str = "") -> None:
        super().__init__(f"{code}: {words}" if words else code)


class Instrumentation(msgspec.Struct, frozen=True):
    """A runner of tests that a package declares, and the package that it runs in."""

    runner: str
    target: str


class Manifest(msgspec.Struct, frozen=True):
    """What a package says of itself."""

    package: str
    version: str = ""
    version_code: int = 0
    label: str = ""
    min_sdk: int = 1
    split: str = ""
    debuggable: bool = False
    activities: tuple[str, ...] = ()
    launcher: str | None = None
    instrumentation: tuple[Instrumentation, ...] = ()
    signer: str = ""
    tests: tuple[TestSpec, ...] = ()


def build_apk(
    package: str,
    *,
    label: str = "Simulated App",
    version: str = "1.0",
    version_code: int = 1,
    min_sdk: int = 21,
    instrumentation: Sequence[TestSpec] = (),
    target: str | None = None,
    signer: str = "anvil",
    size: int = 0,
    valid: bool = True,
) -> bytes:
    """Return an installable package as bytes; the same arguments give the same bytes.

    With ``instrumentation`` it declares a runner with these tests in the package ``target``, or in itself. Without it,
    it is an app with one activity. ``size`` bytes of filling make it larger. One that is not ``valid`` is not signed,
    and a device refuses it.
    """
    activity = Element(
        "activity",
        {"name": f"{package}.MainActivity", "exported": True},
        [Element("intent-filter", {}, [Element("action", {"name": MAIN}), Element("category", {"name": LAUNCHER})])],
    )
    parts = [
        Element("uses-sdk", {"minSdkVersion": min_sdk, "targetSdkVersion": 34}),
        Element("application", {"label": label, "debuggable": True}, [] if instrumentation else [activity]),
    ]
    if instrumentation:
        parts.append(Element("instrumentation", {"name": RUNNER, "targetPackage": target or package, "label": label}))
    about: dict[str, str | int | bool] = {":package": package, "versionCode": version_code, "versionName": version}
    files = {
        MANIFEST: write_xml(Element("manifest", about, parts)),
        "classes.dex": b"dex\n035\0" + bytes(104),
        "resources.arsc": bytes.fromhex("02000c000c00000000000000"),
    }
    if instrumentation:
        files[TESTS] = msgspec.json.encode(list(instrumentation))
    if size:
        files["assets/filling"] = hashlib.shake_128(package.encode()).digest(size)
    if valid:
        files["META-INF/MANIFEST.MF"] = b"Manifest-Version: 1.0\r\n\r\n"
        files["META-INF/CERT.SF"] = b"Signature-Version: 1.0\r\n\r\n"
        files["META-INF/CERT.RSA"] = hashlib.sha256(signer.encode()).digest()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, LONG_AGO), content)
    return written.getvalue()


def read_apk(file: BinaryIO) -> Manifest:
    """Read a package. Raises Refused for one that a device does not take."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if MANIFEST not in names:
                raise Refused("INSTALL_PARSE_FAILED_BAD_MANIFEST", "the package has no AndroidManifest.xml")
            root = read_xml(_member(archive, MANIFEST))
            signer = _signer(archive, file)
            tests = msgspec.json.decode(_member(archive, TESTS), type=tuple[TestSpec, ...]) if TESTS in names else ()
    except zipfile.BadZipFile:
        raise Refused("INSTALL_PARSE_FAILED_NOT_APK", "Failed to parse base.apk: Failed to load asset path") from None
    except (ValueError, RuntimeError, NotImplementedError, zlib.error, msgspec.DecodeError) as error:
        raise Refused("INSTALL_PARSE_FAILED_BAD_MANIFEST", str(error)) from None
    manifest = _read_manifest(root, signer, tests)
    if not manifest.package:
        raise Refused("INSTALL_PARSE_FAILED_BAD_PACKAGE_NAME", "the manifest names no package")
    if not signer:
        words = f"Failed to collect certificates: {manifest.package} is not signed"
        raise Refused("INSTALL_PARSE_FAILED_NO_CERTIFICATES", words)
    return manifest


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a file of the archive, of a size that is no attack."""
    if archive.getinfo(name).file_size > MAX_MEMBER:
        raise ValueError(f"{name} is larger than {MAX_MEMBER} bytes")
    return archive.read(name)


def _signer(archive: zipfile.ZipFile, file: BinaryIO) -> str:
    """Who has signed: a digest of the first signature of either kind; nothing when it is not signed."""
    for name in archive.namelist():
        if name.startswith("META-INF/") and name.endswith(SIGNATURES):
            return hashlib.sha256(_member(archive, name)).hexdigest()
    file.seek(max(archive.start_dir - len(SIGNING_BLOCK), 0))
    return "scheme 2" if file.read(len(SIGNING_BLOCK)) == SIGNING_BLOCK else ""


def _read_manifest(root: Element, signer: str, tests: tuple[TestSpec, ...]) -> Manifest:
    package = str(root.attributes.get(":package", ""))
    activities, launcher = [], None
    applications = root.find("application")
    for each in (activity for application in applications for activity in application.find("activity")):
        name = _full_name(package, str(each.attributes.get("name", "")))
        activities.append(name)
        marks = {
            str(mark.attributes.get("name")) for filters in each.find("intent-filter") for mark in filters.children
        }
        launcher = launcher or (name if marks >= {MAIN, LAUNCHER} else None)
    minimum = [each.attributes.get("minSdkVersion", 1) for each in root.find("uses-sdk")]
    return Manifest(
        package=package,
        version=str(root.attributes.get("versionName", "")),
        version_code=int(root.attributes.get("versionCode", 0)),
        label=str(applications[0].attributes.get("label", "")) if applications else "",
        min_sdk=minimum[0] if minimum and isinstance(minimum[0], int) else 1,
        split=str(root.attributes.get(":split", "")),
        debuggable=any(each.attributes.get("debuggable") is True for each in applications),
        activities=tuple(activities),
        launcher=launcher,
        instrumentation=tuple(
            Instrumentation(_full_name(package, str(each.attributes["name"])), str(each.attributes["targetPackage"]))
            for each in root.find("instrumentation")
            if "name" in each.attributes and "targetPackage" in each.attributes
        ),
        signer=signer,
        tests=tests,
    )


def _full_name(package: str, name: str) -> str:
    return package + name if name.startswith(".") else name
