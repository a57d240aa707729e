"""Servers that the gateway is measured beside, each started on free ports with a configuration of its own.

`PEERS` lists them by name. MQTT drives Mosquitto and RabbitMQ as it drives the gateway; NATS and Socket.IO have clients
of their own in `bench.clients`.
"""

from bench.peers.mosquitto import Mosquitto, MosquittoAutosave
from bench.peers.nats import Nats, NatsSync
from bench.peers.peer import Peer
from bench.peers.rabbitmq import RabbitMq
from bench.peers.socketio import SocketIo

PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Mosquitto, MosquittoAutosave, Nats, NatsSync, RabbitMq, SocketIo)
}
