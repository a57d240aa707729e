"""SUBSCRIBE and UNSUBSCRIBE: a device has its own two topics, and with one of them a connection is plain or framed."""

from typing import TYPE_CHECKING

from gateway.model import Sub
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import P, Reason, Subscribe, Unsubscribe
from gateway.transports.mqtt.codes import fitted, in_unsuback
from gateway.transports.mqtt.topics import Refusal

if TYPE_CHECKING:
    from gateway.transports.mqtt.connection import Connection

_OTHER_KIND = Refusal(Reason.IMPLEMENTATION_SPECIFIC, "a connection is plain or framed, not both")
_GRANTED = (Reason.GRANTED_QOS_0, Reason.GRANTED_QOS_1, Reason.GRANTED_QOS_1)


def kind_of(conn: "Connection") -> Sub:
    """What the connection is subscribed to."""
    if conn.plain is not None:
        return Sub.PLAIN
    return Sub.NONE if conn.desk is None else Sub.FRAMED


def on_subscribe(conn: "Connection", packet: Subscribe) -> None:
    """Each filter by itself. The first plain one joins the session: its SUBACK waits for that, and all behind it."""
    server = conn.server
    if packet.props is not None and P.SUBSCRIPTION_ID in packet.props:
        conn.end(Reason.SUBSCRIPTION_IDS_NOT_SUPPORTED, "no subscription identifiers")
        return
    kind = was = kind_of(conn)
    codes: list[Reason] = []
    why = ""
    qos = conn.qos
    own = server.topics.of(conn.principal.name)
    for i, (topic_filter, options) in enumerate(packet.filters):
        found: Sub | Refusal
        if i < server.max_subscriptions:
            found = own.subscription(topic_filter)
        else:
            found = Refusal(
                Reason.QUOTA_EXCEEDED, f"over {server.max_subscriptions} filters in one SUBSCRIBE"
            )
        if not isinstance(found, Refusal) and kind not in {Sub.NONE, found}:
            found = _OTHER_KIND
        if isinstance(found, Refusal):
            codes.append(found.code)
            why = why or found.why
            continue
        kind = found
        granted = _GRANTED[options & 3]
        codes.append(granted)
        if found is Sub.PLAIN:
            qos = int(granted)
    if kind is Sub.PLAIN and was is Sub.NONE:
        conn.join(packet.pid, tuple(codes), why, qos)
        return
    if kind is Sub.FRAMED and was is Sub.NONE:
        conn.frame_up()
    if kind is Sub.PLAIN and conn.qos != qos:
        conn.qos = qos
        server.hub.grant(conn, qos)
    conn.suback(packet.pid, codes, why)


def on_unsubscribe(conn: "Connection", packet: Unsubscribe) -> None:
    """What the device was written it may still acknowledge."""
    limit = conn.server.max_subscriptions
    own = conn.server.topics.of(conn.principal.name)
    codes: list[Reason] = []
    why = ""
    for topic_filter in packet.filters[:limit]:
        found = own.subscription(topic_filter)
        if isinstance(found, Refusal):
            codes.append(in_unsuback(found.code))
            why = why or found.why
        elif found is not kind_of(conn):
            codes.append(Reason.NO_SUBSCRIPTION_EXISTED)
        else:
            conn.leave()
            codes.append(Reason.SUCCESS)
    if len(packet.filters) > limit:
        # it has no code for a quota
        codes += [Reason.IMPLEMENTATION_SPECIFIC] * (len(packet.filters) - limit)
        why = why or f"over {limit} filters in one UNSUBSCRIBE"
    answer = fitted(
        lambda props: codec.unsuback(conn.version, packet.pid, codes, props),
        {},
        why if conn.problems else "",
        conn.max_packet,
    )
    if answer:
        conn.head(answer)
