"""A webhook of Discord (docs.discord.com/developers/resources/webhook#execute-webhook).

Discord says with every answer how much may still be sent, and bans an address that does not listen: after 10,000
answers 401, 403 or 429 in 10 minutes, or when a webhook is used again after 404. So the channel rests after each of the
former, and of the latter this provider keeps one bit; otherwise it is pure. A repetition is not known to Discord:
`nonce` is not for webhooks.
"""

import math
import re
from urllib.parse import urlsplit

import msgspec

from gateway import __version__
from gateway.config.channels import Discord as Settings
from gateway.errors import ConfigError
from gateway.ports import Outcome
from gateway.providers.between import between
from gateway.providers.content import content_of
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

MAX_TEXT = 2000  # characters
WAIT = 5.0  # s; after 429 where Discord does not say how long
GUARD = 6.0  # s; after 401 and 403: 100 of them in 10 minutes, of 10,000

_path = re.compile(r"(.*/api)(?:/v[0-9]{1,3})?(/webhooks/[0-9]{1,20}/[A-Za-z0-9_-]{1,256})/?").fullmatch
_number = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?").fullmatch

_MESSAGE = ("refused", "message", "", "")
_ACCOUNT = ("refused", "account", "", "")
_CREDENTIAL = ("refused", "credential", "", "")
_LATER = ("retry", "", "account", "")
_AGAIN = ("retry", "", "", "")

# `code`; "HTTP <status>" where it is not here: kind, blame, pause, learnt. What is wrong with the webhook's only place
# is the account's: no one else's address is at fault
CODES: dict[str, tuple[str, str, str, str]] = {
    "10015": _CREDENTIAL,
    "40001": _CREDENTIAL,
    "50014": _CREDENTIAL,
    "50027": _CREDENTIAL,
    "10003": _ACCOUNT,
    "10004": _ACCOUNT,
    "40333": _ACCOUNT,
    "50001": _ACCOUNT,
    "50008": _ACCOUNT,
    "50013": _ACCOUNT,
    "50024": _ACCOUNT,
    "50041": _ACCOUNT,
    "50073": _ACCOUNT,
    "50083": _ACCOUNT,
    "160005": _ACCOUNT,
    "220001": _ACCOUNT,
    "220004": _ACCOUNT,
    "20016": _LATER,
    "20028": _LATER,
    "20029": _LATER,
    "40004": _LATER,
    "40006": _LATER,
    "40062": _LATER,
    "130000": _LATER,
    "20009": _MESSAGE,
    "30015": _MESSAGE,
    "40005": _MESSAGE,
    "40067": _MESSAGE,
    "50006": _MESSAGE,
    "50035": _MESSAGE,
    "50045": _MESSAGE,
    "50068": _MESSAGE,
    "50109": _MESSAGE,
    "200000": _MESSAGE,
    "200001": _MESSAGE,
    "220002": _MESSAGE,
    "220003": _MESSAGE,
    "240000": _MESSAGE,
    "HTTP 400": _MESSAGE,
    "HTTP 401": _CREDENTIAL,
    "HTTP 403": _ACCOUNT,
    "HTTP 404": _CREDENTIAL,
    "HTTP 429": _LATER,
    "HTTP 502": _AGAIN,
    "HTTP 503": _AGAIN,
}


class Discord:
    """A channel of kind `discord`."""

    __slots__ = ("_gone", "_thread", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError for a URL that is none of a webhook."""
        field = f"channels.{name}.url"
        check_url(settings.url, settings, field)
        url = urlsplit(settings.url)
        path = _path(url.path)
        if not path or url.query or url.fragment:
            raise ConfigError(f"{field}: must be https://discord.com/api/webhooks/<id>/<token>", field=field)
        # without a version it would be an old one
        self._url = f"{url.scheme}://{url.netloc}{path[1]}/v10{path[2]}?wait=true"
        self._thread = settings.thread
        self._gone = False

    def request(self, send: Send) -> Request:
        """Execute the webhook, and wait until the message is saved. No mention in the text reaches anyone, unless the
        sender says so under `discord`.
        """
        if self._gone:
            raise Unsendable("Discord has answered 404: this webhook is not used again", blame="credential")
        content = content_of(send.item, "discord")
        fields: dict[str, object] = {"allowed_mentions": {"parse": []}}
        if content.text:
            title = f"**{content.title}**\n" if content.title else ""
            fields["content"] = title + content.text
        fields |= content.native
        text = fields.get("content")
        if isinstance(text, str) and len(text) > MAX_TEXT:
            raise Unsendable(f"the text is longer than {MAX_TEXT} characters")
        # else a webhook that no application owns drops components without a word
        components = "&with_components=true" if "components" in fields else ""
        thread = f"&thread_id={self._thread}" if self._thread else ""
        return Request(
            url=f"{self._url}{thread}{components}",
            headers={
                "content-type": "application/json",
                # Discord may turn away what is not of this form
                "user-agent": f"DiscordBot (bot-gateway, {__version__})",
            },
            body=msgspec.json.encode(fields),
        )

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means. A pause may come with any of them: the next one would be one too many."""
        status, said = answer.status, json_of(answer)
        if status in (200, 204) and (status == 204 or isinstance(said.get("id"), str)):
            wait = _spent(answer)
            return Outcome(
                "accepted",
                f"HTTP {status}",
                provider_id=str(said.get("id", "")),
                status=status,
                retry_after=wait,
                pause="account" if wait else "",
            )
        code = str(said.get("code", ""))
        means = CODES.get(code) or CODES.get(f"HTTP {status}")
        if status < 400 or not means:
            return between(answer, wall)
        # with a code it is Discord's own
        self._gone = self._gone or (status == 404 and bool(code))
        kind, blame, pause, learnt = means
        wait = _wait(said, answer, wall)
        return Outcome(
            kind,
            _reason(status, said),
            blame=blame,
            retry_after=wait or (WAIT if pause else 0.0),
            status=status,
            code=code,
            pause=pause or ("account" if wait else ""),
            learnt=learnt,
        )


def _wait(said: dict[str, object], answer: Answer, wall: float) -> float:
    """Seconds for which to be silent. Both places may name them, at times not the same; 0: none."""
    named = said.get("retry_after")
    asked = float(named) if isinstance(named, int | float) and 0 < named <= MAX_RETRY_AFTER else 0.0
    guard = GUARD if answer.status in (401, 403) else 0.0
    return max(math.ceil(asked), retry_after(answer, wall), _spent(answer), guard)


def _spent(answer: Answer) -> float:
    """Seconds until the bucket is full again, where nothing is left in it; else 0."""
    if answer.headers.get("x-ratelimit-remaining", "").strip() != "0":
        return 0.0
    after = answer.headers.get("x-ratelimit-reset-after", "").strip()
    return min(float(after), float(MAX_RETRY_AFTER)) if _number(after) else 0.0


def _reason(status: int, said: dict[str, object]) -> str:
    """Discord's own words; those of a 429 say nothing more."""
    words = said.get("message")
    if status == 429 or not isinstance(words, str):
        return f"HTTP {status}"
    return line(f"HTTP {status}: {words}")


PROVIDER = Discord
