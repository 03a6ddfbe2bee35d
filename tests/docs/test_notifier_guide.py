"""The notifier guide tells the truth: its example loads, sends, and fails as it says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest

from anvild.capsules.notices import Notices
from anvild.core.errors import InvalidRequest
from anvild.core.notify import GuardedOutbound, Notifiers
from anvild.core.plugins import Plugins, PluginState
from anvild.core.store import Store
from anvild.sdk import InvalidArgument, Notice, Unavailable
from tests.support.receiver import Receiver, Said, receiver

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "notifier.md").read_text()


@pytest.fixture
def pager(tmp_path: Path) -> Notifiers:
    (example,) = re.findall(r"```python pager.py\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "pager.py").write_text(example)
    plugins = Plugins(allow=["pager"], drop_ins=tmp_path)
    assert [each.state for each in plugins.listing() if each.name == "pager"] == [PluginState.LOADED]
    return Notifiers(plugins.notifiers(), GuardedOutbound([ip_network("127.0.0.0/8")]))


async def test_the_example_sends(pager: Notifiers, store: Store) -> None:
    notice = Notices(store).test()
    async with receiver() as there:
        config = pager.check("pager", {"url": there.url, "number": "4711"})
        assert await pager.send("pager", config, notice) == "200 OK: {}"
        (got,) = there.got
        assert got.json == {"number": "4711", "id": notice.id, "text": f"{notice.title}\n{notice.text}"}
        await _fails(pager, config, notice, there)
    with pytest.raises(InvalidRequest):
        pager.check("pager", {"url": there.url, "number": "x"})


async def _fails(pager: Notifiers, config: Mapping[str, str], notice: Notice, there: Receiver) -> None:
    there.answer = Said(404, b"no such number")
    with pytest.raises(InvalidArgument, match="nobody has this pager: 404 Not Found: no such number"):
        await pager.send("pager", config, notice)
    there.answer = Said(503, b"", {"retry-after": "30"})
    with pytest.raises(Unavailable) as caught:
        await pager.send("pager", config, notice)
    assert caught.value.details == {"retry_after": 30.0}


def test_the_fields_of_a_notice_are_told() -> None:
    table = GUIDE[GUIDE.index("## The notice") :]
    for field in msgspec.structs.fields(Notice):
        assert f"`{field.name}`" in table
