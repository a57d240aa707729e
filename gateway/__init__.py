"""bot-gateway: durable, resumable sessions for chatbots and devices."""

__version__ = "0.1.0"
