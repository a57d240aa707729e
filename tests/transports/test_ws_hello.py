"""Who it is: hello, tokens at the start and later, what waits until that is known."""

from typing import Any

import pytest

from gateway.errors import Invalid, Unavailable
from gateway.wire import Hello
from tests.transports.double import HubDouble, Tokens
from tests.transports.rig import Rig, refused

BOTH = pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])


@BOTH
async def test_hello_reaches_the_hub_and_brings_the_welcome(rig: Rig, hub: HubDouble, binary: bool) -> None:
    peer = rig.open(binary=binary)
    peer.send({"t": "hello", "token": "alice", "resume": "r0", "epoch": "k0", "ack": 17, "window": 8})
    assert await peer.answer() == [
        {"t": "welcome", "client": "alice", "epoch": "k1", "resume": "r1", "resumed": False}
    ]
    assert hub.named("hello") == [
        ("hello", "alice", Hello(token="alice", resume="r0", epoch="k0", ack=17, window=8))
    ]


@pytest.mark.parametrize(
    "frame",
    [
        {"t": "ping"},
        {"t": "ack", "seq": 1},
        {"t": "pub", "m": []},
        {"t": "bye"},
        {"t": "token", "token": "a"},
    ],
)
async def test_the_first_frame_is_hello(rig: Rig, hub: HubDouble, frame: dict[str, Any]) -> None:
    peer = rig.open()
    peer.send(frame)
    assert (await refused(peer))["code"] == "hello_first"
    assert [call[0] for call in hub.calls] == ["accept"]


async def test_a_second_hello_ends_the_connection(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.send({"t": "hello", "token": "alice"})
    assert (await refused(peer))["code"] == "hello_again"
    assert hub.named("hello", "disconnected")[1:] == [("disconnected", False)]


async def test_hello_needs_a_token_from_somewhere(rig: Rig, hub: HubDouble) -> None:
    peer = rig.open()
    peer.send({"t": "hello"})
    err = await refused(peer, 4300)
    assert (err["code"], err["field"]) == ("unauthorized", "$.token")
    assert not hub.named("hello", "disconnected")


@pytest.mark.parametrize(
    ("token", "close", "code"),
    [
        ("expired", 4200, "token_expired"),
        ("no.such.token", 4300, "token_invalid"),
        ("bob", 4300, "token_subject"),
    ],
)
async def test_a_bad_token_in_hello(rig: Rig, hub: HubDouble, token: str, close: int, code: str) -> None:
    peer = rig.open(headers={"Authorization": "Bearer alice"})
    peer.send({"t": "hello", "token": token})
    assert (await refused(peer, close))["code"] == code
    assert not hub.named("hello", "disconnected")


async def test_keys_that_are_away_are_4000(rig: Rig, hub: HubDouble, tokens: Tokens) -> None:
    peer = rig.open()
    peer.send({"t": "hello", "token": "slow:alice"})
    tokens.fetched.set_exception(Unavailable("keys are away", code="keys_unavailable", retry_after=2.0))
    err = await refused(peer, 4000)
    assert (err["code"], err["retry_after"]) == ("keys_unavailable", 2.0)


async def test_a_banned_client_is_4304(rig: Rig, hub: HubDouble) -> None:
    hub.bans.add("alice")
    peer = rig.open()
    peer.send({"t": "hello", "token": "alice"})
    assert (await refused(peer, 4304))["code"] == "banned"
    assert not hub.named("hello")


@pytest.mark.parametrize(
    ("error", "close"),
    [(Invalid("pools", code="address_kind_unsupported", field="$.pools"), 4303), (Unavailable("away"), 4000)],
)
async def test_a_hello_that_the_hub_refuses(rig: Rig, hub: HubDouble, error: Any, close: int) -> None:
    hub.raises["hello"] = error
    peer = rig.open()
    peer.send({"t": "hello", "token": "alice", "pools": ["support"]})
    err = await refused(peer, close)
    assert (err["code"], err.get("field")) == (error.code, error.field)
    assert not hub.named("disconnected")


async def test_nothing_is_taken_before_the_welcome_and_everything_after_it(rig: Rig, hub: HubDouble) -> None:
    hub.welcomes = False
    peer = rig.open()
    peer.send({"t": "hello", "token": "alice"}, {"t": "ack", "seq": 1})
    peer.send({"t": "pub", "m": [{"to": "bob", "body": 1}]}, {"t": "ack", "seq": 2})
    await rig.turn()
    assert not peer.transport.reading
    assert hub.named("ack", "publish") == []
    hub.welcome(hub.connections()[0])
    await rig.turn()
    assert hub.named("ack", "publish") == [("ack", 1, None), ("publish", "alice", "bob"), ("ack", 2, None)]
    assert peer.transport.reading
    assert [frame["t"] for frame in peer.frames()] == ["welcome", "ok"]


async def test_a_slow_key_holds_back_what_follows_hello(rig: Rig, hub: HubDouble, tokens: Tokens) -> None:
    peer = rig.open()
    peer.send({"t": "hello", "token": "slow:alice"}, {"t": "ack", "seq": 1})
    await rig.turn()
    assert hub.named("hello", "ack") == []
    tokens.fetched.set_result(None)
    await rig.turn()
    assert [call[0] for call in hub.named("hello", "ack")] == ["hello", "ack"]


async def test_a_client_that_leaves_before_its_welcome_is_told_to_the_hub_once(
    rig: Rig, hub: HubDouble
) -> None:
    hub.welcomes = False
    peer = rig.open()
    peer.send({"t": "hello", "token": "alice"}, {"t": "ack", "seq": 1})
    peer.transport.lose()
    await rig.turn()
    assert hub.named("disconnected", "left", "ack") == [("disconnected", False), ("left",)]


# -- a token for a connection that stands --------------------------------------------------------------------------


async def test_a_fresh_token_changes_what_the_client_may(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join("alice:1800000100")
    peer.send({"t": "token", "token": "alice:1800000200"}, {"t": "pub", "m": [{"to": "bob", "body": 1}]})
    assert hub.connections()[0].principal.exp == 1800000200
    assert [frame["t"] for frame in await peer.answer()] == ["ok"]


@pytest.mark.parametrize(
    ("token", "close", "code"),
    [
        ("bob", 4300, "token_subject"),
        ("expired", 4200, "token_expired"),
        ("no.such.token", 4300, "token_invalid"),
    ],
)
async def test_a_bad_fresh_token_ends_the_connection(
    rig: Rig, hub: HubDouble, token: str, close: int, code: str
) -> None:
    peer = await rig.join()
    peer.send({"t": "token", "token": token}, {"t": "ack", "seq": 1})
    assert (await refused(peer, close))["code"] == code
    assert hub.named("ack") == []


async def test_a_fresh_token_of_a_banned_client_is_4304(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    hub.bans.add("alice")
    peer.send({"t": "token", "token": "alice"})
    await refused(peer, 4304)


async def test_a_fresh_token_with_a_slow_key_holds_back_what_follows(
    rig: Rig, hub: HubDouble, tokens: Tokens
) -> None:
    peer = await rig.join()
    peer.send(
        {"t": "token", "token": "slow:alice"}, {"t": "ack", "seq": 1}, {"t": "token", "token": "slow:alice"}
    )
    await rig.turn()
    assert tokens.asked == ["slow:alice"]
    assert hub.named("ack") == []
    tokens.fetched.set_result(None)
    await rig.turn()
    assert hub.named("ack") == [("ack", 1, None)]
    assert tokens.asked == ["slow:alice"] * 2
    assert peer.transport.reading
