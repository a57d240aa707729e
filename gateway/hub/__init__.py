"""The one driver: feeds the engine, executes what it asks, owns the timer, talks to the ports."""

from gateway.hub.hub import Hub

__all__ = ["Hub"]
