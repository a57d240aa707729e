"""How clients reach the hub, one package a transport.

hub.py      what every transport asks of the hub
websocket/  PROTOCOL 3
"""
