"""What a program that uses the client may have to catch.

    ClientError
     ├── ClientClosed      the program closed the client
     ├── ConnectTimeout    no welcome within `connect_timeout`
     ├── PublishRefused    the gateway's answer to one message
     ├── PublishUnknown    the client ended before the answer came: the message may or may not be accepted
     ├── StateFailed       the state file cannot be read or written
     └── Stopped           the gateway told this client to stop (close code 43xx), or nothing else is left to do
          ├── NotAuthorised        4300, or 401 and 403 at the handshake, or MQTT's 0x86 and 0x87
          ├── TokenExpired         42xx while the token is a fixed string
          ├── TakenOver            4302
          ├── ProtocolViolation    4303
          ├── Banned               4304
          └── HandshakeRefused     an answer to the handshake that no retry can change

`Stopped`, `StateFailed` and `ClientClosed` end the client; `PublishRefused` and `PublishUnknown` are about one message.
"""

from gateway.errors import Close


class ClientError(Exception):
    """The root."""


class ClientClosed(ClientError):
    """The client was closed by the program that owns it."""


class ConnectTimeout(ClientError):
    """No welcome in time. The text says what went wrong last."""


class StateFailed(ClientError):
    """The state file cannot be read or written; acks that depend on it do not leave."""


class PublishRefused(ClientError):
    """The gateway refused one message. `status` is the HTTP status of the same refusal, `retry_after` in seconds."""

    def __init__(
        self, code: str, status: int, detail: str, retry_after: float | None = None, field: str | None = None
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.field = field


class PublishUnknown(ClientError):
    """Sent, but the client ended before the answer. Publishing the same message again with `key` is safe."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the message may or may not be accepted; publish it again with key {key!r}")
        self.key = key


class Stopped(ClientError):
    """The client does not reconnect. `code` is the close code, or the handshake's HTTP status or MQTT reason code."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}" if detail else str(code))
        self.code = code
        self.detail = detail


class NotAuthorised(Stopped):
    """The token proves nothing, or not the right thing."""


class TokenExpired(Stopped):
    """The token has expired, and as a fixed string it cannot be renewed."""


class TakenOver(Stopped):
    """A second connection of the same client has taken the session over."""


class ProtocolViolation(Stopped):
    """The gateway could not read what this client sent."""


class Banned(Stopped):
    """The client is banned."""


class HandshakeRefused(Stopped):
    """Whatever answers at this address does not serve this client."""


_BY_CODE: dict[int, type[Stopped]] = {
    Close.NOT_AUTHORISED: NotAuthorised,
    Close.TAKEN_OVER: TakenOver,
    Close.PROTOCOL: ProtocolViolation,
    Close.BANNED: Banned,
}


def stopped(code: int, detail: str) -> Stopped:
    """The exception of a 43xx close code."""
    return _BY_CODE.get(code, Stopped)(code, detail)
