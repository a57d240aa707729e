"""The Python client: `from gateway.client import Client`.

One class over WebSocket (`ws://`, `wss://`) and MQTT (`mqtt://`, `mqtts://`; framed, PROTOCOL 4), with the same methods
and the same promises.
"""

from gateway.client.client import Client
from gateway.client.errors import (
    Banned,
    ClientClosed,
    ClientError,
    ConnectTimeout,
    HandshakeRefused,
    NotAuthorised,
    ProtocolViolation,
    PublishRefused,
    PublishUnknown,
    StateFailed,
    Stopped,
    TakenOver,
    TokenExpired,
)
from gateway.client.frames import Gap, StatusReport
from gateway.client.message import Message
from gateway.client.outbox import Receipt
from gateway.client.values import Info

__all__ = [
    "Banned",
    "Client",
    "ClientClosed",
    "ClientError",
    "ConnectTimeout",
    "Gap",
    "HandshakeRefused",
    "Info",
    "Message",
    "NotAuthorised",
    "ProtocolViolation",
    "PublishRefused",
    "PublishUnknown",
    "Receipt",
    "StateFailed",
    "StatusReport",
    "Stopped",
    "TakenOver",
    "TokenExpired",
]
