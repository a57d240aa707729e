"""Callbacks, the state file, limits and ends of the whole client, against a scripted WebSocket server."""

import asyncio
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.client import (
    Client,
    ClientClosed,
    Gap,
    PublishUnknown,
    StateFailed,
    StatusReport,
)
from gateway.client.state import StateFile

# -- gaps, statuses, callbacks ----------------------------------------------------------------------------------------


async def test_gaps_and_statuses_are_acked_after_the_callback_ran(
    gateway: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    release = asyncio.Event()

    async def on_status(report: StatusReport) -> None:
        await release.wait()
        told.append(report.status)

    def on_gap(gap: Gap) -> None:
        told.append(gap.why)
        raise RuntimeError("a bug of the application")

    async with gateway.joined(ack_delay=0, on_status=on_status, on_gap=on_gap) as (client, peer):
        await peer.send({"t": "status", "m": [{"seq": 1, "id": "A", "status": "delivered", "at": 1}]})
        await peer.send({"t": "gap", "m": [{"seq": 2, "id": "B", "why": "expired"}]})
        await peer.msg(3)
        await (await gateway.take(client, 1))[0].ack()
        assert await peer.recv() == {"t": "ack", "seqs": [3]}
        assert told == []
        release.set()
        frame = await peer.recv()
        while frame != {"t": "ack", "seq": 3}:
            frame = await peer.recv()
        assert told == ["delivered", "expired"]
    assert "a callback of the application failed" in caplog.text


async def test_without_callbacks_gaps_and_statuses_are_acked(gateway: Any) -> None:
    async with gateway.joined() as (_, peer):
        await peer.send({"t": "status", "m": [{"seq": 1, "id": "A", "status": "delivered", "at": 1}]})
        await peer.send({"t": "gap", "m": [{"seq": 2, "id": "B", "why": "expired"}]})
        frame = await peer.recv()
        while frame != {"t": "ack", "seq": 2}:
            frame = await peer.recv()


async def test_a_callback_may_publish_and_wait_for_the_receipt(gateway: Any) -> None:
    receipts: list[str] = []
    client: Client

    async def on_welcome(why: str) -> None:
        receipts.append((await client.publish("bob", why)).id)

    client = Client(gateway.url, "jwt", on_welcome=on_welcome)
    entering = asyncio.ensure_future(client.__aenter__())
    peer = await gateway.accept()
    await peer.greet()
    await entering
    (sent,) = (await peer.expect("pub"))["m"]
    assert sent["body"] == "new"
    await peer.send({"t": "ok", "m": [{"ref": sent["ref"], "id": "A"}]})
    await peer.msg(1)
    await gateway.take(client, 1)
    await client.close()
    assert receipts == ["A"]


async def test_a_broken_frame_costs_the_connection_only(
    gateway: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway.joined() as (client, peer):
        await peer.send({"t": "news"})
        await peer.send({"t": "msg", "m": [{"seq": "one", "body": "private"}]})
        assert await peer.closed() == 1002
        again = await gateway.accept()
        assert (await again.greet(resumed=True))["resume"] == "r1"
        await again.msg(1)
        await gateway.take(client, 1)
    assert "private" not in caplog.text


# -- the state file ---------------------------------------------------------------------------------------------------


async def test_the_state_file_carries_session_and_dedupe(gateway: Any, tmp_path: Path) -> None:
    path = tmp_path / "alice.state"
    async with gateway.joined(state=path, ack_delay=0) as (client, peer):
        await peer.msg(1, 2, 3)
        one, _, three = await gateway.take(client, 3)
        await one.ack()
        await three.ack()
        frames = [await peer.recv()]
        if "seq" in frames[0]:
            frames.append(await peer.recv())
        saved = json.loads(path.read_bytes())
        assert (saved["ack"], saved["done"], saved["ids"]) == (1, [3], ["M1", "M3"])
    second = Client(gateway.url, "jwt", state=path, ack_delay=0)
    entering = asyncio.ensure_future(second.__aenter__())
    peer = await gateway.accept()
    hello = await peer.greet(resumed=True, resume="r2")
    assert (hello["resume"], hello["epoch"], hello["ack"]) == ("r1", "e1", 1)
    await entering
    assert await peer.recv() == {"t": "ack", "seqs": [3]}
    await peer.msg(2, 3)
    (two,) = await gateway.take(second, 1)
    assert two.id == "M2"
    await two.ack()
    frame = await peer.recv()
    while frame != {"t": "ack", "seq": 3}:
        frame = await peer.recv()
    await second.close()
    assert json.loads(path.read_bytes())["resume"] == "r2"


async def test_the_file_is_on_disk_before_the_ack_leaves(
    gateway: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that takes long: nothing that depends on it reaches the gateway before its end."""
    loop = asyncio.get_running_loop()
    begun, go = asyncio.Event(), threading.Event()
    save = StateFile.save

    def slow(self: StateFile, snapshot: Any, serial: int) -> None:
        if snapshot.ack:
            loop.call_soon_threadsafe(begun.set)
            go.wait(20)
        save(self, snapshot, serial)

    monkeypatch.setattr(StateFile, "save", slow)
    path = tmp_path / "s"
    async with gateway.joined(state=path, ack_delay=0) as (client, peer):
        await peer.msg(1)
        await (await gateway.take(client, 1))[0].ack()
        async with asyncio.timeout(20):
            await begun.wait()
        receiving = asyncio.ensure_future(peer.recv())
        await (await peer.connection.ping())
        early = receiving.done()
        go.set()
        assert await receiving == {"t": "ack", "seq": 1}
        assert not early
        assert json.loads(path.read_bytes())["ack"] == 1


async def test_acks_given_without_a_connection_are_saved_on_close(gateway: Any, tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with gateway.joined(state=path) as (client, peer):
        await peer.msg(1)
        (m,) = await gateway.take(client, 1)
        peer.cut()
        await gateway.accept()
        await m.ack()
    assert json.loads(path.read_bytes())["ack"] == 1


async def test_a_state_file_that_cannot_be_written_stops_the_client(gateway: Any, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    client = Client(gateway.url, "jwt", state=folder / "s", ack_delay=0)
    entering = asyncio.ensure_future(client.__aenter__())
    peer = await gateway.accept()
    folder.rmdir()
    await peer.greet()

    async def use() -> None:
        await entering
        await anext(client.messages())

    with pytest.raises(StateFailed, match="cannot write"):
        await use()
    with pytest.raises(StateFailed):
        await client.close()


async def test_a_broken_state_file_is_told_before_anything_is_sent(gateway: Any, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("no")
    with pytest.raises(StateFailed, match="no state file"):
        async with Client(gateway.url, "jwt", state=path):
            pass


# -- limits and ends --------------------------------------------------------------------------------------------------


async def test_publishes_in_flight_are_bounded(gateway: Any) -> None:
    async with gateway.joined(max_publishes=2) as (client, peer):
        publishing = [asyncio.ensure_future(client.publish("bob", n)) for n in range(4)]
        sent = (await peer.expect("pub"))["m"]
        assert [m["body"] for m in sent] == [0, 1]
        publishing[1].cancel()  # it has left: its place is free only when it is answered
        await peer.send({"t": "ok", "m": [{"ref": sent[0]["ref"], "id": "A"}]})
        (third,) = (await peer.expect("pub"))["m"]
        assert third["body"] == 2
        await peer.send({"t": "ok", "m": [{"ref": sent[1]["ref"], "id": "B"}]})
        (fourth,) = (await peer.expect("pub"))["m"]
        await peer.send({"t": "ok", "m": [{"ref": m["ref"], "id": "C"} for m in (third, fourth)]})
        results = await asyncio.gather(*publishing, return_exceptions=True)
        assert [type(r).__name__ for r in results] == ["Receipt", "CancelledError", "Receipt", "Receipt"]


async def test_a_publish_cancelled_without_a_connection_never_leaves(gateway: Any) -> None:
    async with gateway.joined(max_publishes=1) as (client, peer):
        peer.cut()
        again = await gateway.accept()
        cancelled = asyncio.ensure_future(client.publish("bob", "cancelled"))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        kept = asyncio.ensure_future(client.publish("bob", "kept"))
        await again.greet(resumed=True)
        (sent,) = (await again.expect("pub"))["m"]
        assert sent["body"] == "kept"
        await again.send({"t": "ok", "m": [{"ref": sent["ref"], "id": "A"}]})
        assert (await kept).id == "A"


async def test_a_bad_body_takes_no_place(gateway: Any) -> None:
    async with gateway.joined(max_publishes=1) as (client, peer):
        with pytest.raises(TypeError):
            await client.publish("bob", object())
        publishing = asyncio.ensure_future(client.publish("bob", "good"))
        (sent,) = (await peer.expect("pub"))["m"]
        await peer.send({"t": "ok", "m": [{"ref": sent["ref"], "id": "A"}]})
        await publishing


async def test_read_receipts(gateway: Any) -> None:
    async with gateway.joined() as (client, peer):
        ids = ["0123456789ABC", "0ZZZZZZZZZZZZ"]
        await client.read(iter(ids))
        assert await peer.recv() == {"t": "read", "ids": ids}
        await client.read([])
        with pytest.raises(ValueError, match="13 characters"):
            await client.read(["short"])
        peer.cut()
        again = await gateway.accept()
        dropped = asyncio.ensure_future(client.read(ids))
        await asyncio.sleep(0)
        dropped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dropped
        await again.greet(resumed=True)
        await again.msg(1)
        await gateway.take(client, 1)
        await client.close()
        assert await again.recv() == {"t": "bye"}


async def test_close_ends_what_waits(gateway: Any) -> None:
    async with gateway.joined(ack_delay=60) as (client, peer):
        await peer.msg(1)
        (m,) = await gateway.take(client, 1)
        await m.ack()
        iterating = asyncio.ensure_future(_all(client))
        flying = asyncio.ensure_future(client.publish("bob", 1, key="mine"))
        await peer.expect("pub")
        await client.close(end=True)
        assert await peer.recv() == {"t": "ack", "seq": 1}
        assert await peer.recv() == {"t": "bye", "end": True}
        assert await iterating == []
        with pytest.raises(PublishUnknown):
            await flying
        with pytest.raises(ClientClosed):
            await client.publish("bob", 2)
        with pytest.raises(ClientClosed):
            await m.ack()
        assert await _all(client) == []
        await client.close()


async def test_close_does_not_wait_for_a_peer_that_does_not_close(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.client.transport.CLOSE_TIMEOUT", 0.1)
    async with gateway.joined() as (client, peer):
        peer.connection.transport.pause_reading()
        async with asyncio.timeout(20):
            await client.close()
        peer.cut()


async def test_close_while_it_reconnects(gateway: Any) -> None:
    async with gateway.joined() as (client, peer):
        refused = gateway.refuse(503, Retry_After="3600")
        peer.cut()
        async with asyncio.timeout(20):
            await refused.wait()
            await client.close()


async def test_several_loops_share_the_messages(gateway: Any) -> None:
    async with gateway.joined() as (client, peer):
        seen: asyncio.Queue[int] = asyncio.Queue()

        async def loop() -> int:
            count = 0
            async for m in client.messages():
                seen.put_nowait(m.seq)
                count += 1
                await asyncio.sleep(0)
            return count

        loops = [asyncio.ensure_future(loop()) for _ in range(3)]
        await peer.msg(*range(1, 10))
        async with asyncio.timeout(20):
            assert sorted([await seen.get() for _ in range(9)]) == list(range(1, 10))
        await client.close()
        assert all(await asyncio.gather(*loops))


def test_outside_of_async_with_it_says_so() -> None:
    client = Client("ws://127.0.0.1/ws", "jwt")
    with pytest.raises(RuntimeError, match="enter the client first"):
        client.messages()
    with pytest.raises(RuntimeError, match="not welcomed"):
        _ = client.info


async def test_it_is_entered_once(gateway: Any) -> None:
    async with gateway.joined() as (client, _):
        with pytest.raises(RuntimeError, match="entered once"):
            await client.__aenter__()


async def test_tokens_and_bodies_stay_out_of_the_log(gateway: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.client")
    async with gateway.joined("SECRETTOKEN") as (client, peer):
        await peer.msg({"seq": 1, "id": "M1", "from": "bob", "at": 1, "body": "SECRETBODY"})
        (m,) = await gateway.take(client, 1)
        assert "SECRETBODY" not in repr(m)
        peer.cut()
        again = await gateway.accept()
        await again.greet(resumed=True)
    assert "connection ended" in caplog.text
    assert "SECRET" not in caplog.text


async def _all(client: Client) -> list[Any]:
    return [m async for m in client.messages()]
