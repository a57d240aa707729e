"""A broker that is killed, stopped, not there, or does not want the gateway; and a gateway that stops."""

import asyncio
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from gateway.config import Broker as BrokerConfig
from gateway.errors import ConfigError
from gateway.transports.mqtt.broker import BrokerLinks
from tests.transports.mqtt.broker.rig import Broker, Device, Framed, Gateway, gateway_behind, mosquitto_in


async def test_a_broker_that_is_killed_forgets_the_session(gateway: Gateway) -> None:
    """Under default persistence: what it has written to disk is half an hour old."""
    broker = gateway.broker
    alice = await Framed(broker, "alice").joined()
    (ok,) = await alice.pub({"to": "bob", "body": 1, "key": "k1", "ref": 1})
    id = await gateway.publish("alice", "before")
    assert (await alice.hear("msg"))["m"][0]["body"] == "before"
    await broker.kill()
    await gateway.down()
    assert gateway.links.ready.startswith("broker: 1 of 1 links away: ")
    # its messages wait
    waiting = await gateway.publish("alice", "meanwhile")
    await broker.start()
    await gateway.up()
    assert gateway.figure("sessions_lost") == 1
    # the client goes on as it does whenever it was not answered
    alice = await Framed(broker, "alice").open("n1", will=False)
    welcome = await alice.hello()
    assert welcome["c"] == "n1"
    (again,) = await alice.pub({"to": "bob", "body": 1, "key": "k1", "ref": 1})
    assert again == {**ok, "dup": True}
    assert await gateway.bodies("bob") == [1]
    await alice.pub({"to": "bob", "body": 2, "key": "k2", "ref": 2})
    assert gateway.hub.presence("alice")["status"] == "online"
    assert {id, waiting} == {item.id for item in await gateway.to("alice")}


async def test_messages_wait_in_the_store_while_the_link_is_away(gateway: Gateway) -> None:
    alice = await Framed(gateway.broker, "alice").joined()
    await gateway.publish("alice", 1)
    await alice.hear("msg")
    alice.say({"t": "ack", "seq": 1})
    await gateway.until(lambda: gateway.hub.figures()["acked"] == 1)
    gateway.link._conn.drop("cut")
    await gateway.until(lambda: not gateway.link.up)
    assert gateway.link.desks._desks["alice"].peer.writable is False
    await gateway.publish("alice", 2)
    await gateway.up()
    (message,) = (await alice.hear("msg"))["m"]
    assert (message["body"], message.get("redelivered")) == (2, None)


async def test_what_was_written_into_a_link_that_was_lost_comes_again(gateway: Gateway) -> None:
    """All of it at once when the link is back, marked and in order, before anything new; else it came one by one, each
    when the ack timer of the one before had ended.
    """
    alice = await Framed(gateway.broker, "alice").joined()
    ids = [await gateway.publish("alice", 0)]
    assert (await alice.hear("msg"))["m"][0]["seq"] == 1
    link = gateway.link
    link._conn.write = lambda data: None
    ids += [await gateway.publish("alice", n) for n in range(1, 5)]
    alice.say({"t": "ack", "seq": 1})
    await gateway.settled()
    link._conn.drop("cut")
    await gateway.down()
    ids.append(await gateway.publish("alice", 5))
    await gateway.up()
    got = []
    while len(got) < 5:
        got += (await alice.hear("msg"))["m"]
    assert [(m["body"], m["seq"], m.get("redelivered", 0)) for m in got] == [
        (1, 2, 1), (2, 3, 1), (3, 4, 1), (4, 5, 1), (5, 6, 0),
    ]  # fmt: skip
    alice.say({"t": "ack", "seq": 6})
    await gateway.until(lambda: gateway.hub.figures()["in_flight"] == 0)
    await gateway.settled()
    # no attempt was counted
    assert {(await gateway.view(id)).item.tries for id in ids} == {0}


async def test_a_broker_that_is_stopped_keeps_the_session(gateway: Gateway) -> None:
    broker = gateway.broker
    await gateway.stop()
    alice = await Device(broker, "alice").connect()
    await alice.publish("bob", b"1", b"2")
    await broker.stop()
    await broker.start()
    await gateway.start()
    await gateway.until(lambda: gateway.figure("acked") == 2)
    assert await gateway.bodies("bob") == [1, 2]
    assert gateway.figure("sessions_lost") == 0


async def test_a_broker_that_comes_later(broker: Broker, pauses: list[tuple[int, int, int]]) -> None:
    await broker.kill()
    gateway = Gateway(broker, links=2)
    starting = asyncio.create_task(gateway.start())
    await gateway.until(lambda: hasattr(gateway, "links"))
    await gateway.until(lambda: "refused" in gateway.links.ready)
    assert gateway.links.ready.startswith("broker: 2 of 2 links away: ")
    assert gateway.figure("links_up") == 0
    # each link by itself waits longer and longer
    await gateway.until(lambda: pauses.count((500, 30_000, 3)) == 2)
    assert [pauses.count((500, 30_000, attempt)) for attempt in (1, 2)] == [2, 2]
    await broker.start()
    await starting
    assert gateway.links.ready == ""
    await gateway.stop()


async def test_a_broker_that_does_not_know_the_gateway(tmp_path: Path) -> None:
    async with mosquitto_in(tmp_path, "allow_anonymous false") as broker:
        url = f"mqtt://gateway:open%20sesame@127.0.0.1:{broker.port}"
        gateway = Gateway(broker, url=url)
        with capture_logs() as logs:
            starting = asyncio.create_task(gateway.start())
            await gateway.until(lambda: hasattr(gateway, "links"))
            await gateway.until(lambda: "0x87" in gateway.links.ready)
            assert gateway.links.ready == "broker: 1 of 1 links away: refused: 0x87 Not authorized"
            starting.cancel()
            await gateway.stop()
    said = str(logs)
    assert "0x87" in said
    assert "sesame" not in said


