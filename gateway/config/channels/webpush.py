"""Settings of the kind `webpush`."""

from typing import Annotated, ClassVar

from gateway.config.channels.base import Channel
from gateway.config.table import about


class WebPush(Channel, frozen=True, kw_only=True, tag="webpush"):
    """Browsers, by Web Push. A client's address is the JSON of its PushSubscription."""

    CONTACT: ClassVar[str] = "webpush"

    private_key: Annotated[
        str,
        about(
            "the VAPID key whose public half the browsers subscribed with: base64url of 32 bytes, or PEM",
            hide="all",
        ),
    ]
    subject: Annotated[
        str,
        about(
            "who operates this, for the push services: `mailto:…` or `https://…`",
            pattern=r"^(mailto:[^\s<>@]+@[^\s<>@]+|https://[^\s<>]+)\Z",
            max_length=256,
        ),
    ]
    hosts: Annotated[
        tuple[str, ...],
        about(
            "push services to send to, such as `fcm.googleapis.com` or `*.push.apple.com`; empty: any public one"
        ),
    ] = ()
