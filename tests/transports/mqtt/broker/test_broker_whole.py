"""The links with the project's own client, on the loop that the gateway runs on, and as they are imported and named."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.client import Client
from gateway.config import load
from gateway.config.checks import parse_broker
from gateway.errors import ConfigError
from tests.transports.mqtt.broker.rig import Broker, Framed, Gateway, gateway_behind, mosquitto_in


@pytest.fixture(autouse=True)
def _repeat_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.client.greeting.AGAIN", 0.1)
    monkeypatch.setattr("gateway.client.outbox.REPEAT_AFTER", 0.1)


async def test_the_projects_own_client_and_a_broker_that_is_killed(broker: Broker, gateway: Gateway) -> None:
    async with Client(broker.url, "secret", client="alice", ack_delay=0) as client:
        publishing = [asyncio.ensure_future(client.publish("bob", n)) for n in range(300)]
        for n in range(20):
            await gateway.publish("alice", n)
        await gateway.until(lambda: gateway.hub.figures()["accepted"] > 40)
        await broker.kill()
        await gateway.down()
        for n in range(20, 40):
            await gateway.publish("alice", n)
        await broker.start()
        await gateway.up()
        receipts = await asyncio.gather(*publishing)
        assert len({receipt.id for receipt in receipts}) == 300
        # in the publisher's order, each once
        assert await gateway.bodies("bob") == list(range(300))
        found = []
        async for message in client.messages():
            found.append(message.body)
            await message.ack()
            if len(found) == 40:
                break
        assert found == list(range(40))
    assert gateway.figure("sessions_lost") == 1


def test_on_the_loop_that_the_gateway_runs_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with mosquitto_in(tmp_path) as broker, gateway_behind(broker, links=2) as gateway:
            alice = await Framed(broker, "alice").joined()
            oks = await alice.pub(*({"to": "alice", "body": n, "ref": n} for n in range(50)))
            assert [ok["ref"] for ok in oks] == list(range(50))
            found: list[Any] = []
            while len(found) < 50:
                found += [m["body"] for m in (await alice.hear("msg"))["m"]]
                alice.say({"t": "ack", "seq": len(found)})
            assert found == list(range(50))
            await broker.kill()
            await gateway.down()
            await broker.start()
            await gateway.up()

    uvloop.run(scenario())


def test_who_has_no_broker_does_without_aiomqtt() -> None:
    code = "import sys, gateway.transports.mqtt.broker; sys.exit('aiomqtt' in sys.modules or 'paho' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "username", "password"),
    [
        ("mqtt://h", "h", 1883, False, None, None),
        ("mqtts://h", "h", 8883, True, None, None),
        ("mqtt://u:p%40%2F%3A@h.example:99", "h.example", 99, False, "u", "p@/:"),
        ("mqtts://u@[::1]:99/", "::1", 99, True, "u", None),
    ],
)
def test_urls(url: str, host: str, port: int, tls: bool, username: str | None, password: str | None) -> None:
    address = parse_broker(url)
    assert (address.host, address.port, address.tls) == (host, port, tls)
    assert (address.username, address.password) == (username, password)
    assert repr(address) == str(address) == f"{host}:{port}"


@pytest.mark.parametrize(
    "url",
    [
        "h:1883", "http://h", "mqtt://", "mqtt://:1883", "mqtt://h:0", "mqtt://h:99999", "mqtt://h:x", "mqtt://h/x",
        "mqtt://h?x", "mqtt://h#x", "mqtt://h h", "mqtt://u:sesame%ff@h", "mqtt://u:sesame@[::1", f"mqtt://{'h' * 70}",
    ],
)  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(None, {"BOTGW_MQTT__BROKER__URL": url})
    assert error.value.field == "mqtt.broker.url"
    assert "sesame" not in error.value.detail


def test_a_ca_file_without_tls() -> None:
    with pytest.raises(ConfigError) as error:
        load(None, {"BOTGW_MQTT__BROKER__URL": "mqtt://h", "BOTGW_MQTT__BROKER__CA_FILE": "ca.pem"})
    assert error.value.field == "mqtt.broker.ca_file"
