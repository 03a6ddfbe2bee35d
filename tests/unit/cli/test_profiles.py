"""Where the client connects, and which key it sends where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anvild.cli.exits import ExitCode, Failure
from anvild.cli.profiles import Profile, credentials_file, load_profiles, remove_profile, resolve, save_profile

LAB = Profile(key="wrn_lab", url="http://lab:8470")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "ANVIL_DATA_DIR": str(tmp_path / "data")}


def ready(directory: Path, url: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "ready.json").write_text(json.dumps({"event": "ready", "url": url, "pid": 1}))


def test_nothing_known_means_the_default_address(environ: dict[str, str]) -> None:
    found = resolve(url=None, key=None, profile=None, environ=environ)
    assert (found.url, found.key) == ("http://127.0.0.1:8470", None)


def test_the_daemon_of_this_machine_is_found(environ: dict[str, str], tmp_path: Path) -> None:
    ready(tmp_path / "data", "http://127.0.0.1:43127")
    found = resolve(url=None, key=None, profile=None, environ=environ)
    assert found.url == "http://127.0.0.1:43127"
    assert found.origin.endswith("ready.json")


def test_a_profile_may_name_a_data_directory(environ: dict[str, str], tmp_path: Path) -> None:
    ready(tmp_path / "other", "http://127.0.0.1:5")
    save_profile(environ, "default", Profile(key="wrn_x", data_dir=str(tmp_path / "other")))
    found = resolve(url=None, key=None, profile=None, environ=environ)
    assert (found.url, found.key) == ("http://127.0.0.1:5", "wrn_x")


def test_the_environment_goes_before_the_default_profile(environ: dict[str, str]) -> None:
    save_profile(environ, "default", LAB)
    found = resolve(url=None, key=None, profile=None, environ={**environ, "ANVIL_URL": "http://b:1"})
    assert (found.url, found.key) == ("http://b:1", None)


def test_flags_and_a_named_profile_go_before_the_environment(environ: dict[str, str]) -> None:
    save_profile(environ, "lab", LAB)
    other = {**environ, "ANVIL_URL": "http://b:1", "ANVIL_API_KEY": "wrn_env"}
    assert resolve(url=None, key=None, profile="lab", environ=other).key == "wrn_lab"
    found = resolve(url="http://c:1/", key="wrn_flag", profile=None, environ=other)
    assert (found.url, found.key) == ("http://c:1", "wrn_flag")


def test_a_key_is_not_sent_to_a_stranger(environ: dict[str, str]) -> None:
    save_profile(environ, "default", LAB)
    assert resolve(url="http://evil:1", key=None, profile=None, environ=environ).key is None
    assert resolve(url="http://lab:8470/", key=None, profile=None, environ=environ).key == "wrn_lab"


def test_the_file_is_private_and_keeps_other_profiles(environ: dict[str, str]) -> None:
    path = save_profile(environ, "a b", Profile(key='wrn_"quoted"\\', url="http://a:1"))
    save_profile(environ, "lab", LAB)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_profiles(environ) == {"a b": Profile(key='wrn_"quoted"\\', url="http://a:1"), "lab": LAB}
    remove_profile(environ, "a b")
    assert list(load_profiles(environ)) == ["lab"]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_file_that_others_can_read_is_refused(environ: dict[str, str]) -> None:
    save_profile(environ, "lab", LAB).chmod(0o644)
    with pytest.raises(Failure, match="chmod 600"):
        load_profiles(environ)


@pytest.mark.parametrize("text", ["lab = 3", "[lab]\nurl = 'http://a'", "not toml"])
def test_a_broken_file_is_named(environ: dict[str, str], text: str) -> None:
    path = credentials_file(environ)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(Failure, match=r"credentials\.toml"):
        load_profiles(environ)


@pytest.mark.parametrize("url", ["lab:8470", "ftp://lab", "http://", "unix:x"])
def test_an_address_that_is_none(environ: dict[str, str], url: str) -> None:
    with pytest.raises(Failure) as failure:
        resolve(url=url, key=None, profile=None, environ=environ)
    assert failure.value.exit_code is ExitCode.USAGE


def test_a_socket_is_an_address(environ: dict[str, str]) -> None:
    assert resolve(url="unix:/run/anvild/api", key=None, profile=None, environ=environ).url == "unix:/run/anvild/api"
    listening = {**environ, "ANVIL_LISTEN": "unix:/run/x"}
    assert resolve(url=None, key=None, profile=None, environ=listening).url == "unix:/run/x"


def test_unknown_profiles(environ: dict[str, str]) -> None:
    save_profile(environ, "lab", LAB)
    with pytest.raises(Failure, match="there are: lab"):
        resolve(url=None, key=None, profile="lba", environ=environ)
    with pytest.raises(Failure, match="no profile 'lba'"):
        remove_profile(environ, "lba")
