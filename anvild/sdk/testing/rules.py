"""What the conformance kit is made of: rules with a level, their results, and the grade that follows from them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ..capabilities import DRIVER_CAPABILITIES
from ..verbs import Capability

if TYPE_CHECKING:
    from .bench import Bench

__all__ = [
    "Broken",
    "Level",
    "NotApplicable",
    "Report",
    "Result",
    "Rule",
    "RuleBook",
    "Verdict",
    "grade_of",
    "require",
    "table",
]

C = TypeVar("C", bound=Capability)

RULE_SECONDS = 120.0


class Level(StrEnum):
    """The grades, from the least: BRONZE works, SILVER is exact in its errors and details, GOLD survives what a lab
    does to it (cancellation, restarts, a hundred sessions), PLATINUM bears floods and devices that are pulled off."""

    BRONZE = "bronze"
    SILVER = "silver"
    GOLD = "gold"
    PLATINUM = "platinum"

    def reaches(self, other: Level) -> bool:
        """Tell whether this level is the other one or above it."""
        order = list(Level)
        return order.index(self) >= order.index(other)


class Verdict(StrEnum):
    """What came of a rule: it holds, it is broken, or the driver has nothing that it is about."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not_applicable"


class Broken(AssertionError):
    """A rule does not hold. The message says what was expected and what was found."""


class NotApplicable(Exception):
    """The rule is about something that this driver does not have. The message says what."""


def require(condition: object, reason: str) -> None:
    """Raise :class:`Broken` with the reason when the condition does not hold."""
    if not condition:
        raise Broken(reason)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule: a name ``PART.RULE``, a level, a sentence that says what must hold, and the check.

    ``about`` is the capability that the rule is about; the rule does not apply where it is not declared. A rule that
    is ``alone`` makes drivers of its own while no other lives. The check returns when the rule holds, and raises
    :class:`Broken` or :class:`NotApplicable`; anything else that it raises breaks the rule too. ``seconds`` bounds it.
    """

    name: str
    level: Level
    sentence: str
    check: Callable[[Bench], Awaitable[None]]
    about: type[Capability] | None = None
    alone: bool = False
    seconds: float = RULE_SECONDS


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one rule, with the reason unless it passed, and how many seconds it took."""

    rule: str
    level: Level
    verdict: Verdict
    reason: str | None = None
    seconds: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All results of one driver in one place. ``version`` is what the driver's description says."""

    driver: str
    version: str
    place: str
    results: tuple[Result, ...]

    @property
    def grade(self) -> Level | None:
        """The highest level all of whose rules, and those of the levels below, pass or do not apply."""
        return grade_of(self.results)

    @property
    def failures(self) -> tuple[Result, ...]:
        """The rules that do not hold."""
        return tuple(each for each in self.results if each.verdict is Verdict.FAILED)


def grade_of(results: Sequence[Result]) -> Level | None:
    """Return the grade that results lead to; None below bronze, and for no results at all."""
    reached = None
    for level in Level if results else ():
        if any(each.level is level and each.verdict is Verdict.FAILED for each in results):
            break
        reached = level
    return reached


class RuleBook:
    """Collects rules in the order in which they are written. The decorators take a check; its docstring is the
    sentence of the rule."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def rule(
        self,
        name: str,
        level: Level,
        *,
        about: type[Capability] | None = None,
        alone: bool = False,
        seconds: float = RULE_SECONDS,
    ) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[Bench], Awaitable[None]]]:
        """A rule about the driver as a whole."""

        def add(check: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
            self._add(
                Rule(
                    name=name,
                    level=level,
                    sentence=_sentence(check),
                    check=check,
                    about=about,
                    alone=alone,
                    seconds=seconds,
                )
            )
            return check

        return add

    def of(
        self, capability: type[C], name: str, level: Level, *, seconds: float = RULE_SECONDS
    ) -> Callable[[Callable[[Bench, C], Awaitable[None]]], Callable[[Bench, C], Awaitable[None]]]:
        """A rule about one capability. The check is given the driver, or a session of its own, as that capability."""

        def add(check: Callable[[Bench, C], Awaitable[None]]) -> Callable[[Bench, C], Awaitable[None]]:
            async def on_driver(bench: Bench) -> None:
                await check(bench, bench.driver_as(capability))

            async def on_session(bench: Bench) -> None:
                async with bench.session() as session:
                    await check(bench, session.require(capability))

            made = on_driver if capability.capability in DRIVER_CAPABILITIES else on_session
            self._add(
                Rule(
                    name=f"{capability.capability}.{name}",
                    level=level,
                    sentence=_sentence(check),
                    check=made,
                    about=capability,
                    seconds=seconds,
                )
            )
            return check

        return add

    def _add(self, rule: Rule) -> None:
        if any(each.name == rule.name for each in self.rules):
            raise ValueError(f"there are two rules {rule.name!r}")
        self.rules.append(rule)


def _sentence(check: object) -> str:
    sentence = " ".join((inspect.getdoc(check) or "").split())
    if not sentence:
        raise ValueError(f"{check!r} has no docstring, which would be the sentence of its rule")
    return sentence


def table(rules: Sequence[Rule]) -> str:
    """Write rules as a table of Markdown, by level."""
    lines = ["| rule | level | what must hold |", "|---|---|---|"]
    for level in Level:
        lines += [f"| `{each.name}` | {level} | {each.sentence} |" for each in rules if each.level is level]
    return "\n".join(lines) + "\n"
