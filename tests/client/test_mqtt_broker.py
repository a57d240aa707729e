"""The client through a real Mosquitto: kills, losses on the way, wills, and two clients with one name."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.client import Client, Message, TakenOver
from tests.client.broker import PATIENCE, Broker, Frame, Gateway, gateway_behind, running


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running(tmp_path) as one:
        yield one


@pytest.fixture
async def behind(broker: Broker) -> AsyncIterator[Gateway]:
    async with gateway_behind(broker) as one:
        yield one


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is repeated is repeated soon."""
    monkeypatch.setattr("gateway.client.greeting.AGAIN", 0.1)
    monkeypatch.setattr("gateway.client.outbox.REPEAT_AFTER", 0.1)


def alice(broker: Broker, **options: Any) -> Client:
    return Client(broker.url, "secret", client="alice", **({"ack_delay": 0} | options))


async def take(client: Client, count: int) -> list[Message]:
    messages = client.messages()
    async with asyncio.timeout(PATIENCE):
        return [await anext(messages) for _ in range(count)]


def is_(t: str, **fields: Any) -> Any:
    return lambda frame: frame["t"] == t and fields.items() <= frame.items()


async def test_a_conversation(broker: Broker, behind: Gateway) -> None:
    async with alice(broker, ack_delay=0.05) as client:
        assert (client.info.client, client.info.epoch, client.info.why) == ("alice", "e1", "new")
        await behind.deliver(each_alone=False, count=3)
        for n, m in enumerate(await take(client, 3), 1):
            assert (m.body, m.sender, m.redelivered) == (n, "bob", 0)
            await m.ack()
        await behind.seen(is_("ack", seq=3))
        receipts = await asyncio.gather(*(client.publish("bob", n) for n in range(250)))
        assert [r.dup for r in receipts] == [False] * 250
        assert behind.order == list(range(250))
        await client.read(["0" * 13])
        await behind.seen(is_("read"))
    assert [f["t"] for f in behind.log if f["t"] != "pub"] == ["hello", "ack", "read", "bye"]
    assert {f["c"] for f in behind.log} == {behind.nonce}


async def test_a_broker_that_is_killed_and_started_again(broker: Broker, behind: Gateway) -> None:
    whys: list[str] = []
    async with alice(broker, on_welcome=whys.append) as client:
        await behind.deliver(count=4)
        one, two, three, four = await take(client, 4)
        await one.ack()
        await three.ack()
        await behind.seen(lambda f: f.get("seqs") == [3])
        await client.publish("bob", "before")
        await broker.kill()
        await behind.gone()
        publishing = [asyncio.ensure_future(client.publish("bob", n)) for n in range(20)]
        await two.ack()
        await broker.start()
        await behind.connect()
        await behind.deliver(count=2)  # to nobody
        await asyncio.gather(*publishing)
        assert behind.order == ["before", *range(20)]
        hello = await behind.seen(is_("hello", resume="r1", epoch="e1", ack=3))
        assert hello["c"] != behind.log[0]["c"]
        assert [(m.id, m.redelivered) for m in await take(client, 2)] == [("M5", 1), ("M6", 1)]
        assert four.redelivered == 1
        assert whys == ["new", "resumed"]


async def test_a_lost_frame_holds_up_what_follows(broker: Broker, behind: Gateway) -> None:
    async with alice(broker) as client:
        behind.lose = lambda f: f["t"] == "msg" and f["m"][0]["seq"] in {2, 3}
        await behind.deliver(count=6)
        (one,) = await take(client, 1)
        await one.ack()
        await behind.seen(is_("ack", seq=1))
        behind.lose = lambda _: False
        await behind.redeliver(2)
        (two,) = await take(client, 1)
        await two.ack()
        await behind.seen(is_("ack", seq=2))
        await behind.redeliver(3)
        rest = await take(client, 4)
        assert [(m.id, m.redelivered) for m in rest] == [("M3", 1), ("M4", 0), ("M5", 0), ("M6", 0)]
        for m in rest:
            await m.ack()
        await behind.seen(is_("ack", seq=6))
        assert not behind.unsettled
        await behind.deliver()
        assert [m.id for m in await take(client, 1)] == ["M7"]


