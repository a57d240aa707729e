"""Templates through the hub: publish, versions, channels, a restart."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Channel, Config, Routes, Session, load
from gateway.errors import Conflict, Invalid, Limited, NotFound
from gateway.hub import texts as module
from gateway.model import Publish
from gateway.records import ClientRecord
from gateway.templates import TemplateRow, Variant
from gateway.templates.syntax import Markup
from tests.hub.rig import KEY, Conn, Rig


class Chat(Channel, frozen=True, kw_only=True, tag="chat"):
    @property
    def markup(self) -> Markup:
        return "slack"


CONFIG = Config(
    channels={"chat": Chat()}, routes=Routes(default=("chat",)), session=Session(offline_deadline=1)
)
OTP = [
    Variant(text="Your code: {{code}}", title="Code"),
    Variant(locale="de", text="Dein Code: {{code}}"),
    Variant(channel="chat", text="*{{code}}* <{{link}}>"),
]


@pytest.fixture
def rig() -> Rig:
    rig = Rig(CONFIG)
    put(rig, OTP)
    return rig


def put(rig: Rig, variants: list[Variant], expected: int | None = None, name: str = "otp") -> TemplateRow:
    row: TemplateRow = rig.run(rig.hub.put_template(name, variants, "api:ops", expected))
    return row


def restart(rig: Rig) -> None:
    """Everything that memory holds is read anew."""
    rig.hub._load(rig.store.open())
    rig.pass_(0.01)


def body(rig: Rig, template: str, values: Any = None, to: str = "ada") -> dict[str, Any]:
    raw = msgspec.Raw(msgspec.json.encode(values)) if values is not None else msgspec.UNSET
    item = rig.hub.intake.check(KEY, Publish(to=to, template=template, body=raw), rig.hub.core.now())
    assert item.body is not None
    made: dict[str, Any] = msgspec.json.decode(item.body)
    return made


def test_a_message_has_its_text_and_keeps_values_and_version(rig: Rig) -> None:
    assert body(rig, "otp", {"code": 42, "link": "x"}) == {
        "text": "Your code: 42",
        "title": "Code",
        "template": "otp@1",
        "values": {"code": 42, "link": "x"},
    }


def test_in_the_locale_of_its_client(rig: Rig) -> None:
    rig.run(rig.hub.put_client("ada", ClientRecord(locale="de-AT")))
    assert body(rig, "otp", {"code": 1, "link": ""})["text"] == "Dein Code: 1"


def test_an_older_version_can_be_named_and_the_newest_is_meant_otherwise(rig: Rig) -> None:
    assert put(rig, [Variant(text="v2")], 1).version == 2
    assert body(rig, "otp")["text"] == "v2"
    assert body(rig, "otp@1", {"code": 1, "link": ""})["text"] == "Your code: 1"


@pytest.mark.parametrize(
    ("template", "values", "code", "field"),
    [
        ("gone", None, "template_unknown", "$.template"),
        ("otp@2", None, "template_unknown", "$.template"),
        ("otp@", None, "template_unknown", "$.template"),
        ("otp@01", None, "template_unknown", "$.template"),
        ("otp@x", None, "template_unknown", "$.template"),
        ("otp@٣", None, "template_unknown", "$.template"),
        ("otp", None, "template_values", "$.body.code"),
        ("otp", [1], "template_values", "$.body"),
        ("otp", "text", "template_values", "$.body"),
        # of a variant that this message may never need
        ("otp", {"code": 1}, "template_values", "$.body.link"),
        ("otp", {"code": 1, "link": None}, "template_values", "$.body.link"),
    ],
)
def test_what_cannot_be_filled_is_refused_at_publish(
    rig: Rig, template: str, values: Any, code: str, field: str
) -> None:
    with pytest.raises(Invalid) as wrong:
        body(rig, template, values)
    assert (wrong.value.code, wrong.value.field) == (code, field)


def test_a_channel_gets_its_own_text_of_the_version_of_acceptance_after_a_restart_too(rig: Rig) -> None:
    rig.publish("ada", b'{"code":"<1>","link":"l"}', template="otp")
    put(rig, [Variant(text="v2")])
    restart(rig)
    rig.pass_(2)
    (sent,) = rig.sent.bodies
    assert sent is not None
    assert msgspec.json.decode(sent)["text"] == "*&lt;1&gt;* <l>"


def test_of_a_version_that_is_gone_the_text_of_acceptance_is_sent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VERSIONS", 1)
    rig.publish("ada", b'{"code":1,"link":"l"}', template="otp")
    put(rig, [Variant(text="v2")])
    assert rig.hub.texts.versions("otp") == [2]
    rig.pass_(2)
    (sent,) = rig.sent.bodies
    assert sent is not None
    assert msgspec.json.decode(sent)["text"] == "Your code: 1"


def test_two_writers_do_not_overwrite_each_other(rig: Rig) -> None:
    with pytest.raises(Conflict):
        put(rig, OTP, 0)
    with pytest.raises(Conflict):
        put(rig, OTP, 2)
    assert put(rig, OTP, 1).version == 2
    assert put(rig, OTP, 0, name="new").version == 1


def test_an_ended_template_can_be_named_no_more_and_begins_behind_its_last_version(rig: Rig) -> None:
    put(rig, [])
    with pytest.raises(Invalid):
        body(rig, "otp", {"code": 1, "link": ""})
    with pytest.raises(NotFound):
        put(rig, [])
    assert rig.hub.texts.names() == []
    restart(rig)
    assert rig.hub.texts.names() == []
    assert put(rig, OTP).version == 3
    assert rig.hub.texts.names() == ["otp"]


def test_a_repetition_is_told_by_its_values_not_by_the_text_of_the_day(rig: Rig) -> None:
    first = rig.publish("ada", b'{"code":1,"link":"l"}', template="otp", key="k")
    put(rig, [Variant(text="v2 {{code}}")])
    again = rig.publish("ada", b'{"link":"l","code":1}', template="otp", key="k")
    assert again.results[0] == (first.results[0][0], True)


def test_of_two_writers_at_once_one_is_told_so_and_nobody_else_is_harmed(rig: Rig) -> None:
    """Seen to take the store down: both wrote the same version."""

    async def both() -> list[Any]:
        calls = (rig.hub.put_template("otp", OTP, "a", None), rig.hub.put_template("otp", [], "b", None))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    first, second = rig.run(both())
    assert first.version == 2
    assert isinstance(second, Conflict)
    assert put(rig, OTP).version == 3


def test_ended_names_make_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEMPLATES", 2)
    put(rig, OTP, name="b")
    with pytest.raises(Limited):
        put(rig, OTP, name="c")
    put(rig, [], name="b")
    put(rig, OTP, name="c")


def test_a_msgpack_client_can_name_one(rig: Rig) -> None:
    sink = Conn(rig, "nobody")
    values = msgspec.msgpack.encode({"code": 7, "link": "l"})
    rig.hub.publish(
        KEY, Publish(to="ada", template="otp", body=msgspec.Raw(values), key="k"), sink, 0, msgpack=True
    )
    rig.pass_(0.01)
    again = rig.publish("ada", b'{"code":7,"link":"l"}', template="otp", key="k")
    assert again.results[0] == (sink.results[0][0], True)
    with pytest.raises(Invalid) as wrong:
        rig.hub.publish(
            KEY, Publish(to="ada", template="otp", body=msgspec.Raw(b"\xc1")), sink, 1, msgpack=True
        )
    assert wrong.value.code == "body_invalid"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ('kind = "slack"\ntoken = "xoxb-1"\nmrkdwn = true', "a&lt;!channel&gt;_b_"),
        ('kind = "slack"\ntoken = "xoxb-1"\nmrkdwn = false', "a<!channel>_b_"),
        ('kind = "telegram"\ntoken = "1:A"\nparse_mode = "HTML"', "a&lt;!channel&gt;_b_"),
        ('kind = "telegram"\ntoken = "1:A"\nparse_mode = "MarkdownV2"', r"a<\!channel\>\_b\_"),
        ('kind = "telegram"\ntoken = "1:A"', "a<!channel>_b_"),
        ('kind = "discord"\nurl = "https://discord.com/api/webhooks/1/t"', r"a<\!channel\>\_b\_"),
        ('kind = "smtp"\nhost = "mail.example"\nsender = "a@b.cd"', "a<!channel>_b_"),
    ],
)
def test_a_value_is_escaped_as_the_channel_s_settings_ask(tmp_path: Path, settings: str, text: str) -> None:
    (tmp_path / "gateway.toml").write_text(f"[channels.x]\n{settings}\n")
    rig = Rig(load(tmp_path / "gateway.toml", {}))
    row = put(rig, [Variant(text="a{{v}}")])
    assert rig.hub.texts.on_channel(row, {"v": "<!channel>_b_"}, "x", None).text == text
