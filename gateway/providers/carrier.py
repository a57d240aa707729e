"""Who carries what a provider makes of a message: HTTP, but for kinds that speak something else.

Their libraries are imported only where such a channel is configured.
"""

import ssl
from typing import Any, Protocol

from gateway.config.channels import Apprise, Channel, Smtp
from gateway.providers.provider import Answer
from gateway.providers.resolver import Lookup


class Carrier(Protocol):
    async def exchange(self, request: Any, address: str = "") -> Answer:
        """Send it and bring the answer, within the channel's timeout. `address`: whom it is for. Raises NoAnswer,
        nothing else, unless the task is cancelled.
        """

    async def close(self) -> None: ...


def carrier_of(settings: Channel, lookup: Lookup, tls: ssl.SSLContext | None) -> Carrier | None:
    """The carrier of a kind that does not speak HTTP; None for the others."""
    if isinstance(settings, Smtp):
        from gateway.providers.smtp_carrier import SmtpCarrier  # noqa: PLC0415 - see above

        return SmtpCarrier(settings, lookup, tls)
    if isinstance(settings, Apprise):
        from gateway.providers.apprise_carrier import AppriseCarrier  # noqa: PLC0415

        return AppriseCarrier(settings)
    return None
