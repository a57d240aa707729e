"""A codec for MQTT 3.1.1 and 5: every packet and property, for both sides. Pure: it reads no socket and no clock.

types.py       packets as values, reason codes, property ids
reader.py      a stream of bytes into packets: header, PUBLISH, PUBACK
bodies.py      the other packets, and who may send what
properties.py  which properties stand where
reasons.py     which reason codes stand where
fields.py      the data types
writer.py      packets into bytes
"""

from gateway.transports.mqtt.codec.fields import varint
from gateway.transports.mqtt.codec.properties import encode_prop, encode_props
from gateway.transports.mqtt.codec.reader import Reader
from gateway.transports.mqtt.codec.reasons import RETURN_CODES
from gateway.transports.mqtt.codec.types import (
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Malformed,
    P,
    Packet,
    Ping,
    Pong,
    Props,
    Publish,
    Reason,
    ReturnCode,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from gateway.transports.mqtt.codec.writer import (
    ack,
    auth,
    connack,
    connect,
    disconnect,
    pingreq,
    pingresp,
    puback,
    pubacks,
    publish,
    publish_packet,
    suback,
    subscribe,
    unsuback,
    unsubscribe,
)

__all__ = [
    "RETURN_CODES",
    "Ack",
    "Auth",
    "Connack",
    "Connect",
    "Disconnect",
    "Kind",
    "Malformed",
    "P",
    "Packet",
    "Ping",
    "Pong",
    "Props",
    "Publish",
    "Reader",
    "Reason",
    "ReturnCode",
    "Suback",
    "Subscribe",
    "Unsuback",
    "Unsubscribe",
    "Will",
    "ack",
    "auth",
    "connack",
    "connect",
    "disconnect",
    "encode_prop",
    "encode_props",
    "pingreq",
    "pingresp",
    "puback",
    "pubacks",
    "publish",
    "publish_packet",
    "suback",
    "subscribe",
    "unsuback",
    "unsubscribe",
    "varint",
]