async def test_a_frame_that_is_never_redelivered_is_asked_for(
    broker: Broker, behind: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.client.order.HOLE_PATIENCE", 0.2)
    async with alice(broker) as client:
        behind.lose = lambda f: f["t"] == "msg" and "redelivered" not in f["m"][0] and f["m"][0]["seq"] < 3
        await behind.deliver(count=3)
        assert [(m.id, m.redelivered) for m in await take(client, 3)] == [("M1", 1), ("M2", 1), ("M3", 1)]
        await behind.seen(is_("bye"))
        assert (await behind.seen(is_("hello"), 2))["resume"] == "r1"


async def test_a_publish_is_repeated_until_its_answer_comes(broker: Broker, behind: Gateway) -> None:
    async with alice(broker) as client:
        lost = 0

        def lose(frame: Frame) -> bool:
            nonlocal lost
            lost += frame["t"] == "ok"
            return frame["t"] == "ok" and lost <= 2

        behind.lose = lose
        receipt = await client.publish("bob", "x")
        assert receipt.dup
        pubs = [f for f in behind.log if f["t"] == "pub"]
        assert len(pubs) >= 3
        assert all(pub == pubs[0] for pub in pubs)
        assert behind.order == ["x"]


async def test_hello_is_repeated_until_a_gateway_is_there(broker: Broker) -> None:
    client = alice(broker)
    entering = asyncio.ensure_future(client.__aenter__())
    async with gateway_behind(broker) as behind:
        behind.lose = is_("welcome")
        await behind.seen(is_("hello"), 2)
        behind.lose = lambda _: False
        await entering
        hellos = [f for f in behind.log if f["t"] == "hello"]
        assert all(hello == hellos[0] for hello in hellos)
        assert client.info.why == "new"
        await client.close()


async def test_a_gateway_that_was_restarted_is_greeted_again(
    broker: Broker, behind: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.client.session.STABLE", 0.0)
    ends: list[Any] = []
    whys: list[str] = []
    async with alice(broker, on_welcome=whys.append, on_close=lambda *end: ends.append(end)) as client:
        await behind.deliver(count=2)
        one, two = await take(client, 2)
        behind.forget_connections()
        await one.ack()
        again = await behind.seen(is_("hello", resume="r1", ack=1))
        assert again["c"] == behind.log[0]["c"]
        await client.publish("bob", "x")
        await two.ack()
        await behind.seen(is_("ack", seq=2))
        assert whys == ["new", "resumed"]
        assert ends == []


async def test_the_will_of_a_lost_connection_names_it(broker: Broker, behind: Gateway) -> None:
    behind.heartbeat = 0.5
    async with alice(broker):
        first = behind.nonce
        behind.lose = is_("pong")
        assert (await behind.seen(is_("bye")))["c"] == first
        behind.heartbeat, behind.lose = 25.0, lambda _: False
        second = await behind.seen(lambda f: f["t"] == "hello" and f["c"] != first)
        assert second["resume"] == "r1"


async def test_a_connection_that_the_gateway_ends_is_left(broker: Broker, behind: Gateway) -> None:
    async with alice(broker) as client:
        waiting = asyncio.ensure_future(anext(client.messages()))
        err = {"t": "err", "code": "taken_over", "status": 409, "detail": "by another one", "close": 4302}
        await behind.send(err | {"c": "another"})
        await behind.send(err | {"c": behind.nonce})
        with pytest.raises(TakenOver, match="by another one"):
            await waiting
    assert [f["t"] for f in behind.log] == ["hello"]


async def test_the_state_file_carries_the_session_over(
    broker: Broker, behind: Gateway, tmp_path: Path
) -> None:
    path = tmp_path / "alice.state"
    async with alice(broker, state=path) as client:
        await behind.deliver(count=3)
        one, _, three = await take(client, 3)
        await one.ack()
        await three.ack()
        await behind.seen(lambda f: f.get("seqs") == [3])
    async with alice(broker, state=path) as client:
        assert client.info.why == "resumed"
        (m,) = await take(client, 1)
        assert (m.id, m.redelivered) == ("M2", 1)
        await m.ack()
        await behind.seen(is_("ack", seq=3))
