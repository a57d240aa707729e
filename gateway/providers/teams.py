"""A workflow of Microsoft Teams that begins with "When a Teams webhook request is received". Pure.

202 says that a run of the workflow has begun; whether its card appears, only the workflow's own history tells. It
knows no repetition.
"""

import msgspec

from gateway import __version__
from gateway.config.channels import Teams as Settings
from gateway.ports import Outcome
from gateway.providers.between import between
from gateway.providers.content import Content, content_of
from gateway.providers.provider import Answer, Request, Send, Unsendable, json_of, line, retry_after
from gateway.providers.settings import check_url

MAX_BODY = 28 * 1024  # bytes of a request; a workflow begins with a longer one, and then cannot post it
WAIT = 30.0  # s; where nothing says how long

_MESSAGE = ("refused", "message", "", "")
_CREDENTIAL = ("refused", "credential", "", "")
_ACCOUNT = ("refused", "account", "", "")
_LATER = ("retry", "", "account", "")

# `error.code`, or "HTTP <status>" where that is not here: kind, blame, pause, learnt
CODES: dict[str, tuple[str, str, str, str]] = {
    "AuthorizationFailed": _CREDENTIAL,
    "DirectApiAuthorizationRequired": _CREDENTIAL,
    "MisMatchingOAuthClaims": _CREDENTIAL,
    "WorkflowNotFound": _ACCOUNT,
    "WorkflowDisabled": _ACCOUNT,
    "WorkflowTriggerIsNotEnabled": _ACCOUNT,
    "TriggerInputSchemaMismatch": _MESSAGE,
    "HTTP 400": _MESSAGE,
    "HTTP 401": _CREDENTIAL,
    "HTTP 403": _CREDENTIAL,
    "HTTP 404": _ACCOUNT,
    "HTTP 410": _ACCOUNT,
    "HTTP 413": _MESSAGE,
    "HTTP 429": _LATER,
    "HTTP 503": _LATER,
}


class Teams:
    """A channel of kind `teams`."""

    __slots__ = ("_url",)

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError for a URL that cannot be used."""
        check_url(settings.url, settings, f"channels.{name}.url")
        self._url = settings.url

    def request(self, send: Send) -> Request:
        """The message as an Adaptive Card, with the fields of one that the sender wrote under `teams`."""
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.2",
        } | _card(content_of(send.item, "teams"))
        kind = "application/vnd.microsoft.card.adaptive"
        attachment = {"contentType": kind, "contentUrl": None, "content": card}
        body = msgspec.json.encode({"type": "message", "attachments": [attachment]})
        if len(body) > MAX_BODY:
            raise Unsendable(f"the card is larger than {MAX_BODY} bytes")
        return Request(
            url=self._url,
            headers={
                "content-type": "application/json",
                "user-agent": f"bot-gateway/{__version__}",
                # shown in the history of the workflow's runs
                "x-ms-client-tracking-id": send.ref,
            },
            body=body,
        )

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means: its code, else its status."""
        status = answer.status
        run = line(answer.headers.get("x-ms-workflow-run-id", ""))
        # 200 is of a workflow that answers for itself, or of another server
        if status == 202 or (status == 200 and run):
            return Outcome("accepted", f"HTTP {status}", provider_id=run, status=status)
        error = json_of(answer).get("error")
        code = error.get("code") if isinstance(error, dict) else None
        known = code if isinstance(code, str) and code in CODES else ""
        means = CODES.get(known or f"HTTP {status}")
        if status < 400 or not means:
            return between(answer, wall)
        kind, blame, pause, learnt = means
        return Outcome(
            kind,
            f"HTTP {status}: {known}" if known else f"HTTP {status}",
            blame=blame,
            retry_after=(retry_after(answer, wall) or WAIT) if pause else 0.0,
            status=status,
            code=known,
            pause=pause,
            learnt=learnt,
        )


def _card(content: Content) -> dict[str, object]:
    """The fields of a card: title and text, unless the sender wrote a `body` of its own."""
    blocks: list[dict[str, object]] = []
    if content.title:
        blocks.append(
            {"type": "TextBlock", "text": content.title, "wrap": True, "weight": "Bolder", "size": "Medium"}
        )
    if content.text:
        blocks.append({"type": "TextBlock", "text": content.text, "wrap": True})
    return {"body": blocks} | content.native


PROVIDER = Teams
