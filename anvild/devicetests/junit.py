"""JUnit XML: the form in which CI systems read the results of tests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import msgspec

from anvild.sdk import TestCase, TestStatus

__all__ = ["Suite", "junit", "suites_of"]

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_CHILD = {TestStatus.FAILED: "failure", TestStatus.ERROR: "error", TestStatus.SKIPPED: "skipped"}


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """A named group of results."""

    name: str
    cases: Sequence[TestCase]


def suites_of(step: str, cases: Iterable[TestCase]) -> list[Suite]:
    """Group the results of a step by the suites that the runner named; what has none is named by the step."""
    by_suite = sorted(cases, key=lambda case: case.suite)
    return [
        Suite(name=suite or step, cases=list(group)) for suite, group in groupby(by_suite, key=lambda case: case.suite)
    ]


def junit(
    name: str,
    suites: Sequence[Suite],
    *,
    at: datetime | None = None,
    device: str | None = None,
    properties: Mapping[str, str] | None = None,
) -> bytes:
    """Return the document. ``at`` is when the tests began, ``device`` where they ran; both go to every suite."""
    root = Element("testsuites", {"name": _text(name), **_counts([case for suite in suites for case in suite.cases])})
    for suite in suites:
        told = {"name": _text(suite.name), **_counts(suite.cases)}
        if at is not None:
            told["timestamp"] = at.strftime("%Y-%m-%dT%H:%M:%S")
        if device is not None:
            told["hostname"] = _text(device)
        element = SubElement(root, "testsuite", told)
        if properties:
            listed = SubElement(element, "properties")
            for key, value in properties.items():
                SubElement(listed, "property", name=_text(key), value=_text(value))
        for case in suite.cases:
            _add(element, case, suite.name)
    indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{tostring(root, encoding="unicode")}\n'.encode()


def _add(suite: Element, case: TestCase, named: str) -> None:
    told = {"classname": _text(case.suite or named), "name": _text(case.name), "time": f"{case.seconds:.3f}"}
    element = SubElement(suite, "testcase", told)
    child = _CHILD.get(case.status)
    if child is not None:
        result = SubElement(element, child, {"message": _text(case.message or "")})
        if child != "skipped":
            result.set("type", child)
        result.text = _text(case.trace or "") or None


def _counts(cases: Sequence[TestCase]) -> dict[str, str]:
    def count(status: TestStatus) -> str:
        return str(sum(case.status is status for case in cases))

    return {
        "tests": str(len(cases)),
        "failures": count(TestStatus.FAILED),
        "errors": count(TestStatus.ERROR),
        "skipped": count(TestStatus.SKIPPED),
        "time": f"{sum(case.seconds for case in cases):.3f}",
    }


def _text(text: str) -> str:
    """Return a text without the characters that XML cannot hold."""
    return _NO_XML.sub("\ufffd", text)
