import email
import email.policy
from collections.abc import Callable
from typing import Any

import pytest

from gateway.config.channels import Smtp as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import smtp as module
from gateway.providers.mail import GONE, enhanced_of
from gateway.providers.provider import Answer, Mail, Send, Unsendable
from gateway.providers.smtp import Smtp
from tests.providers.pages import table_of

NOW = 1_790_000_005.75
PASSWORD = "pass-of-the-test"
Make = Callable[..., Item]


def mail(**named: Any) -> Smtp:
    wanted = {"host": "smtp.example.com", "sender": "Shop <shop@example.com>"}
    return Smtp("mail", Settings(**wanted | named))


def sent(item: Item, address: str = "ann@example.net", attempt: int = 1) -> Send:
    return Send(
        item=item, id=encode_id(item.id), attempt=attempt, trace="", address=address, wall=NOW, ttl=60.0
    )


def read(made: Mail) -> Any:
    return email.message_from_bytes(made.message.as_bytes(), policy=email.policy.default)


# -- mails -------------------------------------------------------------------------------------------------------------


def test_a_plain_mail(message: Make) -> None:
    item = message(b'{"text": "hello\\n.\\nworld", "title": "Hi\\r\\nBcc: eve@example.net"}')
    made = mail(reply_to="help@example.com").request(sent(item))
    assert (made.sender, made.recipient) == ("shop@example.com", "ann@example.net")
    assert made.message.as_bytes() == (
        b"From: Shop <shop@example.com>\r\n"
        b"To: ann@example.net\r\n"
        b"Reply-To: help@example.com\r\n"
        b"Subject: Hi Bcc: eve@example.net\r\n"
        b"Date: Mon, 21 Sep 2026 14:13:20 -0000\r\n"
        b"Message-ID: <%b@example.com>\r\n"
        b"Auto-Submitted: auto-generated\r\n"
        b'Content-Type: text/plain; charset="utf-8"\r\n'
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"MIME-Version: 1.0\r\n"
        b"\r\n"
        b"hello\r\n.\r\nworld\r\n" % encode_id(item.id).encode()
    )


def test_text_and_html_are_alternatives_in_seven_bits(message: Make) -> None:
    body = (
        '{"text": "naïve ☃", "html": "<p>naïve ☃</p>", "title": "Grüße ☃", "smtp": {"headers": {"X-A": "b"}}}'
    )
    made = mail(sender="Bücher <shop@example.com>").request(sent(message(body.encode())))
    assert made.message.as_bytes().isascii()
    seen = read(made)
    assert seen.get_body(("plain",)).get_content().split() == ["naïve", "☃"]
    assert seen.get_body(("html",)).get_content().strip() == "<p>naïve ☃</p>"
    assert seen.get_content_type() == "multipart/alternative"
    assert (seen["subject"], seen["x-a"]) == ("Grüße ☃", "b")
    assert seen["from"].addresses[0].display_name == "Bücher"


def test_html_alone(message: Make) -> None:
    seen = read(mail(subject="News").request(sent(message(b'{"html": "<p>a</p>"}'))))
    assert (seen.get_content_type(), seen["subject"]) == ("text/html", "News")
    assert seen.get_content().strip() == "<p>a</p>"


def test_every_attempt_makes_the_same_mail(message: Make) -> None:
    item = message(b'{"text": "a", "html": "b"}')
    first, second = (mail().request(sent(item, attempt=n)) for n in (1, 2))
    assert first.message.as_bytes() == second.message.as_bytes()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"7",
        b'""',
        b'{"text": "a", "smtp": {"to": "eve@example.net"}}',
        b'{"text": "a", "smtp": {"headers": []}}',
        b'{"text": "a", "smtp": {"headers": {"Bcc": "eve@example.net"}}}',
        b'{"text": "a", "smtp": {"headers": {"content-type": "text/html"}}}',
        b'{"text": "a", "smtp": {"headers": {"Resent-To": "eve@example.net"}}}',
        b'{"text": "a", "smtp": {"headers": {"X-A": "b\\r\\nBcc: eve@example.net"}}}',
        b'{"text": "a", "smtp": {"headers": {"X-A\\r\\nBcc": "eve@example.net"}}}',
        b'{"text": "a", "smtp": {"headers": {"X-A": 1}}}',
        b'{"text": "a", "smtp": {"headers": {"X-A": "b", "x-a": "c"}}}',
    ],
)
def test_what_makes_no_mail(message: Make, body: bytes) -> None:
    with pytest.raises(Unsendable) as wrong:
        mail().request(sent(message(body)))
    assert wrong.value.blame == "message"


