"""What Amazon SNS posts to an HTTPS endpoint: its signature, and the confirmation of a subscription. Pure.

Sources: "Verifying the signatures of Amazon SNS messages" and "Parsing Amazon SNS message formats" of
docs.aws.amazon.com/sns. The certificate comes from a URL in the message itself: it is asked for (`Needs`) only where
the URL is that of SNS in the region of our topic.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gateway.errors import ConfigError
from gateway.providers.provider import Answer, Call, Forged, Needs

# s. The time of publication is signed, and SNS tries again for up to an hour
REPLAY_WINDOW = 3600
KEEP_CERTIFICATE = 86400.0  # s; its name changes with it
NOTIFICATION = "Notification"
_SIGNED = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message",
        "MessageId",
        "SubscribeURL",
        "Timestamp",
        "Token",
        "TopicArn",
        "Type",
    ),
    "UnsubscribeConfirmation": (
        "Message",
        "MessageId",
        "SubscribeURL",
        "Timestamp",
        "Token",
        "TopicArn",
        "Type",
    ),
}
_HASHES: dict[str, type[hashes.SHA1] | type[hashes.SHA256]] = {"1": hashes.SHA1, "2": hashes.SHA256}

_topic = re.compile(r"arn:(aws[a-z-]*):sns:([a-z0-9-]{1,32}):[0-9]{12}:[A-Za-z0-9_.-]{1,256}").fullmatch
_certificate = re.compile(r"/SimpleNotificationService-[0-9A-Za-z]{1,64}\.pem").fullmatch


class Topic:
    """The one topic whose messages are taken."""

    __slots__ = ("_arn", "_host")

    def __init__(self, arn: str, field: str) -> None:
        """Raises ConfigError."""
        match = _topic(arn)
        if match is None:
            raise ConfigError(f"{field}: must be the ARN of a topic, `arn:aws:sns:…`", field=field)
        self._arn = arn
        self._host = f"sns.{match[2]}.amazonaws.com{'.cn' if match[1] == 'aws-cn' else ''}"

    def read(self, call: Call, wall: float) -> dict[str, str]:
        """The message of a call, whose signature, age and topic are right. A subscription that is to be confirmed has
        been. Raises Forged, Needs.
        """
        message = _message(call)
        if message.get("TopicArn") != self._arn:
            raise Forged("another topic")
        names = _SIGNED.get(message.get("Type", ""))
        algorithm = _HASHES.get(message.get("SignatureVersion", ""))
        if names is None or algorithm is None:
            raise Forged("not a message of SNS")
        self._verify(message, names, algorithm(), call.fetched, wall)
        if abs(time_of(message.get("Timestamp", "")) - wall) > REPLAY_WINDOW:
            raise Forged("too old")
        if message["Type"] == "SubscriptionConfirmation":
            self._confirm(message, call.fetched)
        return message

    def _verify(
        self,
        message: Mapping[str, str],
        names: tuple[str, ...],
        algorithm: hashes.HashAlgorithm,
        fetched: Mapping[str, Answer],
        wall: float,
    ) -> None:
        url = message.get("SigningCertURL", "")
        parts = _split(url)
        if (parts.scheme, parts.netloc, parts.query, parts.fragment) != ("https", self._host, "", ""):
            raise Forged("a certificate from elsewhere")
        if not _certificate(parts.path):
            raise Forged("a certificate from elsewhere")
        if url not in fetched:
            raise Needs(url, KEEP_CERTIFICATE)
        text = "".join(f"{name}\n{message[name]}\n" for name in names if name in message)
        try:
            signature = base64.b64decode(message.get("Signature", ""), validate=True)
            _key_of(fetched[url], wall).verify(signature, text.encode(), padding.PKCS1v15(), algorithm)
        except (binascii.Error, ValueError, InvalidSignature):
            raise Forged("wrong signature") from None

    def _confirm(self, message: Mapping[str, str], fetched: Mapping[str, Answer]) -> None:
        """Visit the URL that confirms the subscription. Raises Forged for one that would do anything else."""
        url = message.get("SubscribeURL", "")
        parts = _split(url)
        asks = parse_qs(parts.query)
        wanted = {
            "Action": ["ConfirmSubscription"],
            "TopicArn": [self._arn],
            "Token": [message.get("Token", "")],
        }
        if (parts.scheme, parts.netloc, parts.path) != ("https", self._host, "/") or asks != wanted:
            raise Forged("a confirmation of something else")
        if url not in fetched:
            raise Needs(url)
        if fetched[url].status != 200:
            raise ValueError("the subscription was not confirmed")


def _split(url: str) -> SplitResult:
    """Its parts; empty ones for what is no URL, or would not be the same one to everybody."""
    try:
        return urlsplit(url if url.isascii() and url.isprintable() and "\\" not in url else "")
    except ValueError:
        return urlsplit("")


def _message(call: Call) -> dict[str, str]:
    """The members of the envelope that are text. Raises Forged."""
    try:
        found: Any = msgspec.json.decode(call.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Forged("not a message of SNS")
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _key_of(answer: Answer, wall: float) -> rsa.RSAPublicKey:
    """Raises ValueError for what is no certificate of SNS that is valid now."""
    certificate = x509.load_pem_x509_certificate(answer.body)
    now = datetime.fromtimestamp(wall, UTC)
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    key = certificate.public_key()
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ValueError("not valid now")
    if not any(str(name.value).endswith((".amazonaws.com", ".amazonaws.com.cn")) for name in names):
        raise ValueError("of somebody else")
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("not RSA")
    return key


def time_of(text: str) -> float:
    """Unix s of `2026-09-21T14:13:20.123Z`; 0 for anything else."""
    try:
        return datetime.fromisoformat(text).timestamp() if text.endswith("Z") else 0.0
    except (ValueError, OverflowError):
        return 0.0
