"""Settings of the kind `teams`."""

from typing import Annotated

from gateway.config.channels.base import Channel
from gateway.config.table import about


class Teams(Channel, frozen=True, kw_only=True, tag="teams"):
    """A workflow of Microsoft Teams that starts with a webhook."""

    url: Annotated[str, about("the workflow's URL: who has it can post", hide="all", max_length=2048)]
    # learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/add-incoming-webhook
    rate: Annotated[
        float,
        about("attempts of the workflow in the long run; 0: no limit of ours", "per second", ge=0, le=1e6),
    ] = 4.0