async def test_a_subscription_that_is_not_granted(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def deny(self: Any, filters: list[str], qos: int) -> list[int]:
        assert filters == [f"gw/v1/u/{part:02}/#" for part in range(64)]
        return [*[1] * 63, 0x87]

    monkeypatch.setattr("gateway.transports.mqtt.broker.connection.Connection.subscribe_to", deny)
    gateway = Gateway(broker)
    starting = asyncio.create_task(gateway.start())
    await gateway.until(lambda: hasattr(gateway, "links"))
    await gateway.until(lambda: "0x87" in gateway.links.ready)
    assert gateway.links.ready.endswith(": subscription not granted: 0x87")
    starting.cancel()
    await gateway.stop()


async def test_another_gateway_with_its_name(gateway: Gateway) -> None:
    other = await Device(gateway.broker, "bot-gateway:00of01").connect()
    # Mosquitto 2.0 just hangs up
    await gateway.until(lambda: gateway.figure("reconnects") == 1)
    await gateway.up()
    assert await other.packet() is None


async def test_a_gateway_that_stops(broker: Broker) -> None:
    async with gateway_behind(broker) as gateway:
        alice = await Framed(broker, "alice").joined()
        gateway.store.held = True
        alice.say({"t": "pub", "m": [{"ref": 1, "to": "bob", "body": 1}]})
        carol = await Device(broker, "carol").connect()
        await carol.publish("bob", b"2")
        await gateway.until(lambda: gateway.figure("unacked") == 2)
        stopping = asyncio.create_task(gateway.stop())
        await gateway.until(lambda: gateway.hub.custodian is None)
        await carol.publish("bob", b"3")
        await gateway.until(lambda: gateway.figure("received") == 4)
        gateway.store.let_go()
        await stopping
        # what was with the hub is answered and acknowledged
        assert (await alice.hear("ok"))["m"][0]["ref"] == 1
        err = await alice.hear("err")
        assert (err["code"], err["close"]) == ("draining", 4000)
        assert gateway.figure("desks") == 0
        await gateway.start()
        await gateway.until(lambda: gateway.figure("acked") == 1)
        assert await gateway.bodies("bob") == [1, 2, 3]
        assert gateway.figure("received") == 1
        assert gateway.figure("possible_duplicates") == 0


async def test_a_gateway_that_stops_without_a_broker(broker: Broker) -> None:
    async with gateway_behind(broker) as gateway:
        await Framed(broker, "alice").joined()
        await broker.kill()
        await gateway.down()
    assert gateway.figure("desks") == 0


@pytest.fixture
async def impatient(broker: Broker) -> AsyncIterator[Gateway]:
    """Its keep alive is one second."""
    async with gateway_behind(broker, keep_alive=1) as one:
        yield one


async def test_a_broker_that_stands_still_is_given_up(impatient: Gateway) -> None:
    gateway = impatient
    conn = gateway.link._conn
    # its socket stays
    process = gateway.broker._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.wait((conn.ended,), timeout=20)
        assert conn.ended.result() == "connection lost"
    finally:
        process.send_signal(signal.SIGCONT)
    await gateway.up()


async def test_a_link_that_is_not_read_stays(impatient: Gateway) -> None:
    """Longer than its keep alive: the broker would hang up, and paho too."""
    gateway = impatient
    conn = gateway.link._conn
    conn.pause()
    alice = await Device(gateway.broker, "alice").connect()
    await alice.publish("bob", b"1")
    await asyncio.wait((conn.ended,), timeout=3.5)
    assert not conn.ended.done()
    assert gateway.figure("received") == 0
    conn.resume()
    await gateway.until(lambda: gateway.figure("acked") == 1)
    assert not conn.ended.done()


# -- TLS, configuration --------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


async def test_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    async with (
        mosquitto_in(tmp_path, f"certfile {cert}", f"keyfile {key}") as broker,
        gateway_behind(broker, url=f"mqtts://localhost:{broker.port}", ca_file=str(cert)) as gateway,
    ):
        context = ssl.create_default_context(cafile=str(cert))
        alice = await Device(broker, "alice").connect(tls=context)
        # more than one record of TLS, and many small packets in one
        await alice.publish("bob", b'"%b"' % (b"x" * 3000), *(b"%d" % n for n in range(100)))
        await gateway.until(lambda: gateway.figure("acked") == 101)
        assert (await gateway.bodies("bob"))[1:] == list(range(100))


# paho leaves the socket of a failed handshake to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    async with mosquitto_in(tmp_path, f"certfile {cert}", f"keyfile {key}") as broker:
        untrusted = Gateway(broker, url=f"mqtts://localhost:{broker.port}")
        starting = asyncio.create_task(untrusted.start())
        await untrusted.until(lambda: hasattr(untrusted, "links"))
        await untrusted.until(lambda: "certificate" in untrusted.links.ready)
        starting.cancel()
        await untrusted.stop()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"url": "http://h"}, "mqtt.broker.url"),
        ({"url": "mqtts://u:secret@h", "ca_file": "/nowhere/ca.pem"}, "mqtt.broker.ca_file"),
    ],
)
async def test_a_configuration_that_cannot_be_used(broker: Broker, settings: Any, field: str) -> None:
    gateway = Gateway(broker)
    mqtt = gateway.config.mqtt
    config = replace(gateway.config, mqtt=replace(mqtt, broker=BrokerConfig(**settings)))
    with pytest.raises(ConfigError) as error:
        await BrokerLinks.start(gateway.make_hub(), config)
    assert error.value.field == field
    assert "secret" not in error.value.detail
