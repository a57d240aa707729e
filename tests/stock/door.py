"""Where devices connect, and what the backend of a test asks of the gateway behind it: the gateway's own endpoint, or a
Mosquitto that both are clients of.
"""

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit
from zlib import crc32

import aiohttp

from gateway.cli.dynsec import Accounts
from gateway.topics import TopicNames
from tests.mosquitto.rig import Broker
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


class Door(ABC):
    """What tests ask of either."""

    def __init__(self, gateway: GatewayProcess, http: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.http = http

    # -- devices -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def address(self) -> tuple[str, int]:
        """Where it listens now."""

    @abstractmethod
    def password(self, client: str, claims: dict[str, Any]) -> str:
        """Of a device."""

    @abstractmethod
    def replies(self, client: str, address: str) -> str:
        """The response topic under which this client gets a request of `address`."""

    async def device(self, name: str, **record: Any) -> str:
        """A client id of a device that may connect; `record`: what the gateway is told of it."""
        client = fresh(name)
        if record:
            async with self.http.put(f"/v1/clients/{client}", json=record) as answer:
                assert answer.status == 200, await answer.text()
        return client

    def proxy(self) -> Proxy:
        return Proxy(self.address)

    def options(self, version: int, client: str, **more: Any) -> Options:
        """How a device connects that may; `more`: fields of Options, and `claims` of its token."""
        host, port = self.address()
        password = self.password(client, more.pop("claims", {}))
        fields: dict[str, Any] = {"host": host, "port": port, "version": version, "client": client}
        return Options(**fields | {"password": password} | more)

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

    async def presence(self, client: str, status: str) -> dict[str, Any]:
        return await self.until(f"/v1/clients/{client}", lambda c: c["status"] == status)

    async def letters(self, sender: str) -> list[dict[str, Any]]:
        """The dead letters that a publisher got, oldest first."""
        page = await self.get("/v1/dead-letters?limit=200")
        return [letter for letter in reversed(page["dead_letters"]) if letter["from"] == sender]

    @abstractmethod
    async def delivered(self, ids: list[str]) -> None:
        """All of them, over MQTT, as far as the gateway can tell."""


class Endpoint(Door):
    """The gateway's own endpoint."""

    def address(self) -> tuple[str, int]:
        url = urlsplit(self.gateway.mqtt)
        assert url.hostname is not None
        assert url.port is not None
        return url.hostname, url.port

    def password(self, client: str, claims: dict[str, Any]) -> str:
        return self.gateway.token(client, **claims)

    def replies(self, client: str, address: str) -> str:
        return f"gw/v1/to/{address}"

    async def delivered(self, ids: list[str]) -> None:
        """The device has acked them. The last acks become durable a moment after they were sent."""
        for id in ids:
            message = await self.message(id, "delivered")
            assert message["via"] == "mqtt"


class Behind(Door):
    """A Mosquitto as mosquitto/start makes it. Devices have accounts there, and are plain ones to the gateway."""

    def __init__(self, gateway: GatewayProcess, http: aiohttp.ClientSession, broker: Broker) -> None:
        super().__init__(gateway, http)
        self.broker = broker
        self._passwords: dict[str, str] = {}

    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.broker.local_port

    async def device(self, name: str, **record: Any) -> str:
        client = await super().device(name, broker_plain=True, **record)
        # as `bot-gateway mqtt provision` does
        admin = Accounts(*self.address(), None, "admin", self.broker.password("admin"))
        async with admin as accounts:
            self._passwords[client], _ = await accounts.provision(client, TopicNames(), rotate=False)
        return client

    def password(self, client: str, claims: dict[str, Any]) -> str:
        assert not claims, "the broker knows no tokens"
        return self._passwords[client]

    def replies(self, client: str, address: str) -> str:
        return uplink(client, address)

    async def delivered(self, ids: list[str]) -> None:
        """The broker has acked them: they are in its custody. Of the device nothing is known."""
        for id in ids:
            message = await self.until(
                f"/v1/messages/{id}", lambda m: m["timeline"] and m["timeline"][-1]["event"] == "broker_ack"
            )
            assert message["status"] == "sent", message

    async def ready(self) -> None:
        """All links of the gateway to the broker are up."""
        async with asyncio.timeout(30):
            while True:
                async with self.http.get("/readyz") as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(POLL)  # as above


def link_to(broker: Broker) -> str:
    """What makes a gateway its client, in the configuration."""
    return f"""
[mqtt.broker]
url = "mqtts://gateway:{broker.password("gateway")}@localhost:{broker.tls_port}"
ca_file = "{broker.folder / "gateway" / "ca.crt"}"
presence = "mosquitto"
"""


def body(message: dict[str, Any]) -> Any:
    """The number in a numbered message as a device got it."""
    return int(message["payload"].removeprefix('{"n":').removesuffix("}"))


def user(message: dict[str, Any]) -> dict[str, str]:
    """Its user properties: those of a message are given once each."""
    names = [name for name, _ in message["user"]]
    assert len(names) == len(set(names)), names
    return dict(message["user"])
