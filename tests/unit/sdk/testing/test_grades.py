"""Grades, profiles and the table of rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from anvild.sdk.testing import (
    RULES,
    Level,
    Profile,
    ProfileError,
    Report,
    Result,
    Verdict,
    grade_of,
    load_profile,
    table,
)


def results(**verdicts: str) -> list[Result]:
    return [Result(rule=level, level=Level(level), verdict=Verdict(verdict)) for level, verdict in verdicts.items()]


@pytest.mark.parametrize(
    ("found", "grade"),
    [
        (results(bronze="passed", silver="passed", gold="passed", platinum="passed"), Level.PLATINUM),
        (results(bronze="passed", silver="not_applicable", gold="passed", platinum="failed"), Level.GOLD),
        (results(bronze="passed", silver="failed", gold="passed", platinum="passed"), Level.BRONZE),
        (results(bronze="failed", silver="passed"), None),
        (results(bronze="passed"), Level.PLATINUM),
        ([], None),
    ],
)
def test_a_grade_is_the_highest_level_below_which_nothing_fails(found: list[Result], grade: Level | None) -> None:
    assert grade_of(found) is grade
    assert Report(driver="d", version="1", place="p", results=tuple(found)).grade is grade


def test_levels_are_in_order() -> None:
    assert Level.GOLD.reaches(Level.SILVER)
    assert Level.GOLD.reaches(Level.GOLD)
    assert not Level.SILVER.reaches(Level.GOLD)


def test_every_level_has_rules_and_every_rule_a_sentence() -> None:
    assert {rule.level for rule in RULES} == set(Level)
    for rule in RULES:
        assert rule.sentence.endswith("."), rule.name
        assert rule.name.count(".") == 1
        assert "|" not in rule.sentence, rule.name
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert table(RULES).count("\n") == len(RULES) + 2


def test_a_profile(tmp_path: Path) -> None:
    (tmp_path / "app.bin").write_bytes(b"x")
    path = tmp_path / "conformance.toml"
    path.write_text(
        'appear_seconds = 5\nsettings = { simulate = 2 }\nfiles.scratch = "/data"\n'
        '[app]\npackage = "app.bin"\nidentifier = "org.example"\n'
    )
    profile = load_profile(path)
    assert profile.settings == {"simulate": 2}
    assert profile.app is not None
    assert profile.app.package == tmp_path / "app.bin"
    assert profile.exec == Profile().exec
    assert profile.files.scratch == "/data"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("scratch = 1", "scratch"),
        ("appear_seconds = -1", "appear_seconds"),
        ("= 1", "Invalid"),
        ('[app]\npackage = "none"\nidentifier = "a"', "there is no file"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "conformance.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=told) as caught:
        load_profile(path)
    assert str(path) in str(caught.value)
