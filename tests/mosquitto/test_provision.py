"""`bot-gateway mqtt`: a device gets its own topics and nothing else, until it is revoked."""

import asyncio
import contextlib
import gc
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from zlib import crc32

import aiomqtt
import pytest
from paho.mqtt.reasoncodes import ReasonCode

from gateway.cli import dynsec
from tests.cli.support import Runner
from tests.mosquitto.rig import TIMEOUT, Broker, cut

V311 = aiomqtt.ProtocolVersion.V311
V5 = aiomqtt.ProtocolVersion.V5


async def provision(cli: Runner, broker: Broker, client: str, *more: str) -> dict[str, Any]:
    result = await cli("mqtt", "provision", client, "--json", *broker.admin, *more)
    assert result.code == 0, result.err
    (device,) = result.json
    assert isinstance(device, dict)
    return device


async def granted(client: aiomqtt.Client, *filters: str) -> list[str]:
    """Those of the filters that the broker grants."""
    codes = await client.subscribe([(topic, 1) for topic in filters])
    assert len(codes) == len(filters)
    # paho makes reason codes of 3.1.1, too
    return [
        topic
        for topic, code in zip(filters, codes, strict=True)
        if isinstance(code, ReasonCode) and not code.is_failure
    ]


async def collect(client: aiomqtt.Client, last: str) -> list[str]:
    """The topics of what comes, up to `last`."""
    topics = []
    async with asyncio.timeout(TIMEOUT):
        async for message in client.messages:
            topics.append(message.topic.value)
            if topics[-1] == last:
                break
    return topics


async def refused(client: aiomqtt.Client) -> str:
    """What the broker says to a CONNECT that it does not accept."""
    with pytest.raises(aiomqtt.MqttCodeError) as error:
        await client.__aenter__()
    return str(error.value)


async def test_the_settings_of_a_device(broker: Broker, cli: Runner) -> None:
    device = await provision(cli, broker, "dev.settings")
    part = f"{crc32(b'dev.settings') % 64:02}"
    assert len(device.pop("password")) >= 32
    assert device == {
        "url": broker.url,
        "host": "localhost",
        "port": broker.tls_port,
        "tls": True,
        "ca_file": str(broker.folder / "ca.crt"),
        "client_id": "dev.settings",
        "username": "dev.settings",
        "part": part,
        "plain": {
            "subscribe": "gw/v1/m/dev.settings",
            "publish": f"gw/v1/u/{part}/dev.settings/to/{{address}}",
        },
        "framed": {"subscribe": "gw/v1/d/dev.settings", "publish": f"gw/v1/u/{part}/dev.settings"},
    }


async def test_the_settings_for_people(broker: Broker, cli: Runner) -> None:
    result = await cli("mqtt", "provision", "dev-shown", *broker.admin)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == "dev-shown  new"
    told = dict(line[4:].rsplit(" ", 1) for line in lines[2:])
    assert told["username"] == told["client id"] == "dev-shown"
    assert told["framed publish"] == f"gw/v1/u/{told['part']}/dev-shown"
    assert "outer address" in result.err
    async with broker.client("dev-shown", told["password"]) as device:
        assert await granted(device, told["plain subscribe"]) == ["gw/v1/m/dev-shown"]


@pytest.mark.parametrize("version", [V311, V5])
async def test_a_device_reads_its_own_topics_only(
    broker: Broker, cli: Runner, version: aiomqtt.ProtocolVersion
) -> None:
    name, other = f"reader-{version.name}", "reader-other"
    settings = await provision(cli, broker, name)
    own = [f"gw/v1/m/{name}", f"gw/v1/d/{name}"]
    foreign = [
        *(f"gw/v1/m/{other}", f"gw/v1/d/{other}", f"gw/v1/u/{settings['part']}/{name}"),
        *("gw/v1/m/+", "gw/v1/m/#", "gw/v1/#", "#", "+/v1/m/+", "gw/v1/u/#"),
        *(f"$share/g/gw/v1/m/{other}", f"$share/g/gw/v1/m/{name}"),
        *("$SYS/#", "$SYS/broker/log/N", "$CONTROL/#", "$CONTROL/dynamic-security/v1/response"),
    ]
    async with (
        broker.client(name, settings["password"], protocol=version) as device,
        broker.gateway(identifier=f"gw:{name}") as gateway,
    ):
        assert await granted(device, *own, *foreign) == own
        for topic in (f"gw/v1/m/{other}", own[1], f"gw/v1/d/{other}", own[0]):
            await gateway.publish(topic, b"{}", qos=1)
        assert await collect(device, own[0]) == [own[1], own[0]]


