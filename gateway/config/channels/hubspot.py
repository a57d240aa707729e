"""Settings of the kind `hubspot`."""

from typing import Annotated, ClassVar

from gateway.config.channels.base import Channel
from gateway.config.table import about

_NAME = r"^([A-Za-z0-9_.-]{1,50})?\Z"


class HubSpot(Channel, frozen=True, kw_only=True, tag="hubspot"):
    """The timeline of a contact in HubSpot. A client's address is the contact's e-mail address."""

    CONTACT: ClassVar[str] = "email"

    client_id: Annotated[str, about("of the app", max_length=512)]
    client_secret: Annotated[str, about("of the app", hide="all")]
    refresh_token: Annotated[str, about("of the app's installation in the account", hide="all")]
    template: Annotated[str, about("id of the event template", pattern=r"^[0-9]{1,20}\Z")]
    title_as: Annotated[str, about("token of the template for the title; empty: none", pattern=_NAME)] = ""
    text_as: Annotated[str, about("token of the template for the text; empty: none", pattern=_NAME)] = "text"
    url: Annotated[str, about("where the API is", max_length=2048)] = "https://api.hubapi.com"
