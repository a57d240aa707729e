"""Settings of the kind `smtp`."""

from typing import Annotated, ClassVar, Literal

from gateway.config.channels.base import Channel
from gateway.config.table import about


class Smtp(Channel, frozen=True, kw_only=True, tag="smtp"):
    """E-mail by a server that takes it in over SMTP."""

    CONTACT: ClassVar[str] = "email"

    host: Annotated[str, about("name or address of the server", min_length=1, max_length=253)]
    port: Annotated[int, about("0: that of `security`: 465, 587 or 25", ge=0, le=65535)] = 0
    security: Annotated[
        Literal["tls", "starttls", "none"],
        about("`tls` from the first byte, `starttls` before anything of worth, or `none`"),
    ] = "tls"
    username: Annotated[str, about("for AUTH; empty: none", max_length=320)] = ""
    password: Annotated[str, about("for AUTH", hide="all")] = ""
    sender: Annotated[
        str, about("`Name <address>`, or an address alone; bounces go there too", max_length=320)
    ]
    reply_to: Annotated[
        str, about("where answers go, in the same form; empty: to the sender", max_length=320)
    ] = ""
    subject: Annotated[str, about("subject of a message that has no title", min_length=1, max_length=200)] = (
        "New message"
    )
    hello: Annotated[
        str,
        about("our own name for EHLO; empty: our address", pattern=r"^[A-Za-z0-9.-]{0,253}\Z"),
    ] = ""
    timeout: Annotated[float, about("for one attempt, whole", "s", ge=0.05, le=300)] = 60.0
    concurrency: Annotated[
        int, about("attempts, and connections, open at once", "attempts", ge=1, le=1000)
    ] = 8
