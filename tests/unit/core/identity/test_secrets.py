"""The texts that act as credentials, and the box that seals what must be read again."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from anvild.core.identity import SecretBox, SecretBoxError, load_secret_box
from anvild.core.identity.secret_texts import digest, is_api_key, new_api_key, new_secret, same


def test_api_keys_have_their_forms() -> None:
    assert re.fullmatch(r"wrn_[0-9a-f]{32}", new_api_key("wrn"))
    assert re.fullmatch(r"anvil_live_[A-Za-z0-9]{32}", new_api_key("live"))
    assert len({new_api_key("live") for _ in range(100)}) == 100
    assert is_api_key(new_api_key("wrn"))
    assert is_api_key(new_api_key("live"))
    for text in ("", "wrn_", "wrn_" + "g" * 32, "wrn_" + "a" * 33, "anvil_live_" + "é" * 32, new_api_key("wrn") + "\n"):
        assert not is_api_key(text)


def test_digests_are_compared_whole() -> None:
    secret = new_secret()
    assert len(secret) == 64
    assert same(secret, secret)
    assert not same(secret, secret[:-1])
    assert not same("", "\udcff")
    assert digest("a") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


def test_a_sealed_text_opens_with_its_key_and_context_alone() -> None:
    box = SecretBox(b"k" * 32)
    sealed = box.seal(b"secret", "one")
    assert "secret" not in sealed
    assert box.seal(b"secret", "one") != sealed
    assert box.open(sealed, "one") == b"secret"
    for other, context in ((SecretBox(b"x" * 32), "one"), (box, "two")):
        with pytest.raises(SecretBoxError, match="another key"):
            other.open(sealed, context)
    for broken in ("", "AAAA", sealed[:-4], "not base64!"):
        with pytest.raises(SecretBoxError):
            box.open(broken, "one")


def test_the_key_file_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    sealed = load_secret_box(data_dir, {}).seal(b"x", "c")
    file = data_dir / "secret.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_secret_box(data_dir, {}).open(sealed, "c") == b"x"
    assert [path.name for path in data_dir.iterdir()] == ["secret.key"]


def test_a_credential_of_the_service_manager_wins(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "anvild.key").write_text("ab" * 32)
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    sealed = load_secret_box(tmp_path, environ).seal(b"x", "c")
    assert not (tmp_path / "secret.key").exists()
    assert SecretBox(bytes.fromhex("ab" * 32)).open(sealed, "c") == b"x"
    (credentials / "anvild.key").unlink()
    load_secret_box(tmp_path, environ)
    assert (tmp_path / "secret.key").exists()


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [("ab" * 32, 0o640, "chmod 600"), ("short", 0o600, "64 hex digits"), ("ab", 0o600, "has 1 bytes and needs 32")],
)
def test_a_wrong_key_file_says_what_to_mend(tmp_path: Path, content: str, mode: int, said: str) -> None:
    file = tmp_path / "secret.key"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(SecretBoxError, match=said):
        load_secret_box(tmp_path, {})
