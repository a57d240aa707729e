"""What can go wrong, as a small drawn tree.

    GatewayError                 code, HTTP status, detail, field, retry_after
     ├── ConfigError             the configuration; raised before anything starts
     ├── Invalid          422    a value that can never be right; names the field
     ├── Unauthorized     401    no credential, or one that proves nothing
     ├── Forbidden        403    a known principal without the right
     ├── NotFound         404
     ├── Conflict         409    the state of things forbids it now
     ├── Limited          429    a limit with a number; retry_after says when to come back
     └── Unavailable      503    draining, or the store cannot commit
          ├── CommitUnknown 503  the commit failed and may yet have reached the disk
          └── DiskFull    507

`code` is stable: clients branch on it, `docs/errors.md` lists every one. `detail` is for people and never
carries a body or a secret. The same object becomes an `err` frame (PROTOCOL 3), a problem document (RFC 9457)
or an MQTT reason code.

WebSocket close codes say what the client must do next; they are listed once, in `Close`.
"""

from enum import IntEnum
from typing import ClassVar


class GatewayError(Exception):
    """The root. `retry_after` is in seconds."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        detail: str,
        *,
        code: str = "",
        field: str | None = None,
        retry_after: float | None = None,
        http: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.field = field
        self.retry_after = retry_after
        self.http = http if http is not None else self.status

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code!r}, {self.detail!r}, field={self.field!r})"


class ConfigError(GatewayError):
    default_code = "config"


class Invalid(GatewayError):
    status = 422
    default_code = "invalid"


class Unauthorized(GatewayError):
    status = 401
    default_code = "unauthorized"


class Forbidden(GatewayError):
    status = 403
    default_code = "forbidden"


class NotFound(GatewayError):
    status = 404
    default_code = "not_found"


class Conflict(GatewayError):
    status = 409
    default_code = "conflict"


class Limited(GatewayError):
    status = 429
    default_code = "rate_limited"


class Unavailable(GatewayError):
    status = 503
    default_code = "unavailable"


class CommitUnknown(Unavailable):
    default_code = "commit_unknown"


class DiskFull(Unavailable):
    status = 507
    default_code = "disk_full"


class StoreFailed(Exception):
    """A batch could not be committed. `definite`: it is certain that nothing of it reached the disk."""

    def __init__(self, detail: str, *, definite: bool, disk_full: bool = False) -> None:
        super().__init__(detail)
        self.definite = definite
        self.disk_full = disk_full


class Close(IntEnum):
    """WebSocket close codes (PROTOCOL 3): 40xx resume, 41xx new session, 42xx new token, 43xx stop."""

    NORMAL = 1000
    TOO_BIG = 1009
    DRAIN = 4000
    SLOW = 4001
    HEARTBEAT = 4002
    RATE = 4003
    NO_HELLO = 4004
    ACK_TIMEOUT = 4005  # plain MQTT only, where nothing is sent twice on a connection
    EXPIRED = 4100
    TOKEN_EXPIRED = 4200
    NOT_AUTHORISED = 4300
    TAKEN_OVER = 4302
    PROTOCOL = 4303
    BANNED = 4304
