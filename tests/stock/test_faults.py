"""Cut connections, a killed gateway, devices that stand still or never ack: nothing is lost, what may be a repetition
says so, order is kept.
"""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.stock.bots import Ledger
from tests.stock.door import Endpoint, body, fresh, uplink
from tests.stock.programs import Message, Program, Script, all_of, subscriber
from tests.stock.steps import PROGRAMS, VERSIONS
from tests.support.process import GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNT = 400


async def test_a_publisher_is_cut_in_mid_stream(endpoint: Endpoint, version: int) -> None:
    """paho-mqtt. MQTT.js tells its application that some of what was published meanwhile has failed."""
    sender = fresh("sender")
    ledger = Ledger()
    await ledger.open(endpoint.gateway)
    async with (
        endpoint.proxy() as proxy,
        Script("paho", endpoint.options(version, sender, port=proxy.port)) as device,
    ):
        await device.event("connected")
        topic = uplink(sender, ledger.bot.client)
        for start in range(0, COUNT, 100):
            for n in range(start, start + 100):
                device.publish_soon(Message(topic=topic, payload=b'{"n":%d}' % n))
            await ledger.until(start + 30)
            proxy.cut()
        answers = await all_of(device, "puback", COUNT)
        assert {a["code"] for a in answers} == {0}
        await ledger.until(COUNT - 1)
    await ledger.bot.drop()
    ledger.check("paho", COUNT)


async def test_the_gateway_of_publishers_is_killed(tmp_path: Path) -> None:
    async def publishes(program: Program, version: int) -> None:
        sender = fresh(program)
        ledger = Ledger()
        await ledger.open(gateway)
        async with (
            endpoint.proxy() as proxy,
            Script(program, endpoint.options(version, sender, port=proxy.port)) as device,
        ):
            await device.event("connected")
            topic = uplink(sender, ledger.bot.client)
            for n in range(100):
                await device.publish(Message(topic=topic, payload=b'{"n":%d}' % n))
            proxy.deafen()
            for n in range(100, 110):
                device.publish_soon(Message(topic=topic, payload=b'{"n":%d}' % n))
            await ledger.until(109)
            async with asyncio.timeout(60):
                await barrier.wait()  # all are accepted, no PUBACK has come: the gateway is killed
                await barrier.wait()
            await ledger.bot.drop()
            proxy.cut()
            for n in range(110, 120):
                device.publish_soon(Message(topic=topic, payload=b'{"n":%d}' % n))
            await ledger.open(gateway)
            await all_of(device, "puback", 20)
            await ledger.until(119)
            assert len(ledger.again) == 10
        await ledger.bot.drop()
        ledger.check(program, 120)

    kinds = [(program, version) for program in PROGRAMS[1:] for version in VERSIONS]
    barrier = asyncio.Barrier(len(kinds) + 1)
    async with GatewayProcess(tmp_path) as gateway, gateway.http() as http:
        endpoint = Endpoint(gateway, http)
        async with asyncio.TaskGroup() as tasks:
            for program, version in kinds:
                tasks.create_task(publishes(program, version))
            await barrier.wait()
            await gateway.kill()
            await gateway.start()
            await barrier.wait()


async def test_a_device_stands_still_for_a_while(endpoint: Endpoint, program: Program, version: int) -> None:
    """More than sockets and the window hold waits in the store."""
    client = fresh("device")
    for qos, count in ((0, 1500), (1, 300)):
        async with subscriber(program, endpoint.subscribed(version, client, qos=qos)) as device:
            assert (await device.event("subscribed"))["codes"] == [qos]
            device.signal(signal.SIGSTOP)
            text = "x" * 2000
            ids = await endpoint.post([{"to": client, "body": {"n": n, "text": text}} for n in range(count)])
            device.signal(signal.SIGCONT)
            got = await all_of(device, "message", count)
            await endpoint.delivered(ids[-1:])
            assert not device.waiting("closed"), device.told()
        assert [int(m["payload"][6:].partition(",")[0]) for m in got] == list(range(count))
        assert not any(m["dup"] for m in got)


IMPATIENT = """
[session]
ack_wait = 0.5
deliver_max = 2
"""


async def test_a_message_that_is_never_acked(tmp_path: Path) -> None:
    """The connection is closed for it, and the device comes back: as often as it may be delivered."""

    async def never_acks(program: Program, version: int) -> None:
        client = fresh(program)
        async with Script(program, endpoint.subscribed(version, client)) as device:
            await device.event("subscribed")
            await device.by_hand()
            ids = await endpoint.numbered(client, range(2))
            for turn in range(2):
                message = await device.event("message")
                assert (body(message), message["mid"], message["dup"]) == (0, 1, turn > 0)
                closed = await device.event("closed")
                # MQTT.js does not read on either
                told = version == 5 and program == "paho"
                assert closed["code"] == (0x83 if told else None)
                while device.waiting("message"):
                    # paho reads the next one without an ack of this
                    assert body(await device.event("message")) == 1
            assert (await endpoint.message(ids[0], "dead"))["why"] == "unacked"
            message = await device.event("message")
            assert (body(message), message["mid"], message["dup"]) == (1, 2, True)
            device.ack(message["mid"])
            await endpoint.delivered(ids[1:])

    async with GatewayProcess(tmp_path, IMPATIENT) as gateway, gateway.http() as http:
        endpoint = Endpoint(gateway, http)
        async with asyncio.TaskGroup() as tasks:
            for program in PROGRAMS[1:]:
                for version in VERSIONS:
                    tasks.create_task(never_acks(program, version))
