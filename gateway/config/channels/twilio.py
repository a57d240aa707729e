"""Settings of the kind `twilio`."""

from typing import Annotated, ClassVar

from gateway.config.channels.base import Channel
from gateway.config.table import about


class Twilio(Channel, frozen=True, kw_only=True, tag="twilio"):
    """SMS by Twilio Programmable Messaging."""

    CONTACT: ClassVar[str] = "phone"

    account_sid: Annotated[str, about("the account that sends", pattern=r"^AC[0-9a-fA-F]{32}\Z")]
    auth_token: Annotated[
        str,
        about("the account's token: signs in, unless `api_key` does, and verifies callbacks", hide="all"),
    ] = ""
    api_key: Annotated[
        str, about("an API key to sign in with, in place of `auth_token`", pattern=r"^(SK[0-9a-fA-F]{32})?\Z")
    ] = ""
    api_secret: Annotated[str, about("the secret of `api_key`", hide="all")] = ""
    signing_secret: Annotated[
        str | tuple[str, ...],
        about(
            "what callbacks are signed with, where that is not `auth_token`; a list while it is rotated",
            hide="all",
        ),
    ] = ""
    sender: Annotated[
        str,
        about(
            "who it is from: a number of the account (E.164), a short code or an alphanumeric sender",
            max_length=32,
        ),
    ] = ""
    messaging_service_sid: Annotated[
        str,
        about(
            "the messaging service that picks the sender, or has `sender` in its pool",
            pattern=r"^(MG[0-9a-fA-F]{32})?\Z",
        ),
    ] = ""
    stop_words: Annotated[
        tuple[str, ...],
        about(
            "a text that is one of these, whatever its case, is an opt-out where Twilio does not say whether it is one",
            max_length=100,
        ),
    ] = ("STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT")
    url: Annotated[str, about("address of the API", max_length=2048)] = "https://api.twilio.com"