@pytest.mark.parametrize("version", [V311, V5])
async def test_a_device_publishes_below_its_own_uplink_only(
    broker: Broker, cli: Runner, version: aiomqtt.ProtocolVersion
) -> None:
    name = f"writer-{version.name}"
    settings = await provision(cli, broker, name)
    up = settings["framed"]["publish"]
    evil = {"commands": [{"command": "createClient", "username": f"evil-{name}", "password": "p" * 32}]}
    async with (
        broker.client(name, settings["password"], protocol=version) as device,
        broker.gateway(identifier=f"gw:{name}") as gateway,
    ):
        assert await granted(gateway, "gw/v1/u/#") == ["gw/v1/u/#"]
        await device.publish("$CONTROL/dynamic-security/v1", json.dumps(evil), qos=1)
        for topic in (
            up,
            f"{up}/to/pool:support",
            f"{up}/to/a/b",
            f"{up}/from/a",
            f"{up}x",
            "gw/v1/u/00/somebody",
            "gw/v1/u/00/somebody/to/a",
            f"gw/v1/d/{name}",
            f"gw/v1/m/{name}",
            "gw/v1/to/a",
            f"{up}/to/last",
        ):
            await device.publish(topic, b"{}", qos=1)
        assert await collect(gateway, f"{up}/to/last") == [up, f"{up}/to/pool:support", f"{up}/to/last"]
    assert "ot authori" in await refused(broker.client(f"evil-{name}", "p" * 32))


async def test_the_client_id_is_pinned(broker: Broker, cli: Runner) -> None:
    settings = await provision(cli, broker, "pinned")
    for version in (V311, V5):
        client = broker.client("pinned", settings["password"], identifier="reader", protocol=version)
        assert "ot authori" in await refused(client)
        async with broker.client("pinned", settings["password"], protocol=version):
            pass


async def test_the_gateway_sees_who_comes_and_goes(broker: Broker, cli: Runner) -> None:
    settings = await provision(cli, broker, "seen")
    said = []
    async with broker.gateway(identifier="gw:presence") as gateway:
        own = ["$SYS/broker/log/N", "gw/v1/u/07/#"]
        assert await granted(gateway, *own, "$CONTROL/#", "#", "gw/v1/#", "gw/v1/m/#") == own
        async with broker.client("seen", settings["password"]):
            pass
        async with asyncio.timeout(TIMEOUT):
            async for message in gateway.messages:
                assert isinstance(message.payload, bytes)
                said.append(message.payload.decode().partition(": ")[2])
                # from 2.1 on with the address of the client
                if re.fullmatch(r"Client seen (\[127\.0\.0\.1:\d+\] )?disconnected\.", said[-1]):
                    break
    came = r"New client connected from 127\.0\.0\.1:\d+ as seen \(p5, c1, k60, u'seen'\)\."
    assert len([line for line in said if re.fullmatch(came, line)]) == 1


async def test_a_prefix(broker: Broker, cli: Runner) -> None:
    settings = await provision(cli, broker, "prefixed", "--prefix", "plant/7")
    assert settings["plain"]["subscribe"] == "plant/7/m/prefixed"
    async with broker.client("prefixed", settings["password"]) as device:
        topics = ("plant/7/m/prefixed", "gw/v1/m/prefixed")
        assert await granted(device, *topics) == ["plant/7/m/prefixed"]


async def test_new_credentials_come_only_when_asked_for(broker: Broker, cli: Runner) -> None:
    first = await provision(cli, broker, "again")
    result = await cli("mqtt", "provision", "again", *broker.admin)
    assert result.code == 1
    assert "--rotate" in result.error
    async with broker.client("again", first["password"]) as device:
        second = await provision(cli, broker, "again", "--rotate", "--prefix", "moved")
        await cut(device)
    assert first["password"] != second["password"]
    assert "ot authori" in await refused(broker.client("again", first["password"]))
    async with broker.client("again", second["password"]) as device:
        assert await granted(device, "gw/v1/m/again", "moved/m/again") == ["moved/m/again"]