@pytest.mark.parametrize(
    "address", ["", "ann", "a@b\r\nRCPT TO:<eve@example.net>", "a b@example.net", "<a@b>"]
)
def test_bad_addresses_are_the_recipients_fault(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        mail().request(sent(message(b'"a"'), address))
    assert wrong.value.blame == "recipient"


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"host": "smtp.example.com:25"}, "host"),
        ({"host": "user@smtp.example.com"}, "host"),
        ({"host": "smtp.example.com/x"}, "host"),
        ({"host": "[::1]"}, "host"),
        ({"host": "sm tp"}, "host"),
        ({"sender": "Shop"}, "sender"),
        ({"reply_to": "a@b\nc"}, "reply_to"),
        ({"username": "u"}, "password"),
        ({"password": PASSWORD}, "username"),
        ({"security": "none"}, "security"),
        ({"proxies": ("http://proxy.example:80",)}, "proxies"),
    ],
)
def test_settings_that_cannot_work_are_named(named: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        mail(**named)
    assert wrong.value.field == f"channels.mail.{field}"
    assert PASSWORD not in str(wrong.value)


def test_settings_that_work() -> None:
    mail(host="::1", security="none")
    mail(host="10.0.0.1", security="none", allow_private=True)
    assert PASSWORD not in repr(Settings(host="a", sender="a@b", username="u", password=PASSWORD))


# -- replies -----------------------------------------------------------------------------------------------------------


def reply(stage: str, code: int, text: str = "") -> Answer:
    return Answer(code, {"stage": stage}, text.encode())


def replies() -> dict[str, list[Answer]]:
    """Every row of the page, as servers say it."""
    found = {
        "250 data": [reply("data", 250, "2.0.0 Ok: queued as 4Xk2")],
        **{
            f"4xx {stage}": [reply(stage, 450, "4.2.0 greylisted"), reply(stage, 451)]
            for stage in module.STAGES
        },
        **{f"421 {stage}": [reply(stage, 421, "4.3.2 closing")] for stage in ("mail", "rcpt", "data")},
        **{f"5xx {stage}": [reply(stage, 554), reply(stage, 500, "5.5.1 what?")] for stage in module.STAGES},
        **{f"{code} {stage}": [reply(stage, code)] for stage, code in module.REPLIES},
        "5.7 rcpt": [reply("rcpt", 550, "5.7.1 relaying denied"), reply("rcpt", 554, "5.7.0 no")],
        "5.7 data": [reply("data", 550, "5.7.1 spam"), reply("data", 554, "5.7.0 no")],
    }
    for code in module.ENHANCED:
        whole = code if code.count(".") == 2 else f"{code}.9"
        found[code] = [reply(stage, n, f"{whole} so") for stage in ("rcpt", "data") for n in (550, 554)]
    return found


@pytest.mark.parametrize("code", replies())
def test_replies_are_what_the_page_says(code: str) -> None:
    table = table_of("smtp")
    assert table.keys() == replies().keys()
    for answer in replies()[code]:
        outcome = mail().outcome(answer, NOW)
        assert (outcome.kind, outcome.blame, outcome.pause, outcome.learnt) == table[code], answer
        assert outcome.retry_after == (60.0 if outcome.kind == "retry" else 0.0)
        assert not outcome.receipt


def test_the_sender_is_not_the_recipient() -> None:
    outcome = mail().outcome(reply("mail", 550, "5.1.1 unknown sender"), NOW)
    assert (outcome.blame, outcome.learnt) == ("account", "")
    outcome = mail().outcome(reply("connect", 554, "5.4.1 no"), NOW)
    assert (outcome.blame, outcome.learnt) == ("account", "")


def test_outcomes_whole() -> None:
    assert mail().outcome(reply("data", 250, "2.0.0 Ok: queued as 4Xk2"), NOW) == Outcome(
        "accepted", "data: 250 2.0.0", code="250 2.0.0", provider_id="4Xk2"
    )
    assert mail().outcome(reply("data", 250, "OK"), NOW) == Outcome("accepted", "data: 250", code="250")
    assert mail().outcome(reply("rcpt", 550, "5.1.1 <ann@example.net>\nno such\tuser"), NOW) == Outcome(
        "refused",
        "rcpt: 550 5.1.1 <ann@example.net> no such user",
        blame="recipient",
        code="550 5.1.1",
        learnt="gone",
    )


def test_what_is_said_of_a_password_is_not_told() -> None:
    outcome = mail().outcome(reply("auth", 535, f"5.7.8 no: AUTH PLAIN {PASSWORD}"), NOW)
    assert outcome == Outcome("refused", "auth: 535 5.7.8", blame="credential", code="535 5.7.8")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("5.1.1 no", "5.1.1"),
        ("<a@b>: 5.1.10 null MX", "5.1.10"),
        ("Requested action", ""),
        ("host 10.5.1.1 said no", ""),
        ("5.1.1.2", ""),
        ("3.1.1", ""),
    ],
)
def test_enhanced_codes(text: str, code: str) -> None:
    assert enhanced_of(text) == code


def test_only_these_codes_say_that_an_address_is_gone() -> None:
    for code in module.ENHANCED:
        assert (mail().outcome(reply("rcpt", 550, code), NOW).learnt == "gone") == (code in GONE)
    assert set(GONE) == {"5.1.1", "5.1.6", "5.1.10"}
