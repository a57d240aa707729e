"""The one HTTP request: what is let in, what is refused and how, and what a socket may cost before it has asked."""

import json
from typing import Any

import pytest

from gateway.auth import Principal
from gateway.errors import Limited, Unavailable
from gateway.transports.websocket.handshake import LINGER, MAX_HEAD
from gateway.transports.websocket.server import SPARE_SOCKETS
from gateway.wire import JSON, MSGPACK
from tests.transports.conftest import MakeRig
from tests.transports.double import HubDouble, Tokens
from tests.transports.rig import ACCEPT, Peer, Rig, client_frame, request

ORIGIN = "https://app.example"


class Answer:
    """An HTTP answer, taken apart."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = dict(line.split(": ", 1) for line in lines)

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["Content-Type"] == "application/problem+json"
        assert self.headers["Connection"] == "close"
        assert int(self.headers["Content-Length"]) == len(self.body)
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        assert problem["title"]
        return problem


def ask(rig: Rig, data: bytes, **options: Any) -> tuple[Peer, Answer]:
    peer = rig.socket(**options)
    peer.feed(data)
    return peer, Answer(bytes(peer.transport.taken))


# -- let in --------------------------------------------------------------------------------------------------------


async def test_the_answer_is_what_rfc_6455_wants(rig: Rig) -> None:
    _, answer = ask(rig, request())
    assert answer.status == 101
    assert answer.headers["Sec-WebSocket-Accept"] == ACCEPT
    assert answer.headers["Sec-WebSocket-Protocol"] == JSON
    assert "Sec-WebSocket-Extensions" not in answer.headers


@pytest.mark.parametrize(
    ("offered", "chosen", "binary"),
    [
        (None, None, False),
        (JSON, JSON, False),
        (MSGPACK, MSGPACK, True),
        (f"{MSGPACK}, {JSON}", MSGPACK, True),
        (f"{JSON}, {MSGPACK}", JSON, False),
        (f"mqtt, {JSON}", JSON, False),
    ],
)
async def test_the_client_chooses_the_subprotocol(
    rig: Rig, hub: HubDouble, offered: str | None, chosen: str | None, binary: bool
) -> None:
    _, answer = ask(rig, request(subprotocol=offered))
    assert answer.status == 101
    assert answer.headers.get("Sec-WebSocket-Protocol") == chosen
    assert hub.connections()[0].codec.binary is binary


@pytest.mark.parametrize("origin", ["", ORIGIN])
async def test_bots_and_listed_origins_come_in(rig: Rig, origin: str) -> None:
    assert ask(rig, request(headers={"Origin": origin}))[1].status == 101


async def test_any_origin_where_configured(make_rig: MakeRig) -> None:
    rig = make_rig(origins=("*",))
    assert ask(rig, request(headers={"Origin": "https://elsewhere.example"}))[1].status == 101


async def test_a_request_may_come_byte_by_byte(rig: Rig) -> None:
    peer = rig.socket()
    for byte in request():
        assert not peer.transport.taken
        peer.feed(bytes([byte]))
    assert Answer(bytes(peer.transport.taken)).status == 101


async def test_a_client_may_be_ahead_of_the_answer(rig: Rig, hub: HubDouble) -> None:
    peer = rig.socket()
    peer.feed(request() + client_frame(1, b'{"t":"hello","token":"alice"}'))
    await rig.turn()
    assert hub.named("hello")[0][1] == "alice"


async def test_compression_only_where_configured(make_rig: MakeRig) -> None:
    wish = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    assert "Sec-WebSocket-Extensions" not in ask(make_rig(), request(headers=wish))[1].headers
    _, answer = ask(make_rig(compression=True), request(headers=wish))
    assert answer.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")


async def test_nothing_of_the_request_is_kept(rig: Rig, hub: HubDouble) -> None:
    rig.open(headers={"X-Kept": "y" * 100})
    conn = hub.connections()[0]
    assert not conn.core.reader.buffer
    assert rig.server.figures()["sockets"] == 1
    assert len(rig.server._sockets) == 1
    assert conn in rig.server._sockets


# -- the token -----------------------------------------------------------------------------------------------------


async def test_a_token_at_the_handshake_needs_none_in_hello(rig: Rig, hub: HubDouble) -> None:
    peer = rig.open(headers={"Authorization": "Bearer alice"})
    peer.send({"t": "hello"})
    assert (await peer.answer())[0]["client"] == "alice"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Bearer expired", "token_expired"),
        ("Bearer no.such.token", "token_invalid"),
        ("Bearer ", "unauthorized"),
        ("Basic YTpi", "unauthorized"),
    ],
)
async def test_a_bad_token_at_the_handshake_is_401(rig: Rig, hub: HubDouble, header: str, code: str) -> None:
    _, answer = ask(rig, request(headers={"Authorization": header}))
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.problem["code"] == code
    assert not hub.connections()


async def test_a_banned_client_is_403(rig: Rig, hub: HubDouble) -> None:
    hub.bans.add("alice")
    _, answer = ask(rig, request(headers={"Authorization": "Bearer alice"}))
    assert (answer.status, answer.problem["code"]) == (403, "banned")


async def test_a_key_that_is_not_here_is_waited_for(rig: Rig, tokens: Tokens, hub: HubDouble) -> None:
    peer, hello = rig.socket(), client_frame(1, b'{"t":"hello"}')
    peer.feed(request(headers={"Authorization": "Bearer slow:alice"}))
    await rig.turn()
    assert not peer.transport.taken
    assert not peer.transport.reading
    peer.feed(hello)
    tokens.fetched.set_result(None)
    await rig.turn()
    assert bytes(peer.transport.taken).startswith(b"HTTP/1.1 101 ")
    assert peer.transport.reading
    assert hub.named("hello")[0][1] == "alice"


async def test_keys_that_are_away_are_503(rig: Rig, tokens: Tokens) -> None:
    peer = rig.socket()
    peer.feed(request(headers={"Authorization": "Bearer slow:alice"}))
    tokens.fetched.set_exception(Unavailable("keys are away", code="keys_unavailable", retry_after=3.2))
    await rig.turn()
    answer = Answer(bytes(peer.transport.taken))
    assert (answer.status, answer.problem["code"], answer.headers["Retry-After"]) == (
        503,
        "keys_unavailable",
        "4",
    )
    assert peer.transport.reading


async def test_a_key_that_never_comes_is_503_in_time(rig: Rig, tokens: Tokens, hub: HubDouble) -> None:
    peer = rig.socket()
    peer.feed(request(headers={"Authorization": "Bearer slow:alice"}))
    await rig.advance(5 + rig.server.tick_ms / 1000)
    assert Answer(bytes(peer.transport.taken)).status == 503
    tokens.fetched.set_result(None)
    await rig.turn()
    assert not hub.connections()


async def test_a_client_that_goes_while_its_key_is_fetched_leaves_nothing(
    rig: Rig, tokens: Tokens, hub: HubDouble
) -> None:
    peer = rig.socket()
    peer.feed(request(headers={"Authorization": "Bearer slow:alice"}))
    await rig.turn()
    peer.transport.lose(ConnectionResetError())
    tokens.fetched.set_result(None)
    await rig.turn()
    assert not hub.connections()
    assert rig.server.figures()["sockets"] == 0


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (request("/nowhere"), 404, "not_found"),
        (request("/mqtt"), 404, "not_found"),
        (request("/ws/"), 404, "not_found"),
        (request(headers={"Origin": "https://elsewhere.example"}), 403, "origin_forbidden"),
        (request(headers={"Origin": "null"}), 403, "origin_forbidden"),
        (request(subprotocol="mqtt"), 400, "subprotocol_unknown"),
        (request(headers={"Upgrade": ""}), 426, "upgrade_required"),
        (request(headers={"Connection": "close"}), 426, "upgrade_required"),
        (request(headers={"Sec-WebSocket-Key": ""}), 400, "malformed"),
        (request(headers={"Sec-WebSocket-Key": "short"}), 400, "malformed"),
        (request(headers={"Sec-WebSocket-Version": "8"}), 400, "malformed"),
        (request().replace(b"GET", b"POST"), 405, "method_not_allowed"),
        (request().replace(b"HTTP/1.1", b"HTTP/1.0"), 505, "http_version"),
        (request().replace(b"HTTP/1.1", b"HTTP/9"), 400, "malformed"),
        (request(headers={"Content-Length": "5"}), 400, "malformed"),
        (request(headers={"Transfer-Encoding": "chunked"}), 400, "malformed"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "malformed"),
        (b"GET /ws HTTP/1.1\r\nno colon\r\n\r\n", 400, "malformed"),
        (request("/" + "x" * 9000), 414, "uri_too_long"),
        (request(headers={"Cookie": "x" * 9000}), 431, "headers_too_large"),
        (request(headers={f"X-{i}": "y" for i in range(200)}), 431, "headers_too_large"),
        (b"GET /ws HTTP/1.1\r\n" + b"X: " + b"y" * MAX_HEAD, 431, "headers_too_large"),
    ],
    ids=str,
)
async def test_what_is_no_handshake_gets_its_status(
    rig: Rig, hub: HubDouble, data: bytes, status: int, code: str
) -> None:
    _, answer = ask(rig, data)
    assert (answer.status, answer.problem["code"]) == (status, code)
    assert not hub.connections()
    assert rig.server.figures()["handshakes"] == {str(status): 1}


async def test_a_browser_cannot_send_two_origins(rig: Rig) -> None:
    data = request(headers={"Origin": ORIGIN}).replace(
        b"Origin:", b"Origin: https://elsewhere.example\r\nOrigin:"
    )
    assert ask(rig, data)[1].status == 400


async def test_the_limit_on_connections_is_503(rig: Rig, hub: HubDouble) -> None:
    hub.raises["accept"] = Limited("full", code="too_many_connections", retry_after=5.0)
    _, answer = ask(rig, request())
    assert (answer.status, answer.problem["code"]) == (503, "too_many_connections")
    assert answer.headers["Retry-After"] == "5"


async def test_sockets_above_all_limits_are_cut(rig: Rig) -> None:
    for _ in range(50 + SPARE_SOCKETS):
        rig.socket()
    extra = rig.socket()
    assert extra.transport.aborted
    await rig.turn()
    assert rig.server.figures()["sockets"] == 50 + SPARE_SOCKETS


async def test_handshakes_of_one_address_are_limited(make_rig: MakeRig, hub: HubDouble) -> None:
    rig = make_rig(handshakes_per_second=0.5, handshake_burst=2)
    v6 = ("2001:db8::1", 1, 0, 0)
    assert [ask(rig, request(), peername=v6)[1].status for _ in range(2)] == [101, 101]
    _, answer = ask(rig, request(), peername=("2001:db8::2", 1, 0, 0))  # the same /64
    assert (answer.status, answer.problem["code"], answer.headers["Retry-After"]) == (
        429,
        "rate_limited",
        "2",
    )
    assert ask(rig, request(), peername=("2001:db8:0:1::1", 1, 0, 0))[1].status == 101
    assert ask(rig, request("/healthz"), peername=v6)[1].status == 200
    hub.scheduler.ms += 2000
    assert ask(rig, request(), peername=v6)[1].status == 101


async def test_behind_a_proxy_the_client_is_limited(make_rig: MakeRig, hub: HubDouble) -> None:
    rig = make_rig(handshakes_per_second=0.5, handshake_burst=1, trusted_proxies=("192.0.2.0/24",))
    first, second = ({"X-Forwarded-For": f"198.51.100.{i}"} for i in (1, 2))
    assert [ask(rig, request(headers=h))[1].status for h in (first, second, first)] == [101, 101, 429]
    assert hub.connections()[0].peer == "198.51.100.1"


# -- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /ws HT", request()[:-2]])
async def test_half_a_request_is_given_up(rig: Rig, sent: bytes) -> None:
    peer = rig.socket()
    if sent:
        peer.feed(sent)
    await rig.advance(4.9)
    assert not peer.transport.taken
    await rig.advance(0.1 + rig.server.tick_ms / 1000)
    answer = Answer(bytes(peer.transport.taken))
    assert (answer.status, answer.problem["code"]) == (408, "handshake_timeout")
    # a client that has said something may be sending still: it is read until it has seen the answer
    assert peer.transport.eof is bool(sent)
    await rig.advance((LINGER + rig.server.tick_ms) / 1000)
    assert peer.transport.lost
    assert rig.server.figures()["sockets"] == 0


async def test_what_still_comes_after_a_refusal_is_thrown_away(rig: Rig) -> None:
    peer, _ = ask(rig, b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_HEAD)
    assert peer.transport.eof
    assert not peer.transport.closing
    peer.feed(b"z" * 100_000)
    assert not peer.conn.buffer
    peer.end()
    await rig.turn()
    assert rig.server.figures()["sockets"] == 0


# -- health --------------------------------------------------------------------------------------------------------


async def test_health_is_on_the_same_port(rig: Rig) -> None:
    peer, answer = ask(rig, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers["Connection"] == "close"
    await rig.turn()
    assert peer.transport.lost


async def test_health_to_head_has_no_body_and_to_post_is_405(rig: Rig) -> None:
    _, answer = ask(rig, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "2")
    _, answer = ask(rig, b"POST /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.status == 405
    assert "HEAD" in answer.headers["Allow"]


async def test_a_connection_knows_its_principal_and_peer(rig: Rig, hub: HubDouble) -> None:
    rig.open(headers={"Authorization": "Bearer alice"})
    conn = hub.connections()[0]
    assert conn.principal == Principal(kind="client", name="alice")
    assert (conn.peer, conn.via) == ("192.0.2.1", "ws")
