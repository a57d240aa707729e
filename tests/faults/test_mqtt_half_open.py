"""Half-open connections: a network that swallows everything, both ways, and tells nobody.

The gateway notices at 1.5 × keep alive: the session is away, and when its offline deadline has passed the message goes
by the fallback chain. Devices with the same keep alive whose pings arrive stay.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Publish
from tests.stock.proxy import Proxy
from tests.support.device import RawDevice
from tests.support.hook import SECRET, Receiver
from tests.support.process import GatewayProcess

KEEP_ALIVE = 2
OFFLINE = 0.5
VERSIONS = (4, 5)
CONFIG = """
[session]
offline_deadline = {offline}
[routes]
default = ["hook"]
[channels.hook]
kind = "webhook"
url = "{url}"
secret = "{secret}"
allow_private = true
"""


class Scene(NamedTuple):
    """Two devices behind a network that swallows everything, two that are well."""

    gateway: GatewayProcess
    http: aiohttp.ClientSession
    hook: Receiver
    proxy: Proxy
    mutes: "list[Device]"
    wells: "list[Device]"
    proofs: dict[str, int]  # when each of the silent ones was last heard, Unix ms
    ids: dict[str, str]  # the message that each was posted since


class Device:
    """It pings, reads and acks by itself; `got` has the `n` of what came."""

    def __init__(self, name: str, version: int) -> None:
        self.wire = RawDevice(name, version)
        self.name = name
        self.got: list[int] = []
        self.pids: list[int] = []

    @asynccontextmanager
    async def run(self, gateway: GatewayProcess, url: str) -> AsyncIterator["Device"]:
        await self.wire.join(url, gateway.token(self.name), keep_alive=KEEP_ALIVE)
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._ping())]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.wire.drop()

    async def _read(self) -> None:
        while (packet := await self.wire.packet(60)) is not None:
            if type(packet) is Publish:
                self.got.append(json.loads(packet.payload)["n"])
                self.pids.append(packet.pid)
                self.wire.ack(packet.pid)

    async def _ping(self) -> None:
        while True:
            self.wire.write(codec.pingreq())
            await asyncio.sleep(KEEP_ALIVE / 8)  # a device's own clock


async def post(http: aiohttp.ClientSession, names: list[str], n: int) -> dict[str, str]:
    """One message to each; their ids."""
    messages = [{"to": name, "body": {"n": n}} for name in names]
    async with http.post("/v1/messages", json=messages) as answer:
        return dict(zip(names, [r["id"] for r in await answer.json()], strict=True))


async def get(http: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    async with http.get(path) as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def until(true: Any, timeout: float = 20.0) -> bool:
    """Wait until it is true, which other tasks make it; whether it is."""
    try:
        async with asyncio.timeout(timeout):
            while not true():  # noqa: ASYNC110 - see below
                await asyncio.sleep(0.01)  # several tasks may make it true, no one of them says so
    except TimeoutError:
        return False
    return True


async def delivered(http: aiohttp.ClientSession, ids: Iterable[str]) -> None:
    """Wait until their acks have come through: else these would be handed over, too."""
    async with asyncio.timeout(20):
        for id in ids:
            while (await get(http, f"/v1/messages/{id}"))["status"] != "delivered":  # noqa: ASYNC110 - see below
                await asyncio.sleep(0.01)  # polling is the API's interface


@asynccontextmanager
async def fallen_silent(folder: Path, bug: str = "") -> AsyncIterator[Scene]:
    """The network has just begun to swallow everything; each device has acked a message and was posted a second one."""
    mutes = [Device(f"mute-{version}", version) for version in VERSIONS]
    wells = [Device(f"well-{version}", version) for version in VERSIONS]
    names = [d.name for d in (*mutes, *wells)]
    async with Receiver(lambda data, n: 204) as hook:
        config = CONFIG.format(offline=OFFLINE, url=hook.url, secret=SECRET)
        async with GatewayProcess(folder, config, bug=bug) as gateway, gateway.http() as http:
            parts = urlsplit(gateway.mqtt)
            async with (
                Proxy(lambda: (str(parts.hostname), int(parts.port or 0))) as proxy,
                mutes[0].run(gateway, f"mqtt://127.0.0.1:{proxy.port}"),
                mutes[1].run(gateway, f"mqtt://127.0.0.1:{proxy.port}"),
                wells[0].run(gateway, gateway.mqtt),
                wells[1].run(gateway, gateway.mqtt),
            ):
                first = await post(http, names, 0)
                assert await until(lambda: all(d.got == [0] for d in (*mutes, *wells)))
                await delivered(http, first.values())
                proxy.mute()
                proxy.deafen()
                proofs = {d.name: (await get(http, f"/v1/clients/{d.name}"))["last_proof"] for d in mutes}
                ids = await post(http, names, 1)
                assert await until(lambda: all(d.got == [0, 1] for d in wells))
                yield Scene(gateway, http, hook, proxy, mutes, wells, proofs, ids)


async def ends(http: aiohttp.ClientSession) -> dict[str, float]:
    """How connections ended, as the metrics tell it."""
    async with http.get("/metrics") as answer:
        text = await answer.text()
    name = "botgw_mqtt_disconnects{"
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(name)]
    return {key.split('"')[1]: float(value) for key, value in lines}


async def test_a_half_open_connection_ends_and_its_message_goes_elsewhere(tmp_path: Path) -> None:
    async with fallen_silent(tmp_path) as scene:
        http, ids, mutes = scene.http, scene.ids, scene.mutes
        assert await until(lambda: len(scene.hook.arrived) == len(mutes))
        assert set(scene.hook.arrived) == {ids[d.name] for d in mutes}
        for device in mutes:
            found = await get(http, f"/v1/clients/{device.name}")
            assert found["status"] == "offline"
            assert found["away_since"] >= scene.proofs[device.name] + 1.5 * KEEP_ALIVE * 1000
            message = await get(http, f"/v1/messages/{ids[device.name]}")
            steps = {step["event"]: step["at"] for step in message["timeline"]}
            assert steps["handed_over"] >= found["away_since"] + OFFLINE * 1000
            assert device.got == [0]
        # its pings were heard; it had no end
        for device in scene.wells:
            assert (await get(http, f"/v1/clients/{device.name}"))["status"] == "online"
        assert await ends(http) == {"server 0x8d": len(mutes)}

        # the network is back: the session goes on behind the message that went elsewhere
        scene.proxy.cut()
        url = scene.gateway.mqtt
        again = [Device(d.name, d.wire.version) for d in mutes]
        async with again[0].run(scene.gateway, url), again[1].run(scene.gateway, url):
            await post(http, [d.name for d in again], 2)
            assert await until(lambda: all(d.got for d in again))
            for device in again:
                assert device.wire.connack is not None
                assert device.wire.connack.session_present
                assert (device.got, device.pids) == ([2], [3])


async def test_a_keep_alive_that_nobody_checks_is_found(tmp_path: Path) -> None:
    """Seen to fail: the gateway takes the silent devices for present, and nobody ever gets their messages."""
    async with fallen_silent(tmp_path, "patient") as scene:
        assert not await until(lambda: scene.hook.arrived, 2 * KEEP_ALIVE + OFFLINE)
        for device in scene.mutes:
            assert (await get(scene.http, f"/v1/clients/{device.name}"))["status"] == "online"
