"""Where devices connect, and what the backend of a test asks of the gateway behind it."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit
from zlib import crc32

import aiohttp

from tests.stock.programs import Options
from tests.stock.proxy import Proxy
from tests.support.process import GatewayProcess

_numbers = itertools.count(1)
POLL: Final = 0.02
BATCH: Final = 200


def fresh(name: str) -> str:
    """A client id that no other test has: they share a gateway."""
    return f"{name}-{next(_numbers)}"


def inbox(client: str) -> str:
    """The topic of a plain client's messages."""
    return f"gw/v1/m/{client}"


def uplink(client: str, address: str) -> str:
    """Where a client publishes to an address, through the endpoint and through a broker."""
    return f"gw/v1/u/{crc32(client.encode()) % 64:02}/{client}/to/{address}"


class Endpoint:
    """The gateway's own endpoint."""

    def __init__(self, gateway: GatewayProcess, http: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.http = http

    def address(self) -> tuple[str, int]:
        """Where it listens now."""
        url = urlsplit(self.gateway.mqtt)
        assert url.hostname is not None
        assert url.port is not None
        return url.hostname, url.port

    def proxy(self) -> Proxy:
        return Proxy(self.address)

    def options(self, version: int, client: str, **more: Any) -> Options:
        """How a device connects that may; `more`: fields of Options, and `claims` of its token."""
        host, port = self.address()
        token = self.gateway.token(client, **more.pop("claims", {}))
        fields: dict[str, Any] = {"host": host, "port": port, "version": version, "client": client}
        return Options(**fields | {"password": token} | more)

    def subscribed(self, version: int, client: str, *, qos: int = 1, **more: Any) -> Options:
        """A device that is subscribed to its own inbox."""
        return self.options(version, client, subscribe=((inbox(client), qos),), **more)

    # -- the backend ---------------------------------------------------------------------------------------------------

    async def post(self, messages: list[dict[str, Any]]) -> list[str]:
        """Publish: the ids."""
        ids: list[str] = []
        for at in range(0, len(messages), BATCH):
            async with self.http.post("/v1/messages", json=messages[at : at + BATCH]) as answer:
                results = await answer.json()
                assert answer.status == 202, results
            assert all("id" in r for r in results), results
            ids += [r["id"] for r in results]
        return ids

    async def numbered(self, client: str, numbers: range) -> list[str]:
        """Messages whose bodies are the publisher's own index."""
        return await self.post([{"to": client, "body": {"n": n}} for n in numbers])

    async def get(self, path: str) -> dict[str, Any]:
        async with self.http.get(path) as answer:
            found: dict[str, Any] = await answer.json()
            assert answer.status == 200, found
        return found

    async def until(self, path: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask until the answer is as wanted."""
        found: dict[str, Any] = {}
        try:
            async with asyncio.timeout(30):
                while True:
                    found = await self.get(path)
                    if done(found):
                        return found
                    await asyncio.sleep(POLL)  # there is no event to await over a polling API
        except TimeoutError:
            raise AssertionError(f"{path} stays {found}") from None

    async def message(self, id: str, status: str) -> dict[str, Any]:
        """A message when it stands at `status`."""
        return await self.until(f"/v1/messages/{id}", lambda m: m["status"] == status)

    async def delivered(self, ids: list[str]) -> None:
        """All of them, over MQTT. The last acks become durable a moment after they were sent."""
        for id in ids:
            message = await self.message(id, "delivered")
            assert message["via"] == "mqtt"

    async def presence(self, client: str, status: str) -> dict[str, Any]:
        return await self.until(f"/v1/clients/{client}", lambda c: c["status"] == status)


def body(message: dict[str, Any]) -> Any:
    """The number in a numbered message as a device got it."""
    return int(message["payload"].removeprefix('{"n":').removesuffix("}"))


def user(message: dict[str, Any]) -> dict[str, str]:
    """Its user properties: those of a message are given once each."""
    names = [name for name, _ in message["user"]]
    assert len(names) == len(set(names)), names
    return dict(message["user"])
