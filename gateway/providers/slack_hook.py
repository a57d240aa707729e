"""An incoming webhook of Slack (docs.slack.dev/messaging/sending-messages-using-incoming-webhooks). Pure.

It answers with a word: `ok`, or what was wrong. It gives no id and knows no repetition. Whoever has its URL can post.
"""

import re

import msgspec

from gateway import __version__
from gateway.config.channels import SlackHook as Settings
from gateway.ports import Outcome
from gateway.providers.between import between
from gateway.providers.content import content_of
from gateway.providers.provider import Answer, Request, Send
from gateway.providers.settings import check_url
from gateway.providers.slack import coded, fields_of

_code = re.compile(rb"[a-z][a-z_]{0,63}").fullmatch

_MESSAGE = ("refused", "message", "", "")
_CREDENTIAL = ("refused", "credential", "", "")
_ACCOUNT = ("refused", "account", "", "")
_LATER = ("retry", "", "account", "")

# the word: kind, blame, pause, learnt. What is wrong with the webhook's only place is the account's: no one else's
# address is at fault
CODES: dict[str, tuple[str, str, str, str]] = {
    "rate_limited": _LATER,
    "ratelimited": _LATER,
    "rollup_error": ("ambiguous", "", "", ""),
    "invalid_payload": _MESSAGE,
    "user_not_found": _MESSAGE,
    "no_text": _MESSAGE,
    "missing_text_or_fallback_or_attachments": _MESSAGE,
    "too_many_attachments": _MESSAGE,
    "invalid_blocks": _MESSAGE,
    "invalid_blocks_format": _MESSAGE,
    "invalid_token": _CREDENTIAL,
    "no_service": _CREDENTIAL,
    "no_service_id": _CREDENTIAL,
    "no_active_hooks": _CREDENTIAL,
    "no_team": _CREDENTIAL,
    "team_disabled": _ACCOUNT,
    "channel_not_found": _ACCOUNT,
    "channel_is_archived": _ACCOUNT,
    "action_prohibited": _ACCOUNT,
    "posting_to_general_channel_denied": _ACCOUNT,
}


class SlackHook:
    """A channel of kind `slack_hook`."""

    __slots__ = ("_mrkdwn", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError for a URL that cannot be used."""
        check_url(settings.url, settings, f"channels.{name}.url")
        self._url = settings.url
        self._mrkdwn = settings.mrkdwn

    def request(self, send: Send) -> Request:
        """The message, with what the sender wrote under `slack_hook`, but for `channel`: old webhooks obey it."""
        fields = fields_of(content_of(send.item, "slack_hook"), self._mrkdwn)
        fields.pop("channel", None)
        return Request(
            url=self._url,
            headers={"content-type": "application/json", "user-agent": f"bot-gateway/{__version__}"},
            body=msgspec.json.encode(fields),
        )

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means: its word, else its status."""
        word, status = answer.body.strip(), answer.status
        if status == 200 and word == b"ok":
            return Outcome("accepted", "HTTP 200", status=status)
        code = word.decode() if _code(word) else ""
        if code in CODES:
            return coded(code, CODES[code], answer, wall)
        if status == 429:
            return coded("rate_limited", _LATER, answer, wall)
        return between(answer, wall)


PROVIDER = SlackHook
