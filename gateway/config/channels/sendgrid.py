"""Settings of the kind `sendgrid`."""

from typing import Annotated, ClassVar

from gateway.config.channels.base import Channel
from gateway.config.table import about


class SendGrid(Channel, frozen=True, kw_only=True, tag="sendgrid"):
    """E-mail by Twilio SendGrid, v3 Mail Send."""

    CONTACT: ClassVar[str] = "email"

    api_key: Annotated[str, about("API key with the right `mail.send`", hide="all")]
    sender: Annotated[str, about("a verified sender: `Name <address>`, or an address alone", max_length=320)]
    reply_to: Annotated[
        str, about("where answers go, in the same form; empty: to the sender", max_length=320)
    ] = ""
    subject: Annotated[str, about("subject of a message that has no title", min_length=1, max_length=200)] = (
        "New message"
    )
    event_key: Annotated[
        str,
        about("verification key of the signed Event Webhook, base64; empty: no callbacks", max_length=1024),
    ] = ""
    url: Annotated[
        str,
        about("where the API is; `https://api.eu.sendgrid.com` for a regional subuser", max_length=2048),
    ] = "https://api.sendgrid.com"
