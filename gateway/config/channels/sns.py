"""Settings of the kind `sns`."""

from typing import Annotated, ClassVar, Literal

from gateway.config.channels.base import Channel
from gateway.config.table import about


class Sns(Channel, frozen=True, kw_only=True, tag="sns"):
    """SMS, and push to mobile devices, by Amazon SNS."""

    CONTACT: ClassVar[str] = "phone"

    region: Annotated[str, about("such as `eu-west-1`", pattern=r"^[a-z0-9-]{1,32}\Z")]
    access_key_id: Annotated[str, about("of a user that may `sns:Publish`", pattern=r"^[A-Za-z0-9]{4,128}\Z")]
    secret_access_key: Annotated[str, about("its secret", hide="all")]
    session_token: Annotated[str, about("of temporary credentials; empty: none", hide="all")] = ""
    sender_id: Annotated[
        str,
        about(
            "sender of an SMS, where the country has that; empty: the account's",
            pattern=r"^[A-Za-z0-9-]{0,11}\Z",
        ),
    ] = ""
    sms_type: Annotated[
        Literal["Transactional", "Promotional"], about("what an SMS is optimised for: reliability, or cost")
    ] = "Transactional"
    url: Annotated[
        str, about("where the API is; empty: `https://sns.<region>.amazonaws.com`", max_length=2048)
    ] = ""
