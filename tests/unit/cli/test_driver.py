"""``anvil driver`` in this process: names, files, arguments, exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from anvild.cli.driver_target import settings_from
from anvild.cli.driver_words import find_verb
from anvild.cli.exits import ExitCode, Failure
from anvild.core.grades import Grade, Grades, edition
from anvild.core.plugins import PluginInfo, PluginState
from anvild.sdk import Command, InvalidArgument


@pytest.fixture
def lamp(anvil: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert anvil("driver", "new", "lamp", "--single-file", "--dir", tmp_path) == ExitCode.OK
    capsys.readouterr()
    return tmp_path / "lamp.py"


@pytest.mark.parametrize("name", ["Lamp", "1lamp", "la mp", "../lamp", "", "lämp", "x" * 60])
def test_a_wrong_name_is_refused(anvil: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert anvil("driver", "new", name, "--dir", tmp_path) == ExitCode.USAGE
    assert "is no name for a driver" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == []


def test_nothing_is_overwritten(anvil: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--single-file",), ()):
        assert anvil("driver", "new", "lamp", *words, "--dir", tmp_path) == ExitCode.OK
    (tmp_path / "lamp.py").write_text("mine")
    (tmp_path / "anvild-driver-lamp/README.md").write_text("mine")
    for words in (("--single-file",), ()):
        assert anvil("driver", "new", "lamp", *words, "--dir", tmp_path) == ExitCode.CONFLICT
        assert "nothing was written" in capsys.readouterr().err
    assert (tmp_path / "lamp.py").read_text() == "mine"
    assert (tmp_path / "anvild-driver-lamp/README.md").read_text() == "mine"


def test_the_name_of_an_installed_plugin_is_taken(
    anvil: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert anvil("driver", "new", "commands", "--dir", tmp_path) == ExitCode.CONFLICT
    assert "is installed, from anvild" in capsys.readouterr().err
    assert anvil("driver", "new", "lamp", "--dir", tmp_path / "none") == ExitCode.USAGE


def test_a_check_tells_each_rule_and_the_grade(anvil: Any, lamp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert anvil("--json", "driver", "check", lamp) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["driver"], told["version"], told["grade"], told["kept"]) == ("lamp", "0.1.0", "platinum", False)
    assert {each["verdict"] for each in told["places"][0]["results"]} == {"passed", "not_applicable"}


def test_a_driver_below_what_is_required_ends_with_1(
    anvil: Any, lamp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The refusal of unknown devices is a rule of silver.
    lamp.write_text(lamp.read_text().replace("device.identity != self._device.serial or ", ""))
    assert anvil("driver", "check", lamp, "--require", "silver") == ExitCode.FAILED
    told = capsys.readouterr().out
    assert "FAILED  silver    open.unknown-device" in told
    assert told.endswith("lamp 0.1.0: bronze\n")


def test_a_driver_that_does_not_load_is_told_in_a_sentence(
    anvil: Any, lamp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lamp.write_text("import no_such_module_anywhere")
    for words, code, said in (
        ((lamp,), ExitCode.NOT_FOUND, "no_such_module_anywhere"),
        ((tmp_path / "none.py",), ExitCode.NOT_FOUND, "there is no file"),
        (("no-such-driver",), ExitCode.NOT_FOUND, "installed are"),
        (("json:loads",), ExitCode.NOT_FOUND, "names no class of drivers"),
        (("./no-such-program", "--place", "inprocess"), ExitCode.USAGE, "a program of its own"),
    ):
        assert anvil("driver", "check", *words) == code, words
        assert said in capsys.readouterr().err


def test_a_program_that_speaks_no_protocol_gets_no_grade(
    anvil: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert anvil("driver", "check", "--require", "bronze", "--", "echo", "hello") == ExitCode.FAILED
    assert "echo unknown: no grade" in capsys.readouterr().out


def test_the_grade_of_a_drop_in_is_kept_until_it_changes(
    anvil: Any, lamp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "anvild.toml"
    config.touch()
    place = tmp_path / "conf.d/drivers/lamp.py"
    place.parent.mkdir(parents=True)
    lamp.rename(place)
    info = PluginInfo(name="lamp", distribution=str(place), version="drop-in", api="1.0", state=PluginState.LOADED)
    assert anvil("driver", "check", "lamp", "--config", config) == ExitCode.OK
    grades = Grades(tmp_path / "data")
    assert [each.grade for each in grades.shown([info])] == ["platinum"]
    place.write_text(place.read_text() + "\n# changed\n")
    assert [each.grade for each in grades.shown([info])] == [None]


def test_the_grade_of_a_package_is_that_of_one_version(tmp_path: Path) -> None:
    grades = Grades(tmp_path)
    info = PluginInfo(name="lamp", distribution="lamp", version="1.0", api="1.0", state=PluginState.LOADED)
    assert grades.find(info) is None
    grades.keep("lamp", Grade(driver="lamp", edition=edition(info), level="gold", places=("inprocess",)))
    assert [each.grade for each in grades.shown([info])] == ["gold"]
    newer = PluginInfo(name="lamp", distribution="lamp", version="1.1", api="1.0", state=PluginState.LOADED)
    assert [each.grade for each in grades.shown([newer])] == [None]
    (tmp_path / "grades/lamp.json").write_text("{")
    assert grades.find(info) is None


def test_a_driver_is_driven_by_hand(anvil: Any, lamp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: object) -> Any:
        assert anvil("driver", "run", lamp, *words) == ExitCode.OK
        return json.loads(capsys.readouterr().out)

    assert told("describe")["name"] == "lamp"
    assert told("watch", "--count", 1)["device"]["identity"] == "lamp-0001"
    assert told("watch", "--count", 1, "--setting", "serial=lamp-9")["device"]["identity"] == "lamp-9"
    assert told("recover", "lamp-0001")["state"] == "running"
    assert [each["path"] for each in told("files.list", "/", "depth=3")] == ["/tmp"]
    assert told("files.mkdir", "/a/b", "mode=448")["mode"] == 0o700
    assert told("describe", "--place", "process")["version"] == "0.1.0"
    assert told("files.stat", "/tmp", "--command", f"{sys.executable} -m anvild.sdk.protocol '{lamp}'")["name"] == "tmp"
    assert anvil("driver", "run", lamp, "clean") == ExitCode.OK
    assert anvil("driver", "run", lamp, "rehearsal.unplug", "lamp-0001") == ExitCode.OK


def test_a_wrong_call_by_hand_is_told_in_a_sentence(anvil: Any, lamp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code, said in (
        (("fly",), ExitCode.USAGE, "expected CAPABILITY.VERB"),
        (("wings.fly",), ExitCode.USAGE, "there is no capability 'wings'"),
        (("files.fly",), ExitCode.USAGE, "it has: read, write"),
        (("files.list",), ExitCode.USAGE, "it needs path"),
        (("files.list", "/", "1", "2"), ExitCode.USAGE, "'2' is too much"),
        (("files.list", "/", "much"), ExitCode.USAGE, "Expected `int`"),
        (("files.stat", "/none"), ExitCode.NOT_FOUND, "there is no file"),
        (("exec.start", "--", "ls", "-l"), ExitCode.CONFLICT, "does not offer 'exec'"),
        (("files.list", "/", "--setting", "colour=red"), ExitCode.USAGE, "colour"),
    ):
        assert anvil("driver", "run", lamp, *words) == code, words
        assert said in capsys.readouterr().err, words


def test_words_become_the_arguments_of_a_verb() -> None:
    start = find_verb("exec.start")
    command = start.read(["cwd=/tmp", 'env={"A": "b"}', "sh", "-c", "A=1 cwd=/x"])["command"]
    assert command == Command(argv=("sh", "-c", "A=1 cwd=/x"), cwd="/tmp", env={"A": "b"})
    assert find_verb("apps.launch_app").read(["org.example", "-a", "b"]) == {
        "app": "org.example",
        "arguments": ["-a", "b"],
    }
    assert find_verb("exec.kill").read(["12", "number=15"]) == {"pid": 12, "number": 15}
    assert find_verb("files.write").sources == ("source",)
    assert find_verb("app_tests.run_tests").reports == ("report",)
    with pytest.raises(InvalidArgument, match=r"exec\.kill"):
        find_verb("exec.kill").read(["twelve"])


def test_settings_are_toml_where_they_can_be() -> None:
    assert settings_from(["simulate=2", "serial=lamp-1", "list=[1, 2]", "empty="]) == {
        "simulate": 2,
        "serial": "lamp-1",
        "list": [1, 2],
        "empty": "",
    }
    with pytest.raises(Failure, match="expected KEY=VALUE"):
        settings_from(["simulate"])
