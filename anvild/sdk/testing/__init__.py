"""The public conformance kit: what ``anvil driver check`` runs, as a library for a driver's own tests.

A test of a driver::

    from anvild.sdk.testing import InProcess, Level, examine

    async def test_conformance():
        report = await examine(InProcess(LampDriver))
        assert not report.failures
        assert report.grade is Level.PLATINUM
"""

from __future__ import annotations

from .checks import RULES
from .examination import examine
from .places import ChildProcess, InProcess, OverWebSocket, Place, Setup
from .profile import (
    PROFILE_FILE,
    AppProfile,
    ExecProfile,
    FilesProfile,
    PortsProfile,
    Profile,
    ProfileError,
    ProvisionProfile,
    TestsProfile,
    load_profile,
    profile_of,
)
from .rules import Level, Report, Result, Rule, Verdict, grade_of, table

__all__ = [
    "PROFILE_FILE",
    "RULES",
    "AppProfile",
    "ChildProcess",
    "ExecProfile",
    "FilesProfile",
    "InProcess",
    "Level",
    "OverWebSocket",
    "Place",
    "PortsProfile",
    "Profile",
    "ProfileError",
    "ProvisionProfile",
    "Report",
    "Result",
    "Rule",
    "Setup",
    "TestsProfile",
    "Verdict",
    "examine",
    "grade_of",
    "load_profile",
    "profile_of",
    "table",
]
