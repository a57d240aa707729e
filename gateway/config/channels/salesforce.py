"""Settings of the kind `salesforce`."""

from typing import Annotated

from gateway.config.channels.base import Channel
from gateway.config.table import about

_FIELD = r"^([A-Za-z][A-Za-z0-9_]{0,76}__c)?\Z"


class Salesforce(Channel, frozen=True, kw_only=True, tag="salesforce"):
    """A platform event of a Salesforce org."""

    url: Annotated[str, about("the org's My Domain, `https://….my.salesforce.com`", max_length=2048)]
    client_id: Annotated[str, about("consumer key of the app", max_length=512)]
    client_secret: Annotated[str, about("consumer secret of the app", hide="all")]
    event: Annotated[
        str, about("API name of the platform event", pattern=r"^[A-Za-z][A-Za-z0-9_]{0,76}__e\Z")
    ]
    version: Annotated[str, about("of the REST API", pattern=r"^v[0-9]{2,3}\.0\Z")] = "v62.0"
    id_field: Annotated[str, about("field for the message's id; empty: none", pattern=_FIELD)] = (
        "Message_Id__c"
    )
    client_field: Annotated[str, about("field for the client; empty: none", pattern=_FIELD)] = "Client__c"
    type_field: Annotated[str, about("field for the message's type; empty: none", pattern=_FIELD)] = ""
    title_field: Annotated[str, about("field for the title; empty: none", pattern=_FIELD)] = ""
    text_field: Annotated[str, about("field for the text; empty: none", pattern=_FIELD)] = "Text__c"
