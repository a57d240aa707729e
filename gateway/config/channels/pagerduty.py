"""Settings of the kind `pagerduty`."""

from typing import Annotated

from gateway.config.channels.base import Channel
from gateway.config.table import about


class PagerDuty(Channel, frozen=True, kw_only=True, tag="pagerduty"):
    """An integration of a PagerDuty service, by the Events API v2."""

    routing_key: Annotated[str, about("the integration key, 32 letters and digits", hide="all")]
    url: Annotated[
        str,
        about("where the Events API is; `https://events.eu.pagerduty.com` in the EU", max_length=2048),
    ] = "https://events.pagerduty.com"
