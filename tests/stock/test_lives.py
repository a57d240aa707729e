"""How connections of stock clients end, and how the devices come back by themselves."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.stock.door import Door, Endpoint, body, fresh
from tests.stock.programs import Program, Script, all_of, subscriber
from tests.stock.steps import KINDS, Steps
from tests.support.process import GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

DRAIN = """
[mqtt]
server_reference = "other.example:1883"
[drain]
after = [0.0, 0.1]
timeout = 0.2
[session]
ack_wait = 60
"""


async def test_the_gateway_is_killed_and_later_drained(tmp_path: Path) -> None:
    """Devices of every kind connect again by themselves, and get what they had not acked under its old ids."""
    steps = Steps(len(KINDS))

    async def lives(program: Program, version: int) -> None:
        client = fresh(program)
        async with endpoint.proxy() as proxy:
            options = endpoint.subscribed(version, client, port=proxy.port)
            async with subscriber(program, options) as device:
                await device.event("subscribed")
                acked = await endpoint.numbered(client, range(5))
                got = await all_of(device, "message", 5)
                await endpoint.delivered(acked)
                proxy.mute()
                held = await endpoint.numbered(client, range(5, 15))
                got += await all_of(device, "message", 10)
                await steps.reached()  # the gateway is killed ...
                await steps.reached()
                proxy.cut()
                late = await after.numbered(client, range(15, 18))
                got += await all_of(device, "message", 13)
                await after.delivered(acked + held + late)
                assert proxy.present == [False, True]
                assert [body(m) for m in got] == [*range(15), *range(5, 18)]
                assert [m["mid"] for m in got] == [*range(1, 16), *range(6, 19)]
                assert [m["dup"] for m in got] == [False] * 15 + [True] * 10 + [False] * 3
                while device.waiting("closed"):
                    await device.event("closed")
                await steps.reached()  # ... and drained
                if version == 5:
                    closed = await device.event("closed")
                    assert closed["code"] == 0x9C
                    assert closed.get("reference", "other.example:1883") == "other.example:1883"
                elif program != "mosquitto":
                    assert (await device.event("closed"))["code"] is None
                await steps.reached()

    async with GatewayProcess(tmp_path, DRAIN) as gateway, gateway.http() as http:
        endpoint = after = Endpoint(gateway, http)
        async with asyncio.TaskGroup() as tasks:
            for program, version in KINDS:
                tasks.create_task(lives(program, version))
            await steps.reached()
            await gateway.kill()
            await gateway.start()
            async with gateway.http() as again:
                after = Endpoint(gateway, again)
                await steps.reached()
                await steps.reached()
                assert await gateway.kill(signal.SIGTERM) == 0
                await steps.reached()


async def test_quiet_devices_stay(tmp_path: Path) -> None:
    """Their pings keep them; those with MQTT 5 are told how often to ping."""

    async def stays(program: Program, version: int) -> None:
        client = fresh(program)
        # mosquitto_sub takes nothing below 5 s
        keepalive = 60 if version == 5 else 3
        pongs = 1 if program == "mosquitto" else 2
        options = endpoint.subscribed(version, client, keepalive=keepalive)
        async with subscriber(program, options) as device:
            await device.event("subscribed")
            await all_of(device, "pong", pongs)
            ids = await endpoint.numbered(client, range(1))
            await device.event("message")
            await endpoint.delivered(ids)
            assert not device.waiting("closed"), device.told()

    config = "[mqtt]\nmax_keep_alive = 3\n"
    async with GatewayProcess(tmp_path, config) as gateway, gateway.http() as http:
        endpoint = Endpoint(gateway, http)
        async with asyncio.TaskGroup() as tasks:
            for program, version in KINDS:
                tasks.create_task(stays(program, version))


async def test_a_take_over(door: Door, program: Program, version: int) -> None:
    client = await door.device("device")
    options = door.subscribed(version, client, reconnect=False)
    async with door.proxy() as proxy, subscriber(program, options.but(port=proxy.port)) as older:
        await older.event("subscribed")
        await door.presence(client, "online")
        proxy.mute()
        await door.numbered(client, range(3))
        await all_of(older, "message", 3)
        async with Script("paho", options) as newer:
            assert (await newer.event("connected"))["present"] is True
            if version == 5 and isinstance(door, Endpoint):
                # Mosquitto says so from 2.1 on
                assert (await older.event("closed"))["code"] == 0x8E
            await older.kill()
            ids = await door.numbered(client, range(3, 6))
            got = await all_of(newer, "message", 6)
            await door.delivered(ids)
            assert (await door.get(f"/v1/clients/{client}"))["status"] == "online"
    assert [(body(m), m["dup"]) for m in got] == [(n, n < 3) for n in range(6)]


@pytest.mark.parametrize("program", ["paho", "mqttjs"])
async def test_a_session_that_is_to_end_with_the_disconnect(endpoint: Endpoint, program: Program) -> None:
    """MQTT 5: Session Expiry 0 in the DISCONNECT. Messages stay."""
    client = fresh("device")
    options = endpoint.subscribed(5, client)
    present: list[Any] = []
    for expiry in (None, 0, None):
        async with Script(program, options) as device:
            present.append((await device.event("connected"))["present"])
            await device.event("subscribed")
            device.disconnect(expiry=expiry)
            await endpoint.presence(client, "offline")
    ids = await endpoint.numbered(client, range(2))
    async with Script(program, options) as device:
        present.append((await device.event("connected"))["present"])
        got = await all_of(device, "message", 2)
        await endpoint.delivered(ids)
    assert present == [False, True, False, True]
    assert [(body(m), m["dup"]) for m in got] == [(0, False), (1, False)]
