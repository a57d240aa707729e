"""Settings of the kind `teams_graph`."""

from typing import Annotated, ClassVar

from gateway.config.channels.base import Channel
from gateway.config.table import about


class TeamsGraph(Channel, frozen=True, kw_only=True, tag="teams_graph"):
    """Microsoft Teams through Graph, in the name of a user."""

    CONTACT: ClassVar[str] = "teams"

    tenant: Annotated[str, about("the tenant's id or domain", pattern=r"^[A-Za-z0-9.-]{1,253}\Z")]
    client_id: Annotated[str, about("the application's id", pattern=r"^[0-9A-Fa-f-]{36}\Z")]
    client_secret: Annotated[
        str, about("the application's secret; empty: it is a public client", hide="all")
    ] = ""
    refresh_token: Annotated[str, about("of the user in whose name messages are sent", hide="all")]
    url: Annotated[str, about("Graph, with its version", hide="query", max_length=2048)] = (
        "https://graph.microsoft.com/v1.0"
    )
    login_url: Annotated[str, about("where access tokens come from", hide="query", max_length=2048)] = (
        "https://login.microsoftonline.com"
    )
    # learn.microsoft.com/graph/api/chatmessage-post: 10 messages every 10 seconds
    rate: Annotated[
        float,
        about("attempts of the account in the long run; 0: no limit of ours", "per second", ge=0, le=1e6),
    ] = 1.0
