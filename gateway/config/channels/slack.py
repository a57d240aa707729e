"""Settings of the kind `slack`."""

from typing import Annotated, ClassVar

from gateway.config.channels.base import Channel
from gateway.config.table import about
from gateway.templates.syntax import Markup


class Slack(Channel, frozen=True, kw_only=True, tag="slack"):
    """An app of the Slack Web API."""

    CONTACT: ClassVar[str] = "slack"

    token: Annotated[str, about("the app's bot token, `xoxb-…`", hide="all")]
    mrkdwn: Annotated[bool, about("messages are written in Slack's mrkdwn; else text is shown as it is")] = (
        False
    )
    url: Annotated[str, about("the Web API", hide="query", max_length=2048)] = "https://slack.com/api"
    # docs.slack.dev/apis/web-api/rate-limits, "Posting messages"
    recipient_rate: Annotated[
        float, about("attempts to one conversation; 0: no limit of ours", "per second", ge=0, le=1e6)
    ] = 1.0

    @property
    def markup(self) -> Markup:
        """See Channel."""
        return "slack" if self.mrkdwn else "plain"
