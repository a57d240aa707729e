"""Templates through the hub: publish, versions, channels, a restart."""

from typing import Any, ClassVar

import msgspec
import pytest

from gateway.config import Channel, Config, Routes, Session
from gateway.errors import Conflict, Invalid, NotFound
from gateway.hub import texts as module
from gateway.model import Publish
from gateway.records import ClientRecord
from gateway.templates import TemplateRow, Variant
from tests.hub.rig import KEY, Rig


class Chat(Channel, frozen=True, kw_only=True, tag="chat"):
    MARKUP: ClassVar[Any] = "slack"


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
