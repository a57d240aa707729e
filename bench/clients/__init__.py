"""The load side of each protocol: asyncio.Protocol over codecs without I/O, no tasks a message."""
