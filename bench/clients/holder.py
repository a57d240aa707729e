"""`python -m bench.clients.holder`: a process that holds idle sessions, for more of them than one process has sockets.

Standard input: a line of JSON (`Order`). Standard output: a number each time that so many more are connected, then
`ready`; when standard input ends, a line of JSON (`End`).
"""

import asyncio
import resource
import sys
import time

import msgspec
import uvloop

from bench.clients.mqtt import Device
from bench.clients.mqtt import connect_idle as connect_mqtt
from bench.clients.ws import LoadClient, Talker
from bench.clients.ws import connect_idle as connect_ws
from bench.pipeline import spread
from bench.server import Server

STEP = 250


class Order(msgspec.Struct):
    """What to hold: `idle` and `mqtt5` as of a leg; a token for each name."""

    idle: str
    mqtt5: bool
    url: str
    window: int
    tokens: dict[str, str]


class End(msgspec.Struct):
    """How it ended: sessions that were still there, seconds of CPU that it used."""

    open: int
    cpu: float


class Known(Server):
    """A server that another process has started."""

    def __init__(self, order: Order) -> None:
        super().__init__(order.window)
        self.tokens = order.tokens
        self.ws = self.mqtt = order.url

    def token(self, client: str) -> str:
        return self.tokens[client]


async def hold(order: Order) -> End:
    server = Known(order)
    names = list(order.tokens)
    held: list[Talker | Device] = []
    lost: list[str] = []

    async def one(i: int) -> None:
        if order.idle == "ws":
            client = await connect_ws(server, names[i])
            assert isinstance(client, LoadClient)
            client.on_lost = lost.append
            held.append(client)
        else:
            device = await connect_mqtt(5 if order.mqtt5 else 4, server, names[i])
            device.on_lost = lost.append
            held.append(device)
        if len(held) % STEP == 0:
            sys.stdout.write(f"{len(held)}\n")
            sys.stdout.flush()

    await spread(len(names), one)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
    still = len(held) - len(lost)
    for client in held:
        client.abort()
    return End(still, time.process_time())


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    found = uvloop.run(hold(order))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


if __name__ == "__main__":
    main()
