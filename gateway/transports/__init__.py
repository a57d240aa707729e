"""How clients reach the hub, one package a transport.

hub.py           what every transport asks of the hub
frames.py        frames as values: decoding, errors that name the field
conversation.py  one client's conversation in frames, whatever carries them
peers.py         whose address that is
sockets.py       the last bytes of a socket
wheel.py         time for many connections with one timer
websocket/       PROTOCOL 3
mqtt/            PROTOCOL 4
"""
