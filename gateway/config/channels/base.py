"""What every kind of channel has. A kind's own table adds its credentials, and its own defaults."""

from typing import Annotated, ClassVar, Literal

from gateway.config.table import Table, about
from gateway.templates.syntax import Markup

OnAmbiguous = Literal["retry", "next", "stop"]
Satisfied = Literal["accepted", "delivered", "read"]


class Channel(Table, frozen=True, kw_only=True, tag_field="kind"):
    """A channel of the fallback chain: an account at a provider.

    `CONTACT` is the name under which a client's record has its address for this kind; empty: the channel has one
    receiver for all. `PROVES`: the most that the answer to a request proves.
    """

    CONTACT: ClassVar[str] = ""
    PROVES: ClassVar[Literal["accepted", "delivered"]] = "accepted"

    contact: Annotated[
        str,
        about(
            "name of the address in a client's `contacts`; empty: the channel's own name if it is there, "
            "else that of its kind",
            pattern=r"^([a-z][a-z0-9_-]{0,31})?\Z",
        ),
    ] = ""
    timeout: Annotated[float, about("for one attempt, whole", "s", ge=0.05, le=300)] = 15.0
    concurrency: Annotated[int, about("attempts open at once", "attempts", ge=1, le=1000)] = 64
    rate: Annotated[
        float,
        about("attempts of the account in the long run; 0: no limit of ours", "per second", ge=0, le=1e6),
    ] = 0.0
    burst: Annotated[int, about("attempts at once above `rate`", "attempts", ge=1, le=1_000_000)] = 1
    recipient_rate: Annotated[
        float, about("attempts to one address; 0: no limit of ours", "per second", ge=0, le=1e6)
    ] = 0.0
    max_attempts: Annotated[
        int,
        about("attempts until the next channel of the chain or the dead letters", "attempts", ge=1, le=1000),
    ] = 8
    backoff_base: Annotated[
        float, about("the first pause is up to this, then doubling, full jitter", "s", ge=0.001, le=86400)
    ] = 1.0
    backoff_max: Annotated[float, about("where the doubling ends", "s", ge=0.001, le=86400)] = 300.0
    on_ambiguous: Annotated[
        OnAmbiguous,
        about("what follows an attempt that may or may not have arrived: `retry`, `next` channel, or `stop`"),
    ] = "retry"
    satisfied_by: Annotated[
        Satisfied,
        about(
            "what ends the chain: the provider has `accepted` the message, or it is known to be `delivered` or "
            "`read`; the latter need a channel that reports it, and `callbacks`"
        ),
    ] = "accepted"
    receipt_timeout: Annotated[
        float,
        about(
            "how long that report may take where `satisfied_by` asks for one: then the next channel, or, on the "
            "last, the end as what was reached",
            "s",
            ge=0.05,
            le=86400 * 7,
        ),
    ] = 30.0
    step_timeout: Annotated[
        float,
        about(
            "how long a message may stay at this channel, attempts and pauses together, while another follows; "
            "0: no limit",
            "s",
            ge=0,
            le=86400 * 30,
        ),
    ] = 0.0
    breaker_failures: Annotated[
        int,
        about(
            "failures in a row, of the account or the way to it, that open the circuit breaker",
            "attempts",
            ge=1,
            le=10_000,
        ),
    ] = 5
    breaker_pause: Annotated[
        float, about("until a single attempt tries an open breaker", "s", ge=0.05, le=86400)
    ] = 30.0
    proxies: Annotated[
        tuple[str, ...],
        about(
            "HTTP proxies to go through, `http://user:password@host:port`", hide="password", max_length=100
        ),
    ] = ()
    allow_private: Annotated[bool, about("allow addresses that are not public")] = False

    @property
    def markup(self) -> Markup:
        """How the `text` of a message is read there, and so how values of a template are escaped in it."""
        return "plain"
