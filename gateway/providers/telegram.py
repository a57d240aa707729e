"""A bot of the Telegram Bot API (core.telegram.org/bots/api#sendmessage). Pure.

The Bot API has no codes beyond the status: what happened is said in words (`description`). The words below are those of
its own server (github.com/tdlib/telegram-bot-api, telegram-bot-api/Client.cpp). There is no key that would make a
repetition known: after a gateway's error nobody knows whether the message went out.
"""

import html
import re
from urllib.parse import quote

import msgspec

from gateway import __version__
from gateway.config.channels import Telegram as Settings
from gateway.errors import ConfigError
from gateway.ports import Outcome
from gateway.providers.between import between
from gateway.providers.content import Content, content_of
from gateway.providers.provider import (
    MAX_RETRY_AFTER,
    Answer,
    Request,
    Send,
    Unsendable,
    json_of,
    line,
    retry_after,
)
from gateway.providers.settings import check_url

MAX_TEXT = 4096  # code points, after the markup is taken out
WAIT = 1.0  # s; where Telegram does not say how long: what it allows in one chat

_token = re.compile(r"[1-9][0-9]{0,15}:[A-Za-z0-9_-]{1,64}").fullmatch
_chat = re.compile(r"-?[1-9][0-9]{0,15}|@[A-Za-z][A-Za-z0-9_]{3,31}").fullmatch
_special = re.compile(r"[_*\[\]()~`>#+\-=|{}.!\\]")

# how a description starts: kind, blame, pause, learnt; the longest that fits counts
CODES: dict[str, tuple[str, str, str, str]] = {
    "Too Many Requests": ("retry", "", "account", ""),
    "Unauthorized": ("refused", "credential", "", ""),
    "Not Found": ("refused", "credential", "", ""),
    "Misdirected Request": ("refused", "account", "", ""),
    "Bad Request: Logged out": ("refused", "account", "", ""),
    "Bad Request: group chat was upgraded to a supergroup chat": ("retry", "", "", "moved"),
    "Bad Request: chat not found": ("refused", "recipient", "", ""),
    "Bad Request: private chat not found": ("refused", "recipient", "", ""),
    "Bad Request: PEER_ID_INVALID": ("refused", "recipient", "", ""),
    "Bad Request: not enough rights": ("refused", "recipient", "", ""),
    "Bad Request: have no rights to send a message": ("refused", "recipient", "", ""),
    "Bad Request: need administrator rights": ("refused", "recipient", "", ""),
    "Bad Request: CHAT_WRITE_FORBIDDEN": ("refused", "recipient", "", ""),
    "Bad Request: CHAT_SEND_PLAIN_FORBIDDEN": ("refused", "recipient", "", ""),
    "Bad Request: CHAT_RESTRICTED": ("refused", "recipient", "", ""),
    "Bad Request: TOPIC_CLOSED": ("refused", "recipient", "", ""),
    "Bad Request: TOPIC_DELETED": ("refused", "recipient", "", ""),
    "Bad Request": ("refused", "message", "", ""),
    "Request Entity Too Large": ("refused", "message", "", ""),
    "Forbidden: bot was blocked by the user": ("refused", "recipient", "", "opted_out"),
    "Forbidden: bot was kicked from": ("refused", "recipient", "", "opted_out"),
    "Forbidden: user is deactivated": ("refused", "recipient", "", "gone"),
    "Forbidden: the group chat was deleted": ("refused", "recipient", "", "gone"),
    "Forbidden: bot is not a member of": ("refused", "recipient", "", ""),
    "Forbidden: bot can't initiate conversation with a user": ("refused", "recipient", "", ""),
    "Forbidden: bot can't send messages to": ("refused", "recipient", "", ""),
    "Forbidden": ("refused", "recipient", "", ""),
    "Internal Server Error": ("ambiguous", "", "", ""),
    "Bad Gateway": ("ambiguous", "", "", ""),
    "Gateway Timeout": ("ambiguous", "", "", ""),
}


class Telegram:
    """A channel of kind `telegram`."""

    __slots__ = ("_mode", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError for a token that cannot be one, or a URL that would show it."""
        check_url(settings.url, settings, f"channels.{name}.url")
        if not _token(settings.token):
            field = f"channels.{name}.token"
            raise ConfigError(f"{field}: must be a bot's token, `123456:ABC…`", field=field)
        self._url = f"{settings.url.rstrip('/')}/bot{quote(settings.token, safe=':')}/sendMessage"
        self._mode = settings.parse_mode

    def request(self, send: Send) -> Request:
        """sendMessage. What the sender wrote under `telegram` is added, but goes to no other chat."""
        if not _chat(send.address):
            raise Unsendable("not a Telegram chat: a number, or @name", blame="recipient")
        content = content_of(send.item, "telegram")
        mode = content.native.get("parse_mode", self._mode)
        fields = {"text": _text(content, mode)} if content.text else {}
        if mode:
            fields["parse_mode"] = mode
        body = fields | content.native | {"chat_id": send.address}
        text = body.get("text")
        if not isinstance(text, str) or not text:
            raise Unsendable("the message has no text")
        # with markup only Telegram can tell
        if not mode and len(text.strip()) > MAX_TEXT:
            raise Unsendable(f"the text is longer than {MAX_TEXT} characters")
        return Request(
            url=self._url,
            headers={"content-type": "application/json", "user-agent": f"bot-gateway/{__version__}"},
            body=msgspec.json.encode(body),
        )

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means. Only Telegram's own words are quoted: other servers may repeat the URL, and with it the
        token.
        """
        status, said = answer.status, json_of(answer)
        if said.get("ok") is True:
            result = said.get("result")
            found = result.get("message_id", "") if isinstance(result, dict) else ""
            return Outcome("accepted", f"HTTP {status}", provider_id=str(found), status=status)
        words = said.get("description")
        if not isinstance(words, str):
            return between(answer, wall)
        start = max((known for known in CODES if words.startswith(known)), key=len, default="")
        if not start:
            return between(answer, wall)
        kind, blame, pause, learnt = CODES[start]
        parameters = said.get("parameters")
        told = parameters if isinstance(parameters, dict) else {}
        address = str(told.get("migrate_to_chat_id", "")) if learnt == "moved" else ""
        if learnt == "moved" and not _chat(address):
            kind, blame, learnt, address = "refused", "recipient", "", ""
        return Outcome(
            kind,
            # the seconds would make each a reason of its own
            line(f"HTTP {status}: {start if pause else words}"),
            blame=blame,
            retry_after=_wait(told, answer, wall) if pause else 0.0,
            status=status,
            code=str(said.get("error_code", "")),
            pause=pause,
            learnt=learnt,
            address=address,
        )


def _text(content: Content, mode: str) -> str:
    """The title, where there is one, is a line of its own above the text."""
    if not content.title:
        return content.text
    match mode:
        case "HTML":
            title = f"<b>{html.escape(content.title, quote=False)}</b>"
        case "MarkdownV2":
            title = "*" + _special.sub(r"\\\g<0>", content.title) + "*"
        case _:
            title = content.title
    return f"{title}\n\n{content.text}"


def _wait(told: dict[str, object], answer: Answer, wall: float) -> float:
    seconds = told.get("retry_after")
    if isinstance(seconds, int) and seconds > 0:
        return float(min(seconds, MAX_RETRY_AFTER))
    return retry_after(answer, wall) or WAIT


PROVIDER = Telegram
