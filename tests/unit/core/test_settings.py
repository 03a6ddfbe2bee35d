"""Settings: precedence, and errors that say where, what and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from anvild.core.settings import Settings, SettingsError, load_settings


def config(tmp_path: Path, text: str, **drop_ins: str) -> Path:
    (tmp_path / "conf.d").mkdir()
    for name, content in drop_ins.items():
        (tmp_path / "conf.d" / f"{name}.toml").write_text(content)
    path = tmp_path / "anvild.toml"
    path.write_text(text)
    return path


def test_defaults_need_no_file(tmp_path: Path) -> None:
    settings = load_settings(config(tmp_path, ""), {}, {})
    assert settings == Settings(config_dir=tmp_path)
    assert settings.store_url == "sqlite:////var/lib/anvild/anvild.sqlite"


def test_later_sources_win(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        'listen = "127.0.0.1:1"\n[web]\nmax_connections = 1\nmax_body = 4096\n[drivers.lamp]\nwatts = 40\n',
        a='[web]\nmax_connections = 2\n[drivers.lamp]\ncolour = "red"\n',
        b="[web]\nmax_connections = 3\n",
    )
    settings = load_settings(
        path, {"listen": "127.0.0.1:9"}, {"ANVIL_LISTEN": "127.0.0.1:8", "ANVIL_WEB_MAX_BODY": "8192"}
    )
    assert settings.listen == "127.0.0.1:9"
    assert settings.web.max_connections == 3
    assert settings.web.max_body == 8192
    assert settings.drivers == {"lamp": {"watts": 40, "colour": "red"}}


def test_environment(tmp_path: Path) -> None:
    environ = {
        "ANVIL_BEARER_TOKEN": "sesame",
        "ANVIL_PLUGINS_ALLOW": "one, two",
        "ANVIL_CAPSULES_PROXY_OPEN": "True",
        "ANVIL_CAPSULES_NETWORK": "internet",
        "ANVIL_CAPSULES_NETWORK_PRIVATE": "10.0.0.0/8, fd12::/32",
        "ANVIL_DATA_DIR": str(tmp_path),
        "ANVIL_URL": "http://client.only",
        "OTHER": "x",
    }
    settings = load_settings(config(tmp_path, ""), {}, environ)
    assert settings.capsules.proxy_open is True
    assert settings.capsules.network == "internet"
    assert settings.capsules.network_private == ("10.0.0.0/8", "fd12::/32")
    assert settings.identity.bearer_token == "sesame"
    assert settings.plugins.allow == ("one", "two")
    assert settings.data_dir == tmp_path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('lissten = "x"', "anvild.toml: lissten: there is no such setting; did you mean 'listen'?"),
        ("[web]\nmax_bdy = 1", "anvild.toml: web.max_bdy: there is no such setting; did you mean 'max_body'?"),
        ("[web]\nmax_body = 'a'", "anvild.toml: web.max_body: expected `int`, got `str`"),
        ("[web]\nmax_body = 1", "anvild.toml: web.max_body: expected `int` >= 1024"),
        ("[store", "anvild.toml: not valid TOML"),
        ("[notify]\nallow = ['10.0.0.1/8']", "anvild.toml: notify: 10.0.0.1/8 has host bits set"),
        ("[capsules]\nnetwork = 'everything'", "anvild.toml: capsules.network: "),
        (
            "[capsules]\nnetwork = ['packages.example.org', 'no host']",
            "anvild.toml: capsules: network[1]: 'no host' is no name",
        ),
        ("[capsules]\nnetwork = ['10.0.0.0/8']", "anvild.toml: capsules: network[0]: 10.0.0.0/8 is private"),
        ("[capsules]\nnetwork_private = ['0.0.0.0/0']", "anvild.toml: capsules: network_private[0]: 0.0.0.0/0 holds"),
        ("[capsules]\nproxy_domain = '*.example.org'", "anvild.toml: capsules.proxy_domain: expected `str` matching"),
        ("log_level = 'loud'", "anvild.toml: log_level: invalid enum value 'loud'"),
    ],
)
def test_errors_name_the_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(config(tmp_path, text), {}, {})
    assert said in str(caught.value)


def test_the_source_of_a_wrong_value_is_the_one_that_gave_it(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"the environment variable ANVIL_WEB_MAX_BODY: web.max_body: expected `int`"
    ):
        load_settings(config(tmp_path, "[web]\nmax_body = 4096"), {}, {"ANVIL_WEB_MAX_BODY": "much"})
    with pytest.raises(SettingsError, match=r"ANVIL_CAPSULES_PROXY_OPEN: capsules.proxy_open: expected `bool`"):
        load_settings(None, {}, {"ANVIL_CAPSULES_PROXY_OPEN": "yes"})
    with pytest.raises(SettingsError, match="the flag --listen: listen: expected `str`, got `int`"):
        load_settings(None, {"listen": 3}, {})


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no such file"):
        load_settings(tmp_path / "none.toml", {}, {})
