"""Settings of the kind `ses`."""

from typing import Annotated, ClassVar

from gateway.config.channels.base import Channel
from gateway.config.table import about


class Ses(Channel, frozen=True, kw_only=True, tag="ses"):
    """E-mail by Amazon SES, API v2."""

    CONTACT: ClassVar[str] = "email"

    region: Annotated[str, about("such as `eu-west-1`", pattern=r"^[a-z0-9-]{1,32}\Z")]
    access_key_id: Annotated[
        str, about("of a user that may `ses:SendEmail`", pattern=r"^[A-Za-z0-9]{4,128}\Z")
    ]
    secret_access_key: Annotated[str, about("its secret", hide="all")]
    session_token: Annotated[str, about("of temporary credentials; empty: none", hide="all")] = ""
    sender: Annotated[
        str, about("a verified identity: `Name <address>`, or an address alone", max_length=320)
    ]
    reply_to: Annotated[
        str, about("where answers go, in the same form; empty: to the sender", max_length=320)
    ] = ""
    subject: Annotated[str, about("subject of a message that has no title", min_length=1, max_length=200)] = (
        "New message"
    )
    configuration_set: Annotated[
        str,
        about("whose event destination is `topic_arn`; empty: none", pattern=r"^[A-Za-z0-9_-]{0,64}\Z"),
    ] = ""
    topic_arn: Annotated[
        str,
        about(
            "SNS topic that posts the events to the channel's callback; empty: no callbacks", max_length=512
        ),
    ] = ""
    url: Annotated[
        str, about("where the API is; empty: `https://email.<region>.amazonaws.com`", max_length=2048)
    ] = ""
