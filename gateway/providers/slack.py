"""An app of the Slack Web API (docs.slack.dev/reference/methods/chat.postMessage). Pure.

HTTP 200 says nothing yet: `ok` does. Slack knows no repetition: `client_msg_id` is its own clients' (slackapi/
java-slack-sdk, issue 852), so it is not sent.
"""

import re

import msgspec

from gateway import __version__
from gateway.config.channels import Slack as Settings
from gateway.errors import ConfigError
from gateway.ports import Outcome
from gateway.providers.between import between
from gateway.providers.content import Content, content_of
from gateway.providers.provider import Answer, Request, Send, Unsendable, json_of, retry_after
from gateway.providers.settings import check_url

MAX_TEXT = 40_000  # characters; Slack cuts off what is longer, and says nothing
WAIT = 30.0  # s; where Slack does not say how long

_token = re.compile(r"[!-~]{1,512}").fullmatch
_conversation = re.compile(r"[CDG][A-Z0-9]{2,31}|[UW][A-Z0-9]{2,31}|#[^\s#]{1,80}").fullmatch
_code = re.compile(r"[a-z][a-z0-9_]{0,63}").fullmatch

_MESSAGE = ("refused", "message", "", "")
_RECIPIENT = ("refused", "recipient", "", "")
_CREDENTIAL = ("refused", "credential", "", "")
_ACCOUNT = ("refused", "account", "", "")
_LATER = ("retry", "", "account", "")
_UNKNOWN = ("ambiguous", "", "", "")

# `error`: kind, blame, pause, learnt
CODES: dict[str, tuple[str, str, str, str]] = {
    "ratelimited": _LATER,
    "rate_limited": _LATER,
    "message_limit_exceeded": _LATER,
    "service_unavailable": _LATER,
    "team_added_to_org": _LATER,
    "org_login_required": _LATER,
    "request_timeout": ("retry", "", "", ""),
    "fatal_error": _UNKNOWN,
    "internal_error": _UNKNOWN,
    "channel_not_found": _RECIPIENT,
    "not_in_channel": _RECIPIENT,
    "is_archived": _RECIPIENT,
    "messages_tab_disabled": _RECIPIENT,
    "restricted_action": _RECIPIENT,
    "restricted_action_read_only_channel": _RECIPIENT,
    "restricted_action_thread_only_channel": _RECIPIENT,
    "ekm_access_denied": _RECIPIENT,
    "no_permission": _RECIPIENT,
    "access_denied": _RECIPIENT,
    "team_not_found": _RECIPIENT,
    "invalid_auth": _CREDENTIAL,
    "not_authed": _CREDENTIAL,
    "account_inactive": _CREDENTIAL,
    "token_expired": _CREDENTIAL,
    "token_revoked": _CREDENTIAL,
    "not_allowed_token_type": _CREDENTIAL,
    "missing_scope": _CREDENTIAL,
    "two_factor_setup_required": _CREDENTIAL,
    "is_bot": _CREDENTIAL,
    "accesslimited": _ACCOUNT,
    "app_access_restricted": _ACCOUNT,
    "enterprise_is_restricted": _ACCOUNT,
    "team_access_not_granted": _ACCOUNT,
    "deprecated_endpoint": _ACCOUNT,
    "method_deprecated": _ACCOUNT,
    "unknown_method": _ACCOUNT,
    "no_text": _MESSAGE,
    "msg_too_long": _MESSAGE,
    "msg_blocks_too_long": _MESSAGE,
    "invalid_blocks": _MESSAGE,
    "invalid_blocks_format": _MESSAGE,
    "markdown_text_conflict": _MESSAGE,
    "attachment_payload_limit_exceeded": _MESSAGE,
    "too_many_attachments": _MESSAGE,
    "too_many_contact_cards": _MESSAGE,
    "invalid_metadata_format": _MESSAGE,
    "invalid_metadata_schema": _MESSAGE,
    "metadata_too_large": _MESSAGE,
    "metadata_must_be_sent_from_app": _MESSAGE,
    "missing_file_data": _MESSAGE,
    "cannot_reply_to_message": _MESSAGE,
    "restricted_action_non_threadable_channel": _MESSAGE,
    "restricted_action_thread_locked": _MESSAGE,
    "as_user_not_supported": _MESSAGE,
    "send_on_behalf_not_allowed": _MESSAGE,
    "duplicate_channel_not_found": _MESSAGE,
    "duplicate_message_not_found": _MESSAGE,
    "draft_already_deleted": _MESSAGE,
    "draft_already_sent": _MESSAGE,
    "draft_has_conflict": _MESSAGE,
    "draft_not_found": _MESSAGE,
    "slack_connect_canvas_sharing_blocked": _MESSAGE,
    "slack_connect_file_link_sharing_blocked": _MESSAGE,
    "slack_connect_lists_sharing_blocked": _MESSAGE,
    "invalid_arg_name": _MESSAGE,
    "invalid_arguments": _MESSAGE,
    "invalid_array_arg": _MESSAGE,
    "invalid_charset": _MESSAGE,
    "invalid_form_data": _MESSAGE,
    "invalid_post_type": _MESSAGE,
    "missing_post_type": _MESSAGE,
}


