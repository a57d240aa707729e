"""WebSocket (PROTOCOL 3) on the sans-I/O core of `websockets` over plain asyncio protocols.

server.py      the listener, its TLS, its clock, its figures
handshake.py   from a socket to a connection, or to an HTTP answer
connection.py  bytes and frames in, calls to the hub out
life.py        whether the peer reads and is still there; the end
writer.py      what the hub hands over, in the order in which it leaves
frames.py      the header of each frame
"""

from gateway.transports.websocket.server import WebSocketServer

__all__ = ["WebSocketServer"]
