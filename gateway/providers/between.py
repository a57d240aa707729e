"""Answers that are none of the provider's own: those of a gateway or proxy on the way. Pure."""

from msgspec import structs

from gateway.ports import Outcome
from gateway.providers.provider import Answer, unexplained

_PASSED_ON = (500, 502, 504)


def between(answer: Answer, wall: float) -> Outcome:
    """What it means, for a provider that knows no repetition and whose URL is the same for every message.

    500, 502 and 504 may come after the request was passed on: ambiguous. A redirection or a missing resource is the
    configuration's fault, not a recipient's. The text is not repeated: it may hold the URL, and with it a secret.
    """
    status = answer.status
    if status in _PASSED_ON:
        return Outcome("ambiguous", f"HTTP {status}", status=status)
    outcome = unexplained(Answer(status, answer.headers, b""), wall)
    if outcome.blame == "recipient" or 300 <= status < 400:
        return structs.replace(outcome, blame="account")
    return outcome
