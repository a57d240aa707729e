"""MQTT 3.1.1 and 5 (PROTOCOL 4): the gateway's own endpoint, and the link to a broker.

codec/          packets as values and as bytes
topics.py       the names of topics
plain.py        a message as a PUBLISH for stock clients, and back
framed.py framing.py peer.py   the frames of PROTOCOL 3, each the payload of a PUBLISH

The endpoint:

server.py       the listener, its TLS, its clock, who is connected, its figures
overws.py       MQTT in the binary frames of a WebSocket
admission.py    from a socket to a connection: CONNECT, CONNACK
connection.py   packets in, calls to the hub out
subscribing.py  SUBSCRIBE, UNSUBSCRIBE
carrier.py      the frames of a framed device, to and from its desk
uplink.py       what a device publishes, and the PUBACKs in their order
life.py         whether the peer reads and is still there; the end
writer.py       what the hub hands over, in the order in which it leaves
wills.py        what is published when a device is gone
codes.py        reason codes

The link to a broker is a package of its own, broker/.
"""

from gateway.transports.mqtt.server import MqttServer

__all__ = ["MqttServer"]