@contextlib.asynccontextmanager
async def live(broker: Broker, name: str, password: str, transport: str) -> AsyncIterator[aiomqtt.Client]:
    port = broker.websocket_port if transport == "websockets" else broker.tls_port
    async with broker.client(name, password, port=port, transport=transport) as device:
        yield device


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
async def test_revoke_cuts_the_connection_and_keeps_it_away(
    broker: Broker, cli: Runner, transport: str
) -> None:
    name = f"revoked-{transport}"
    settings = await provision(cli, broker, name)
    async with live(broker, name, settings["password"], transport) as device:
        result = await cli("mqtt", "revoke", name, *broker.admin)
        assert (result.code, result.out) == (0, f"{name}: revoked\n")
        await cut(device)
    assert "ot authori" in await refused(broker.client(name, settings["password"]))
    again = await cli("mqtt", "revoke", name, *broker.admin)
    assert again.code == 3
    assert name in again.error
    # nothing is left that a later device of that name would inherit
    accounts = (broker.folder / "state/dynamic-security.json").read_text()
    assert name not in accounts
    fresh = await provision(cli, broker, name)
    async with live(broker, name, fresh["password"], transport):
        pass


@pytest.mark.parametrize("command", [["provision", "--rotate"], ["revoke"]])
@pytest.mark.parametrize("name", ["admin", "gateway"])
async def test_accounts_that_are_no_devices_are_left_alone(
    broker: Broker, cli: Runner, command: list[str], name: str
) -> None:
    result = await cli("mqtt", command[0], name, *command[1:], *broker.admin)
    assert result.code == 1
    assert "no device" in result.error
    async with broker.client(name, broker.password("admin" if name == "admin" else "gateway")):
        pass


async def test_a_disabled_device_is_not_opened_again(broker: Broker, cli: Runner) -> None:
    await provision(cli, broker, "disabled")
    async with broker.client("admin", broker.password("admin"), identifier="test-admin") as admin:
        await admin.subscribe("$CONTROL/dynamic-security/v1/response")
        command = {"commands": [{"command": "disableClient", "username": "disabled"}]}
        await admin.publish("$CONTROL/dynamic-security/v1", json.dumps(command))
        await anext(admin.messages)
    result = await cli("mqtt", "provision", "disabled", "--rotate", *broker.admin)
    assert result.code == 1
    assert "disabled at the broker" in result.error
    assert (await cli("mqtt", "revoke", "disabled", *broker.admin)).code == 0


# -- what can go wrong -------------------------------------------------------------------------------------------------


async def test_a_wrong_admin(broker: Broker, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    options = broker.admin[:4]
    monkeypatch.setenv("BOT_GATEWAY_ADMIN_PASSWORD", "a-wrong-password")
    wrong = await cli("mqtt", "provision", "alice", *options)
    assert wrong.code == 1
    assert wrong.error == "bot-gateway: --admin-user: the broker does not accept admin with this password"
    monkeypatch.setenv("BOT_GATEWAY_ADMIN_PASSWORD", broker.password("gateway"))
    powerless = await cli("mqtt", "provision", "alice", "--admin-user", "gateway", *options)
    assert powerless.code == 1
    assert "gateway has no right to change accounts" in powerless.error
    monkeypatch.setenv("BOT_GATEWAY_ADMIN_PASSWORD", broker.password("admin"))
    assert (await cli("mqtt", "revoke", "nobody-yet", *options)).code == 3


async def test_without_dynamic_security(broker: Broker, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker takes the request, and nobody answers: as where the plugin is not loaded."""
    monkeypatch.setattr(dynsec, "CONTROL", "$CONTROL/another-plugin/v1")
    monkeypatch.setattr(dynsec, "ANSWER_TIMEOUT", 0.3)
    result = await cli("mqtt", "provision", "alice", *broker.admin)
    assert result.code == 5
    assert "is dynamic security loaded" in result.error


async def test_an_address_without_tls(broker: Broker, cli: Runner) -> None:
    local = f"mqtt://127.0.0.1:{broker.local_port}"
    named = broker.admin[4:]
    result = await cli("mqtt", "provision", "local", "--json", "--broker", local, *named)
    assert result.code == 0
    assert (result.json[0]["url"], result.json[0]["tls"], result.json[0]["ca_file"]) == (local, False, None)
    wrong = await cli("mqtt", "provision", "local", "--broker", local.replace("mqtt:", "mqtts:"), *named)
    assert wrong.code == 4


# paho leaves the socket of a failed handshake to the garbage collector
@pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
async def test_a_certificate_that_is_not_trusted(broker: Broker, cli: Runner) -> None:
    result = await cli("mqtt", "provision", "alice", "--broker", broker.url, *broker.admin[4:])
    assert result.code == 4
    assert result.error.startswith("bot-gateway: --ca-file: cannot trust localhost:")
    gc.collect()
