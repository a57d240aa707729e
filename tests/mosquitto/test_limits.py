"""The limits of mosquitto.conf are in force."""

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import aiomqtt
import pytest

from tests.cli.support import Runner
from tests.mosquitto.rig import TIMEOUT, Broker, connack, connect_packet, cut, running

MAX_PACKET = 1_048_576
LOCAL_CONNECTIONS = 200


async def test_clients_of_mqtt_5_are_told(broker: Broker) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.local_port)
    try:
        writer.write(connect_packet("limits", "gateway", broker.password("gateway"), alive=65535))
        code, properties = await connack(reader)
    finally:
        writer.close()
        await writer.wait_closed()
    assert code == 0
    assert properties[0x27] == MAX_PACKET
    assert properties[0x24] == 1  # Maximum QoS
    assert properties[0x25] == 0  # Retain Available
    assert properties[0x13] == 1200  # Server Keep Alive
    assert properties[0x21] == 1000  # Receive Maximum


async def test_a_packet_above_the_limit_ends_the_connection(broker: Broker, cli: Runner) -> None:
    device = (await cli("mqtt", "provision", "large", "--json", *broker.admin)).json[0]
    topic = device["framed"]["publish"]
    # topic with its length, and a packet id
    most = MAX_PACKET - len(topic) - 4
    v311 = aiomqtt.ProtocolVersion.V311
    async with (
        broker.gateway(identifier="gw:large") as gateway,
        broker.client("large", device["password"], protocol=v311) as client,
    ):
        await gateway.subscribe("gw/v1/u/#", qos=1)
        await client.publish(topic, bytes(most - 4), qos=1)
        async with asyncio.timeout(TIMEOUT):
            assert len((await anext(gateway.messages)).payload) == most - 4
        # a PUBACK is not waited for, because none comes
        client._client.publish(topic, bytes(most + 64), qos=1)
        await cut(client)


async def test_no_client_id_no_session(broker: Broker) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.local_port)
    try:
        writer.write(connect_packet("", "gateway", broker.password("gateway")))
        # 2.0.11 says "unspecified error", later ones "client identifier not valid"
        assert (await connack(reader))[0] in {0x80, 0x85}
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("more", [{"qos": 2}, {"qos": 1, "retain": True}])
async def test_qos_2_and_retained_messages_end_the_connection(
    broker: Broker, cli: Runner, more: dict[str, int]
) -> None:
    name = f"flags-{more['qos']}"
    device = (await cli("mqtt", "provision", name, "--json", *broker.admin)).json[0]
    v311 = aiomqtt.ProtocolVersion.V311
    async with broker.client(name, device["password"], protocol=v311) as client:
        client._client.publish(device["framed"]["publish"], b"{}", more["qos"], bool(more.get("retain")))
        await cut(client)


def test_connections_are_counted(tmp_path: Path) -> None:
    with ExitStack() as stack:
        # a fresh one: 2.0.11 counts connections that have ended twice
        broker = stack.enter_context(running(tmp_path / "broker"))
        address = ("127.0.0.1", broker.local_port)
        for _ in range(LOCAL_CONNECTIONS):
            stack.enter_context(socket.create_connection(address, TIMEOUT))
        assert stack.enter_context(socket.create_connection(address, TIMEOUT)).recv(1) == b""
