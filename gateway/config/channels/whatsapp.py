"""Settings of the kind `whatsapp`."""

from typing import Annotated, ClassVar

from gateway.config.channels.base import Channel
from gateway.config.table import about


class Whatsapp(Channel, frozen=True, kw_only=True, tag="whatsapp"):
    """WhatsApp by Meta's Cloud API."""

    CONTACT: ClassVar[str] = "phone"

    phone_number_id: Annotated[
        str, about("the id (not the number) of the business phone number", pattern=r"^[0-9]{1,32}\Z")
    ]
    access_token: Annotated[str, about("of a system user that may send for it", hide="all")]
    app_secret: Annotated[
        str | tuple[str, ...],
        about(
            "what Meta signs callbacks with; a list while it is rotated; empty: none are accepted", hide="all"
        ),
    ] = ""
    verify_token: Annotated[
        str, about("what Meta repeats when the callback URL is entered there; empty: refused", hide="all")
    ] = ""
    rate: Annotated[
        float,
        about(
            "messages of the phone number in the long run; 0: no limit of ours", "per second", ge=0, le=1e6
        ),
    ] = 80.0
    version: Annotated[str, about("of the Graph API", pattern=r"^v[0-9]{1,3}\.[0-9]\Z")] = "v23.0"
    url: Annotated[str, about("address of the API", max_length=2048)] = "https://graph.facebook.com"
