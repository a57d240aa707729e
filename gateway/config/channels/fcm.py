"""Settings of the kind `fcm`."""

from typing import Annotated, ClassVar

from gateway.config.channels.base import Channel
from gateway.config.table import about


class Fcm(Channel, frozen=True, kw_only=True, tag="fcm"):
    """Push to phones and browsers by Firebase Cloud Messaging, HTTP v1."""

    CONTACT: ClassVar[str] = "fcm"

    service_account: Annotated[
        str,
        about("the key of a service account, as the JSON that Google gives out: `file:PATH`", hide="all"),
    ]
    project_id: Annotated[
        str,
        about("the Firebase project; empty: that of the service account", pattern=r"^[a-z0-9:.-]{0,64}\Z"),
    ] = ""
    url: Annotated[str, about("address of the API", max_length=2048)] = "https://fcm.googleapis.com"
    token_url: Annotated[
        str, about("where access tokens are asked for; empty: as the key says", max_length=2048)
    ] = ""
