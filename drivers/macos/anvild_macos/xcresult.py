"""What ``xcresulttool`` (Xcode 16 and later) says of a test run, turned into test cases and attachments."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterator

import msgspec

from anvild.sdk import TestCase, TestStatus

from .models import decode

OLDEST_XCODE = 16

STATUSES = {
    "Passed": TestStatus.PASSED,
    "Failed": TestStatus.FAILED,
    "Skipped": TestStatus.SKIPPED,
    "Expected Failure": TestStatus.PASSED,
}
BUNDLES = ("Unit test bundle", "UI test bundle")
DURATION = re.compile(r"(?:(\d+)\s*h)?\s*(?:(\d+)\s*m(?:in)?)?\s*(?:(\d+(?:[.,]\d+)?)\s*s)?\s*", re.IGNORECASE)
MESSAGE_LIMIT = 1000
TRACE_LIMIT = 64 * 1024
CRASH = re.compile(r"^Crash: |^Test crashed|unexpected exit", re.MULTILINE)


class Node(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A node of the tree of results."""

    node_type: str = ""
    name: str = ""
    node_identifier: str | None = None
    result: str | None = None
    duration: str | None = None
    duration_in_seconds: float | None = None
    details: str | None = None
    children: list[Node] = []


class _Tests(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    test_nodes: list[Node] = []


class Summary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The totals of a run."""

    result: str = "unknown"
    total_test_count: int = 0
    passed_tests: int = 0
    failed_tests: int = 0
    skipped_tests: int = 0
    expected_failures: int = 0


class Exported(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One file of an export of attachments."""

    exported_file_name: str
    suggested_human_readable_name: str | None = None
    is_associated_with_failure: bool = False

    @property
    def name(self) -> str:
        """A name for people, free of folders."""
        name = (self.suggested_human_readable_name or self.exported_file_name).replace("/", "_")
        return name[-200:]

    @property
    def media_type(self) -> str:
        return media_type(self.name)


class _TestAttachments(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    test_identifier: str = ""
    attachments: list[Exported] = []


def test_cases(answer: bytes) -> list[TestCase]:
    """Read ``get test-results tests`` into cases, in the order of the tree.

    A suite is ``BUNDLE/CLASS``; a test that was run several times, or with several arguments or devices, is one case.
    """
    found = []
    for top in decode(answer, _Tests, "xcresulttool get test-results tests").test_nodes:
        for bundle, case in _cases(top, ""):
            found.append(_told(bundle, case))
    return found


def _cases(node: Node, bundle: str) -> Iterator[tuple[str, Node]]:
    if node.node_type in BUNDLES:
        bundle = node.name.removesuffix(".xctest")
    if node.node_type == "Test Case":
        yield bundle, node
        return
    for child in node.children:
        yield from _cases(child, bundle)


def _told(bundle: str, node: Node) -> TestCase:
    suite, _, name = (node.node_identifier or node.name).rpartition("/")
    failures = list(_failures(node))
    whole = "\n".join([node.details or "", *failures]).strip()
    status = STATUSES.get(node.result or "", TestStatus.ERROR)
    if status is TestStatus.FAILED and CRASH.search(whole):
        status = TestStatus.ERROR
    return TestCase(
        suite=f"{bundle}/{suite}" if suite and bundle else suite or bundle,
        name=plain_name(name),
        status=status,
        seconds=seconds_of(node),
        message=(failures[0] if failures else node.details or "").partition("\n")[0][:MESSAGE_LIMIT] or None,
        trace=whole[:TRACE_LIMIT] or None,
    )


def _failures(node: Node) -> Iterator[str]:
    for child in node.children:
        if child.node_type == "Failure Message":
            places = [each.name for each in child.children if each.node_type == "Source Code Reference"]
            yield child.name + "".join(f"\n  at {place}" for place in places)
        else:
            yield from _failures(child)


def plain_name(name: str) -> str:
    """Return a test's name without the empty parentheses that one of Apple's tools writes and the other does not."""
    return name.removesuffix("()")


def seconds_of(node: Node) -> float:
    """Return a duration: a number in newer versions of the tool, else text for people ("1m 2s", "0,25s")."""
    if node.duration_in_seconds is not None:
        return node.duration_in_seconds
    found = DURATION.fullmatch(node.duration or "")
    if found is None:
        return 0.0
    hours, minutes, seconds = found.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float((seconds or "0").replace(",", "."))


def summary(answer: bytes) -> Summary:
    """Read ``get test-results summary``."""
    return decode(answer, Summary, "xcresulttool get test-results summary")


def exported(answer: bytes) -> list[Exported]:
    """Read the ``manifest.json`` of ``export attachments``; those of failures come first."""
    listed = decode(answer, list[_TestAttachments], "xcresulttool export attachments")
    files = [each for test in listed for each in test.attachments]
    return sorted(files, key=lambda each: not each.is_associated_with_failure)


def media_type(name: str) -> str:
    """Guess a media type by a file's name."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
