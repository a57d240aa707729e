"""The long tail of services, by the library Apprise (github.com/caronc/apprise). Pure; `apprise_carrier.py` calls it.

The library says whether a service has taken a message, and little more: there are no ids and no receipts. So what it
has not taken is ambiguous, unless the service has answered with a refusal.
"""

import re
from urllib.parse import quote

from gateway.config.channels import Apprise as Settings
from gateway.errors import ConfigError
from gateway.model import PRIORITIES
from gateway.ports import Outcome
from gateway.providers.apprise_carrier import library
from gateway.providers.content import content_of
from gateway.providers.provider import Answer, Notify, Send, Unsendable

HERE = "{address}"
TYPE = {"critical": "warning", "high": "warning", "normal": "info", "low": "info"}
TYPES = ("info", "success", "warning", "failure")

_UNKNOWN = ("ambiguous", "", "", "")
_MESSAGE = ("refused", "message", "", "")
_CREDENTIAL = ("refused", "credential", "", "")
_RECIPIENT = ("refused", "recipient", "", "")

# what the carrier answers -> kind, blame, pause, learnt. Other 4xx blame the message, all else is ambiguous
CODES: dict[str, tuple[str, str, str, str]] = {
    "0": _UNKNOWN,
    "200": ("accepted", "", "", ""),
    "302": _UNKNOWN,
    "400": _MESSAGE,
    "401": _CREDENTIAL,
    "402": _MESSAGE,
    "403": _CREDENTIAL,
    "404": _RECIPIENT,
    "405": _MESSAGE,
    "408": _UNKNOWN,
    "410": _RECIPIENT,
    "413": _MESSAGE,
    "422": _MESSAGE,
    "425": _UNKNOWN,
    "429": _UNKNOWN,
    "500": _UNKNOWN,
    "502": _UNKNOWN,
    "503": _UNKNOWN,
    "504": _UNKNOWN,
}

# behind the host: whoever has an address must not choose where it leads
_template = re.compile(r"[A-Za-z0-9]{2,32}://[^/?{}]*([/?][^{}]*(\{address\}[^{}]*)*)?").fullmatch
# nothing that Apprise would take for several addresses, for another part of the URL, or for a variable
_address = re.compile(r"[A-Za-z0-9._@+:#!=-]{1,256}").fullmatch


class Apprise:
    """A channel of kind `apprise`."""

    __slots__ = ("_service",)

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError where the extra is not installed, or no service has such a URL."""
        at = f"channels.{name}"
        try:
            plugins = library().plugins
        except ImportError:
            raise ConfigError(
                f"{at}.kind: apprise needs `pip install 'bot-gateway[apprise]'`", field=f"{at}.kind"
            ) from None
        if not _template(settings.service):
            raise ConfigError(
                f"{at}.service: must be Apprise's URL of a service, with {HERE} only in its path or query",
                field=f"{at}.service",
            )
        if settings.proxies:
            raise ConfigError(f"{at}.proxies: Apprise makes its own connections", field=f"{at}.proxies")
        # what an address must look like is for each service to say: that is seen when there is one
        if plugins.url_to_dict(settings.service.replace(HERE, "12345678")) is None:
            raise ConfigError(f"{at}.service: Apprise knows no such service", field=f"{at}.service")
        self._service = settings.service

    def request(self, send: Send) -> Notify:
        """The notification of one attempt."""
        service = self._service
        if HERE in service:
            if not send.address:
                raise Unsendable("no address for this channel", blame="recipient")
            if not _address(send.address):
                raise Unsendable("the address has characters that it must not have", blame="recipient")
            service = service.replace(HERE, quote(send.address, safe=""))
        content = content_of(send.item, "apprise")
        if unknown := sorted(content.native.keys() - {"type"}):
            raise Unsendable(f"`apprise.{unknown[0]}` of the body is not part of a notification")
        if not content.text:
            raise Unsendable("the body has no text")
        kind = content.native.get("type", TYPE[PRIORITIES[send.item.lane]])
        if kind not in TYPES:
            raise Unsendable("`apprise.type` of the body must be info, success, warning or failure")
        return Notify(service, content.text, content.title, kind)

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What the library said. `status`: 200, it was taken; 0, it was not, and nobody knows why; else the service's
        own answer.
        """
        status = answer.status
        kind, blame, pause, learnt = CODES.get(str(status), _MESSAGE if 400 <= status < 500 else _UNKNOWN)
        if kind == "accepted":
            return Outcome(kind, "the service has taken it", status=status)
        why = f": HTTP {status}" if status else ", and does not say why"
        return Outcome(
            kind, f"the service has not taken it{why}", blame=blame, status=status, pause=pause, learnt=learnt
        )


PROVIDER = Apprise
