"""The gateway as a client of an MQTT 5 broker (PROTOCOL 4): framed and plain clients behind it.

links.py       all links to the broker, one clock for them, figures
link.py        one durable session there: connecting, subscribing, what happens while it is away
connection.py  one network connection: aiomqtt, and paho below it
inbound.py     what comes: whose it is, and when it is acknowledged
uplink.py      what plain clients publish
desks.py       the framed clients
receipts.py    PUBACKs in their order
repeats.py     what packet ids stood for: which publishes may have been accepted before
outbound.py    what is written, and how much of it may wait
custody.py     messages for plain clients
presence.py    who is connected, as the broker tells it
"""

from gateway.transports.mqtt.broker.links import BrokerLinks

__all__ = ["BrokerLinks"]
