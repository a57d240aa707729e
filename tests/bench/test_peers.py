"""Each peer that is installed here: started, driven, its ledger clean, ended with all its processes."""

import asyncio
import os
from pathlib import Path

import pytest

from bench.clients import nats, socketio
from bench.clients.mqtt import Mqtt5Pipeline
from bench.legs import LEGS
from bench.peers import PEERS
from bench.peers.nats import NatsSync
from bench.peers.peer import MARK, Peer
from bench.pipeline import Pipeline

CLIENTS, MESSAGES, WINDOW = 10, 2000, 100


def marked(folder: str) -> list[str]:
    """The processes of the machine that were started for the server of this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"{MARK}={folder}\0".encode() in environment:
            found.append(process.name)
    return found


def gone(folder: str) -> bool:
    """Whether nothing is left of this server."""
    return not marked(folder) and not Path(folder).exists()


def cores(folder: str) -> set[int]:
    """Where the threads of this server may run."""
    threads = [int(thread.name) for pid in marked(folder) for thread in Path(f"/proc/{pid}/task").iterdir()]
    return set().union(*map(os.sched_getaffinity, threads))


async def drive(kind: type[Peer], load: type[Pipeline]) -> None:
    missing = kind.available()
    if missing:
        pytest.skip(missing)
    async with kind(WINDOW) as server:
        folder = server.folder.name
        assert server.core is None or cores(folder) == {server.core}
        assert kind.version()
        assert server.configuration
        assert server.promises
        cpu = server.cpu()
        assert server.rss() > 0
        found = await load(server, 2, CLIENTS, MESSAGES, 64, lambda *_: None).run()
        assert server.cpu() > cpu
    assert found["ledger"]["clean"], found["ledger"]
    assert found["ledger"]["received"] == MESSAGES
    assert gone(folder)


@pytest.mark.parametrize("name", PEERS)
async def test_delivers_everything_once_and_in_order(name: str) -> None:
    await drive(PEERS[name], LEGS[name].load)


@pytest.mark.parametrize("name", [name for name in PEERS if PEERS[name].mqtt5])
async def test_speaks_mqtt_5_where_it_says_so(name: str) -> None:
    await drive(PEERS[name], Mqtt5Pipeline)


class Stub(Peer):
    """A shell that does one thing at each start."""

    name = "stub"
    starts: tuple[str, ...]

    def __init__(self, *starts: str) -> None:
        super().__init__(WINDOW)
        self.starts = starts
        self.started = 0

    @classmethod
    def available(cls) -> str:
        return ""

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        self.started += 1
        return ["/bin/sh", "-c", self.starts[self.started - 1]], {}

    def listens(self, line: str) -> bool:
        return line == "ready\n"


TAKEN = "echo bind: address already in use >&2; exit 1"
# the second `sleep` leaves its parent and its session, as a daemon does
READY = "setsid sh -c 'sleep 600 & exit' ; echo ready >&2; exec sleep 600"


async def test_a_port_that_was_taken_is_tried_again_and_daemons_end_with_their_server() -> None:
    async with Stub(TAKEN, READY) as server:
        folder = server.folder.name
        assert server.started == 2
        async with asyncio.timeout(10):
            while len(marked(folder)) != 2:  # noqa: ASYNC110 - the daemon has its mark when it has begun: nothing tells
                await asyncio.sleep(0.01)
    assert gone(folder)


@pytest.mark.parametrize(
    ("starts", "wanted"),
    [(["echo no such option >&2; exit 3"], "no such option"), ([TAKEN] * 3, "already in use")],
)
async def test_says_why_it_did_not_start_and_leaves_nothing(starts: list[str], wanted: str) -> None:
    server = Stub(*starts)
    with pytest.raises(RuntimeError, match=wanted):
        await server.__aenter__()
    assert server.started == len(starts)
    assert gone(server.folder.name)


@pytest.mark.parametrize(
    ("version", "there"), [("2.9.10", False), ("2.10.0", True), ("2.11.3", True), ("3.0.1", True)]
)
def test_nats_that_syncs_needs_the_version_that_can(
    monkeypatch: pytest.MonkeyPatch, version: str, there: bool
) -> None:
    monkeypatch.setattr("bench.peers.nats.PROGRAM", "nats-server")
    monkeypatch.setattr(NatsSync, "version", lambda: version)
    missing = NatsSync.available()
    assert (missing == "") is there
    assert there or version in missing


def pieces(whole: bytes, size: int) -> list[bytes]:
    return [whole[at : at + size] for at in range(0, len(whole), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_nats_lines_and_bodies_in_any_pieces(size: int) -> None:
    reader = nats.Reader()
    body = b"a\r\nMSG x 1 3\r\n"
    whole = b"INFO {}\r\nMSG to.a 2 back.1 %d\r\n%b\r\nPING\r\nMSG in.0 1 0\r\n\r\n" % (len(body), body)
    messages, lines = [], []
    for piece in pieces(whole, size):
        found = reader.feed(piece)
        messages += found[0]
        lines += found[1]
    assert messages == [(b"to.a", b"back.1", body), (b"in.0", b"", b"")]
    assert lines == [b"INFO {}", b"PING"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
def test_socketio_frames_in_any_pieces(size: int) -> None:
    reader = socketio.Reader()
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    texts = [b"", b"x" * 125, b"y" * 126, b"z" * 65_536]
    heads = [b"\x81\x00", b"\x81\x7d", b"\x81\x7e\x00\x7e", b"\x81\x7f" + (65_536).to_bytes(8, "big")]
    ping = b"\x89\x01p"
    whole = answer + ping + b"".join(head + text for head, text in zip(heads, texts, strict=True))
    found = [payload for piece in pieces(whole, size) for payload in reader.feed(piece)]
    assert found == [answer, *texts]
