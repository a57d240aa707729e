"""Settings of the kind `telegram`."""

from typing import Annotated, ClassVar, Literal

from gateway.config.channels.base import Channel
from gateway.config.table import about
from gateway.templates.syntax import Markup


class Telegram(Channel, frozen=True, kw_only=True, tag="telegram"):
    """A bot of the Telegram Bot API."""

    CONTACT: ClassVar[str] = "telegram"

    token: Annotated[str, about("the bot's token, `123456:ABC…`", hide="all")]
    parse_mode: Annotated[
        Literal["", "HTML", "MarkdownV2"],
        about("markup in which messages are written; empty: plain text, shown as it is"),
    ] = ""
    url: Annotated[str, about("the Bot API; another server of it", hide="query", max_length=2048)] = (
        "https://api.telegram.org"
    )
    # core.telegram.org/bots/faq, "My bot is hitting limits"
    rate: Annotated[
        float,
        about("attempts of the bot in the long run; 0: no limit of ours", "per second", ge=0, le=1e6),
    ] = 30.0
    recipient_rate: Annotated[
        float, about("attempts to one chat; 0: no limit of ours", "per second", ge=0, le=1e6)
    ] = 1.0

    @property
    def markup(self) -> Markup:
        """See Channel."""
        modes: dict[str, Markup] = {"HTML": "html", "MarkdownV2": "telegram"}
        return modes.get(self.parse_mode, "plain")
