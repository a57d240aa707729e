"""Settings of the kind `ntfy`."""

from typing import Annotated

from gateway.config.channels.base import Channel
from gateway.config.table import about


class Ntfy(Channel, frozen=True, kw_only=True, tag="ntfy"):
    """A ntfy server: the public one, or one's own. A client's address is a topic."""

    url: Annotated[str, about("the server's address", max_length=2048)] = "https://ntfy.sh"
    topic: Annotated[
        str, about("for clients without an address of their own; who knows a topic can read it", hide="all")
    ] = ""
    token: Annotated[str, about("access token, `tk_…`", hide="all")] = ""
    user: Annotated[str, about("instead of a token", pattern=r"^[^:\x00-\x1f\x7f]*\Z", max_length=64)] = ""
    password: Annotated[str, about("of `user`", hide="all")] = ""
    max_message: Annotated[
        int,
        about("longest text: the server makes an attachment of a longer one", "bytes", ge=1, le=1_048_576),
    ] = 4096
    # what a visitor is allowed by default, by ntfy.sh too
    rate: Annotated[
        float,
        about("attempts of the account in the long run; 0: no limit of ours", "per second", ge=0, le=1e6),
    ] = 0.2
    burst: Annotated[int, about("attempts at once above `rate`", "attempts", ge=1, le=1_000_000)] = 60