class Slack:
    """A channel of kind `slack`."""

    __slots__ = ("_mrkdwn", "_token", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError for a token that cannot be one, or a URL that would show it."""
        check_url(settings.url, settings, f"channels.{name}.url")
        if not _token(settings.token):
            field = f"channels.{name}.token"
            raise ConfigError(f"{field}: must be a bot token, `xoxb-…`", field=field)
        self._url = f"{settings.url.rstrip('/')}/chat.postMessage"
        self._token = settings.token
        self._mrkdwn = settings.mrkdwn

    def request(self, send: Send) -> Request:
        """chat.postMessage. What the sender wrote under `slack` is added, but goes to no other conversation."""
        if not _conversation(send.address):
            raise Unsendable("not a Slack conversation: an id such as C0123ABCD, or #name", blame="recipient")
        body = fields_of(content_of(send.item, "slack"), self._mrkdwn) | {"channel": send.address}
        return Request(
            url=self._url,
            headers={
                "authorization": f"Bearer {self._token}",
                "content-type": "application/json; charset=utf-8",
                "user-agent": f"bot-gateway/{__version__}",
            },
            body=msgspec.json.encode(body),
        )

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means: `ok`, else the code in `error`; else the status."""
        said = json_of(answer)
        code = said.get("error")
        if said.get("ok") is True:
            place = [said[name] for name in ("channel", "ts") if isinstance(said.get(name), str)]
            return Outcome(
                "accepted", f"HTTP {answer.status}", provider_id=":".join(place), status=answer.status
            )
        if said.get("ok") is False and isinstance(code, str) and _code(code):
            return coded(code, CODES.get(code, _MESSAGE), answer, wall)
        if answer.status == 429:
            return coded("ratelimited", _LATER, answer, wall)
        return between(answer, wall)


def fields_of(content: Content, mrkdwn: bool) -> dict[str, object]:
    """The text of a message, under its title, and what the sender wrote for Slack alone. Raises Unsendable."""
    fields: dict[str, object] = {}
    # Slack takes one or the other
    if content.text and "markdown_text" not in content.native:
        title, text = _escaped(content.title), content.text if mrkdwn else _escaped(content.text)
        head = f"*{title}*" if mrkdwn else title
        fields = {"text": f"{head}\n{text}" if title else text} | ({} if mrkdwn else {"mrkdwn": False})
    fields |= content.native
    whole = fields.get("text")
    if isinstance(whole, str) and len(whole) > MAX_TEXT:
        raise Unsendable(f"the text is longer than {MAX_TEXT} characters")
    return fields


def coded(code: str, means: tuple[str, str, str, str], answer: Answer, wall: float) -> Outcome:
    """The outcome of an answer that names an error."""
    kind, blame, pause, learnt = means
    return Outcome(
        kind,
        f"HTTP {answer.status}: {code}",
        blame=blame,
        retry_after=(retry_after(answer, wall) or WAIT) if pause else 0.0,
        status=answer.status,
        code=code,
        pause=pause,
        learnt=learnt,
    )


def _escaped(text: str) -> str:
    """`&`, `<` and `>` are Slack's control characters: `<!channel>` would call everyone."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


PROVIDER = Slack
