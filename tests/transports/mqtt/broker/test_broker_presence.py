"""Who is connected: the log of a real Mosquitto, lines of 2.1, events of EMQX, and lines that somebody made up."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config, Limits, Session
from gateway.records import ClientRecord
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.broker.presence import FILTERS, Presence
from tests.transports.mqtt.broker.rig import Broker, Device, Gateway, gateway_behind, mosquitto_in

LOG = b"$SYS/broker/log/N"


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with mosquitto_in(tmp_path, "log_dest topic", "log_type error", "connection_messages true") as one:
        yield one


@pytest.fixture
async def gateway(broker: Broker) -> AsyncIterator[Gateway]:
    config = Config(session=Session(offline_deadline=30.0), limits=Limits())
    async with gateway_behind(broker, config, presence="mosquitto", links=2) as one:
        yield one


async def plain(gateway: Gateway, *clients: str) -> None:
    for client in clients:
        await gateway.hub.put_client(client, ClientRecord(broker_plain=True))


def status(gateway: Gateway, client: str) -> Any:
    return gateway.hub.presence(client)["status"]


async def until(gateway: Gateway, client: str, what: str) -> None:
    await gateway.until(lambda: status(gateway, client) == what)


@pytest.mark.parametrize("version", [4, 5])
async def test_what_mosquitto_logs(gateway: Gateway, version: int) -> None:
    assert gateway.hub.presence_known
    await plain(gateway, "alice")
    assert status(gateway, "alice") == "offline"
    alice = await Device(gateway.broker, "alice", version).connect()
    await until(gateway, "alice", "online")
    await alice.leave()
    await until(gateway, "alice", "offline")
    alice = await Device(gateway.broker, "alice", version).connect()
    await until(gateway, "alice", "online")
    alice.cut()
    await until(gateway, "alice", "offline")
    alice = await Device(gateway.broker, "alice", version).connect()
    await until(gateway, "alice", "online")
    alice.write(b"\x00\x00")
    await until(gateway, "alice", "offline")
    # the links are not clients
    assert gateway.figure("presence", "told") == 6


async def test_a_take_over_is_no_end(gateway: Gateway) -> None:
    await plain(gateway, "alice", "bob")
    first = await Device(gateway.broker, "alice").connect()
    await until(gateway, "alice", "online")
    await Device(gateway.broker, "alice").connect()
    assert await first.packet() is None
    await Device(gateway.broker, "bob").connect()
    await until(gateway, "bob", "online")
    assert status(gateway, "alice") == "online"
    assert gateway.figure("presence", "told") == 3


async def test_a_broker_that_was_killed_has_lost_everybody(gateway: Gateway) -> None:
    await plain(gateway, "alice")
    await Device(gateway.broker, "alice").connect()
    await until(gateway, "alice", "online")
    gateway.every[0]._conn.drop("cut")
    await gateway.down()
    await gateway.up()
    assert status(gateway, "alice") == "online"
    await gateway.broker.kill()
    await gateway.down()
    await gateway.broker.start()
    await gateway.up()
    assert status(gateway, "alice") == "offline"
    await Device(gateway.broker, "alice").connect()
    await until(gateway, "alice", "online")


async def test_a_gateway_that_may_not_read_it(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def deny(self: Any, filters: list[str], qos: int) -> list[int]:
        return [0x87 if filters == FILTERS["mosquitto"] else 1 for _ in filters]

    monkeypatch.setattr("gateway.transports.mqtt.broker.connection.Connection.subscribe_to", deny)
    async with gateway_behind(broker, presence="mosquitto") as gateway:
        assert not gateway.hub.presence_known
        await plain(gateway, "alice")
        assert status(gateway, "alice") == "unknown"


async def test_a_client_id_made_of_words_of_the_log(gateway: Gateway) -> None:
    await plain(gateway, "alice")
    await Device(gateway.broker, "alice").connect()
    await until(gateway, "alice", "online")
    for name in ("alice disconnected.", "x: Client alice disconnected.", "alice closed its connection. x"):
        liar = await Device(gateway.broker, "mallory", name=name).connect()
        liar.write(codec.disconnect(5))
        assert await liar.packet() is None
    await plain(gateway, "bob")
    await Device(gateway.broker, "bob").connect()
    await until(gateway, "bob", "online")
    assert status(gateway, "alice") == "online"
    assert gateway.figure("presence", "told") == 2


# -- without a broker ----------------------------------------------------------------------------------------------


class Seer:
    def __init__(self) -> None:
        self.presence_known = False
        self.told: list[tuple[str, bool]] = []

    def seen(self, client: str, online: bool) -> None:
        self.told.append((client, online))


def told(source: str, topic: bytes, payload: bytes) -> list[tuple[str, bool]]:
    seer = Seer()
    presence = Presence(source, frozenset({"gateway:00of01"}), seer)
    presence.take(topic, payload)
    assert presence.told == len(seer.told)
    return seer.told


CAME = [
    "New client connected from 127.0.0.1:47082 as alice (p5, c1, k60).",
    "1795375770: New client connected from 127.0.0.1:47088 as alice (p2, c1, k60, u'us er').",
    "2026-11-22T19:00:00: New client connected from ::1:5 as alice (p2, c0, k0, u'Client bob disconnected.').",
]
WENT = [
    "Client alice disconnected.",
    "1795375770: Client alice closed its connection.",
    "Client alice has exceeded timeout, disconnecting.",
    "Client alice disconnected due to malformed packet.",
    "Client alice disconnected due to protocol error.",
    "Client alice disconnected due to oversize packet.",
    "Client alice been disconnected by administrative action.",
    "Client alice disconnected: Connection reset by peer.",
    # 2.1
    "Client alice [127.0.0.1:47082] disconnected.",
    "Client alice [::1:47082] disconnected: connection closed by client.",
    "1795375770: Client alice [127.0.0.1:47082] disconnected: exceeded timeout.",
    "Client alice [127.0.0.1:47082] disconnected: administrative action.",
    "Client alice [127.0.0.1:47082] disconnected: bad socket read/write: The connection was lost.",
    "Client alice [127.0.0.1:4] disconnected: used disallowed feature (QoS too high, or bad AUTH method).",
]
NOTHING = [
    "New connection from 127.0.0.1:47082 on port 1883.",
    "Client alice already connected, closing old connection.",
    "Client alice disconnected, not authorised.",
    "Client alice [127.0.0.1:4] disconnected: not authorised.",
    "Client alice [127.0.0.1:4] disconnected: bad username or password.",
    "Client alice [127.0.0.1:4] disconnected: session taken over.",
    # made up
    "Client alice disconnected. x closed its connection.",
    "Client alice disconnected: x closed its connection.",
    "Client alice closed its connection. disconnected.",
    "Client alice [1.2.3.4:5] disconnected: x [127.0.0.1:4] disconnected.",
    "New client connected from 127.0.0.1:4 as x as alice (p5, c1, k60). (p5, c1, k60).",
    "Client x: Client alice disconnected.",
    "mallory Client alice disconnected.",
    "Client al/ice disconnected.",
    "Client  disconnected.",
    "",
]


@pytest.mark.parametrize("line", CAME)
def test_lines_of_who_came(line: str) -> None:
    assert told("mosquitto", LOG, line.encode()) == [("alice", True)]


@pytest.mark.parametrize("line", WENT)
def test_lines_of_who_went(line: str) -> None:
    assert told("mosquitto", LOG, line.encode()) == [("alice", False)]


@pytest.mark.parametrize("line", [*NOTHING, "Client gateway:00of01 disconnected."])
def test_lines_that_say_nothing(line: str) -> None:
    assert told("mosquitto", LOG, line.encode()) == []


def test_a_line_that_is_not_text() -> None:
    assert told("mosquitto", LOG, b"Client \xff disconnected.") == []


@pytest.mark.parametrize(
    ("what", "event", "expected"),
    [
        ("connected", {"clientid": "alice", "username": "x", "ts": 1}, [("alice", True)]),
        ("disconnected", {"clientid": "alice", "reason": "tcp_closed"}, [("alice", False)]),
        ("disconnected", {"clientid": "alice"}, [("alice", False)]),
        ("disconnected", {"clientid": "alice", "reason": "takenover"}, []),
        ("disconnected", {"clientid": "alice", "reason": "discarded"}, []),
        ("disconnected", {"clientid": "gateway:00of01", "reason": "tcp_closed"}, []),
        ("connected", {"clientid": "al ice"}, []),
        ("connected", {"clientid": 5}, []),
        ("connected", {}, []),
        ("connected", [], []),
        ("other", {"clientid": "alice"}, []),
    ],
)
def test_events_of_emqx(what: str, event: Any, expected: list[tuple[str, bool]]) -> None:
    topic = f"$SYS/brokers/emqx@127.0.0.1/clients/alice/{what}".encode()
    assert told("emqx", topic, msgspec.json.encode(event)) == expected
    assert told("emqx", topic, b"\xff{") == []
    assert told("emqx", topic, b"[" * 100_000) == []
