"""Settings of the kind `slack_hook`."""

from typing import Annotated

from gateway.config.channels.base import Channel
from gateway.config.table import about
from gateway.templates.syntax import Markup


class SlackHook(Channel, frozen=True, kw_only=True, tag="slack_hook"):
    """An incoming webhook of Slack."""

    url: Annotated[str, about("the webhook's URL: who has it can post", hide="all", max_length=2048)]
    mrkdwn: Annotated[bool, about("messages are written in Slack's mrkdwn; else text is shown as it is")] = (
        False
    )
    # docs.slack.dev/apis/web-api/rate-limits, "Incoming webhooks"
    rate: Annotated[
        float,
        about("attempts of the webhook in the long run; 0: no limit of ours", "per second", ge=0, le=1e6),
    ] = 1.0

    @property
    def markup(self) -> Markup:
        """See Channel."""
        return "slack" if self.mrkdwn else "plain"
