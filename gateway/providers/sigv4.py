"""AWS Signature Version 4, in the Authorization header. Pure.

Source: "Signature Version 4 for API requests", docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html.
"""

import hashlib
import hmac
import time
from urllib.parse import quote, urlsplit

from msgspec import Struct

_UNSIGNED = frozenset(("user-agent",))  # proxies may change it
_PORTS = {"http": 80, "https": 443}


class Key(Struct, frozen=True):
    """Whose requests they are, where, and to which service. `token`: of temporary credentials; "": none."""

    id: str
    secret: str
    token: str
    region: str
    service: str

    def __repr__(self) -> str:
        return f"Key({self.id!r})"


def host_of(url: str) -> str:
    """The Host header of a request to `url`: with the port, where it is not the scheme's own."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{parts.port}" if parts.port and parts.port != _PORTS.get(parts.scheme) else host


def signed(
    key: Key, method: str, url: str, headers: dict[str, str], body: bytes, wall: float
) -> dict[str, str]:
    """`headers`, whose names are in lower case, and those that sign them, the host, the path and the body.

    `url`: without a query. `wall`: real time, Unix s.
    """
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall))
    added = headers | {"x-amz-date": date}
    if key.token:
        added["x-amz-security-token"] = key.token
    to_sign = {name: value for name, value in added.items() if name not in _UNSIGNED} | {"host": host_of(url)}
    names = ";".join(sorted(to_sign))
    canonical = "\n".join(
        (
            method,
            quote(
                urlsplit(url).path or "/"
            ),  # what is quoted in it already is quoted twice: every service but S3
            "",
            *(f"{name}:{' '.join(to_sign[name].split())}" for name in sorted(to_sign)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{date[:8]}/{key.region}/{key.service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    derived = f"AWS4{key.secret}".encode()
    for part in scope.split("/"):
        derived = hmac.digest(derived, part.encode(), "sha256")
    signature = hmac.digest(derived, text.encode(), "sha256").hex()
    added["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key.id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return added
