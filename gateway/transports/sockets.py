"""The last bytes of a socket."""

import asyncio


def end_stream(transport: asyncio.Transport) -> None:
    """End our half of the stream. What the peer still sends is read and thrown away: closing over it would reset the
    connection, and the last packet could be lost on its way.
    """
    if not transport.can_write_eof():
        transport.close()
        return
    try:
        transport.write_eof()
    except OSError:
        # it is gone, and nobody had noticed
        transport.abort()
