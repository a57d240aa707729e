"""What a signature is checked with. A key knows its one algorithm, from what it is and never from a token.

So a public key cannot be taken for an HMAC secret, nor the reverse, and `alg` in a token only has to agree
(RFC 8725 2.1, 3.1).
"""

from collections.abc import Callable
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import InvalidKeyError, get_algorithm_by_name
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder

MIN_SECRET_BYTES: Final = 32
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
MAX_KEYS: Final = 32

_ALGORITHMS: Final = {name: get_algorithm_by_name(name) for name in ("HS256", "RS256", "ES256", "EdDSA")}


class Key(Struct, frozen=True):
    """A prepared key. `kid` None: it has no name, and is tried whatever `kid` a token carries."""

    alg: str
    material: Any
    kid: str | None = None

    def verify(self, signed: bytes, signature: bytes) -> bool:
        """Whether the signature over `signed` was made with the counterpart of this key."""
        return _ALGORITHMS[self.alg].verify(signed, self.material, signature)

    def sign(self, signed: bytes) -> bytes:
        """The signature over `signed`; for secrets only."""
        return _ALGORITHMS[self.alg].sign(signed, self.material)

    def __repr__(self) -> str:
        return f"Key({self.alg!r}, kid={self.kid!r})"


def secret_key(secret: str) -> Key:
    """An HS256 key (RFC 7518 3.2: at least as long as the hash). Raises ValueError, never quoting the secret."""
    material = secret.encode()
    if len(material) < MIN_SECRET_BYTES:
        raise ValueError(f"an HS256 secret has at least {MIN_SECRET_BYTES} bytes")
    try:
        return Key("HS256", _ALGORITHMS["HS256"].prepare_key(material))
    except InvalidKeyError:
        raise ValueError("this is a public key, which anyone may know, not a secret") from None


def pem_key(pem: bytes, algorithms: frozenset[str]) -> Key:
    """One public key in PEM (SubjectPublicKeyInfo). Raises ValueError."""
    try:
        material = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("not a public key in PEM") from None
    alg = _algorithm_of(material)
    if alg not in algorithms:
        raise ValueError(f"this is a key for {alg}, which `algorithms` does not name")
    return Key(alg, material)


def _algorithm_of(material: object) -> str:
    """The one algorithm of a public key. Raises ValueError for a kind or a strength that is not accepted."""
    if isinstance(material, RSAPublicKey):
        if not MIN_RSA_BITS <= material.key_size <= MAX_RSA_BITS:
            raise ValueError(f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
        return "RS256"
    if isinstance(material, EllipticCurvePublicKey) and isinstance(material.curve, SECP256R1):
        return "ES256"
    if isinstance(material, Ed25519PublicKey):
        return "EdDSA"
    raise ValueError("only RSA, P-256 and Ed25519 keys are accepted")


class _Jwk(Struct):
    """The public members of a JSON Web Key (RFC 7517 4, RFC 7518 6, RFC 8037 2); private ones are not even read."""

    kty: str
    kid: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    alg: str | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None


class _JwkSet(Struct):
    keys: list[Raw]


_set = Decoder(_JwkSet)
_jwk = Decoder(_Jwk)
# by kty: who reads it, which members it needs, and the `alg` values that name its algorithm (RFC 9864 for Ed25519)
_KINDS: Final[dict[str, tuple[Callable[[dict[str, Any]], object], tuple[str, ...], tuple[str, ...]]]] = {
    "RSA": (RSAAlgorithm.from_jwk, ("n", "e"), ("RS256",)),
    "EC": (ECAlgorithm.from_jwk, ("crv", "x", "y"), ("ES256",)),
    "OKP": (OKPAlgorithm.from_jwk, ("crv", "x"), ("EdDSA", "Ed25519")),
}


def jwks_keys(document: bytes, algorithms: frozenset[str]) -> tuple[Key, ...]:
    """The usable keys of a JSON Web Key Set. Raises ValueError where it is none, or has over MAX_KEYS keys.

    Keys of other kinds, uses or algorithms are left out (RFC 7517 5), and so are symmetric ones: a set of keys is
    there to be read by others.
    """
    try:
        found = _set.decode(document).keys
    except (DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("not a JSON Web Key Set") from None
    if len(found) > MAX_KEYS:
        raise ValueError(f"over {MAX_KEYS} keys")
    keys = (_usable(raw) for raw in found)
    return tuple(key for key in keys if key is not None and key.alg in algorithms)


def _usable(raw: Raw) -> Key | None:
    try:
        jwk = _jwk.decode(raw)
        reader, needed, names = _KINDS[jwk.kty]
        if jwk.use not in (None, "sig") or jwk.alg not in (None, *names):
            return None
        if jwk.key_ops is not None and "verify" not in jwk.key_ops:
            return None
        members = {name: getattr(jwk, name) for name in needed}
        material = reader({"kty": jwk.kty, **members})
        return Key(_algorithm_of(material), material, jwk.kid)
    except (DecodeError, RecursionError, KeyError, TypeError, AttributeError, ValueError, InvalidKeyError):
        return None
