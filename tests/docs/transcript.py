"""The transcripts of docs/protocol.md: how one is read, and how it is played against a real gateway.

A transcript stands in a block ```` ```transcript ````, a step a line; an indented line continues the one above:

    alice> {"t":"ping"}          a client sends this frame; where it has no connection, it connects first
    alice> text hello            … or this text, which is no frame
    alice> GET /ws  Name: value  it connects with these headers; the answer is told: `alice< 101`
    alice> cut                   its TCP connection is gone, without a close frame
    alice< {"t":"pong"}          this is what it gets next
    alice< close 4303            its connection is closed with this code
    alice/2> …                   a second connection of the same client
    backend> POST /v1/… {…}      a request to the HTTP API; a GET is repeated until its answer fits
    backend< 202 {…}
    hook< {…}                    the webhook gets this body; `hook> 204` is its answer
    operator> kill -9            also `start` (again, on the same folder) and `stop` (SIGTERM)
    # …                          a remark

In what is got, `<name>` stands for a value that is not known beforehand: quoted for a string, bare for anything else.
Once bound it means the same value to the end of the chapter; what is sent repeats it. `…` in a string stands for any
text, as the last member of an object for further members; all other members must be there as they are told, and none
else. `<token>` is a valid token of the client that sends it. Of the lists `m`, entries count, not how many frames they
came in.
"""

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from standardwebhooks import Webhook
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.support.hook import SECRET
from tests.support.process import GatewayProcess

PATIENCE = 20.0
_PAUSE = 0.05
_BARE = "\ue000"  # marks a placeholder without quotes
_REST = "…"
_LISTS = {"msg", "gap", "status", "ok"}

_step = re.compile(r"([a-z][a-z0-9-]*(?:/\d)?)([<>]) (.+)", re.DOTALL).fullmatch
_value = re.compile(r'"(?:[^"\\]|\\.)*"|<[a-z][a-z0-9-]*>|…')
_name = re.compile(r"<([a-z][a-z0-9-]*)>")

Bound = dict[str, Any]


class Step(NamedTuple):
    """One step. `line`: where it stands in the page."""

    line: int
    who: str
    sends: bool
    what: str


def read(block: str, line: int) -> Iterator[Step]:
    """The steps of a transcript whose first line is `line`."""
    joined: list[tuple[int, str]] = []
    for number, text in enumerate(block.splitlines(), line):
        if text.startswith(" "):
            first, before = joined.pop()
            joined.append((first, before + text.strip()))
        elif text.strip() and not text.startswith("#"):
            joined.append((number, text))
    for number, text in joined:
        found = _step(text)
        assert found is not None, f"line {number} is no step of a transcript: {text}"
        yield Step(number, found[1], found[2] == ">", found[3])


def parse(text: str) -> Any:
    """A JSON value with placeholders."""

    def quoted(found: re.Match[str]) -> str:
        token = found[0]
        if token.startswith('"'):
            return token
        return f'"{_REST}":"{_REST}"' if token == _REST else json.dumps(_BARE + token)

    return json.loads(_value.sub(quoted, text))


def fill(value: Any, bound: Bound) -> Any:
    """`value` with what its placeholders are bound to."""
    if isinstance(value, dict):
        return {fill(k, bound): fill(v, bound) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, bound) for v in value]
    if not isinstance(value, str):
        return value
    if value.startswith(_BARE):
        return bound[value[2:-1]]
    return _name.sub(lambda found: str(bound[found[1]]), value)


def match(told: Any, got: Any, bound: Bound, at: str = "$") -> None:
    """Raises AssertionError, saying where, unless `got` is what is `told`. Binds placeholders."""
    if isinstance(told, str):
        _match_text(told, got, bound, at)
    elif isinstance(told, dict):
        assert isinstance(got, dict), f"{at}: {got!r} is no object"
        keys = told.keys() - {_REST}
        assert keys <= got.keys(), f"{at}: lacks {sorted(keys - got.keys())}: {got}"
        assert _REST in told or keys == got.keys(), f"{at}: also has {sorted(got.keys() - keys)}: {got}"
        for key in keys:
            match(told[key], got[key], bound, f"{at}.{key}")
    elif isinstance(told, list):
        assert isinstance(got, list), f"{at}: {got!r} is no list"
        assert len(told) == len(got), f"{at}: {len(got)} elements: {got}"
        for i, one in enumerate(told):
            match(one, got[i], bound, f"{at}[{i}]")
    else:
        assert type(told) is type(got) or isinstance(told, int | float), f"{at}: {got!r}, not {told!r}"
        assert told == got, f"{at}: {got!r}, not {told!r}"


def _match_text(told: str, got: Any, bound: Bound, at: str) -> None:
    bare = told.startswith(_BARE)
    name = _name.fullmatch(told.removeprefix(_BARE))
    assert isinstance(got, str) is not bare, f"{at}: {got!r} for {told}"
    if name is not None:
        assert bound.setdefault(name[1], got) == got, f"{at}: <{name[1]}> was {bound[name[1]]!r}, is {got!r}"
    else:
        pattern = ".*".join(re.escape(part) for part in told.split(_REST))
        assert re.fullmatch(pattern, got, re.DOTALL), f"{at}: {got!r}, not {told!r}"


class Peer:
    """A connection of a client."""

    def __init__(self, conn: ClientConnection) -> None:
        self.conn = conn
        self.inbox: deque[dict[str, Any]] = deque()

    async def next(self) -> dict[str, Any]:
        """The next frame; each entry of a list `m` as a frame of its own."""
        while not self.inbox:
            frame = json.loads(await self.conn.recv())
            self.inbox.extend(singly(frame))
        return self.inbox.popleft()

    async def closed(self) -> int:
        """Wait for the close; its code. Nothing else may come before it."""
        try:
            frame = await self.next()
        except ConnectionClosed:
            code = self.conn.close_code
            assert code is not None
            return code
        raise AssertionError(f"not closed, but: {frame}")

    async def cut(self) -> None:
        self.conn.transport.abort()
        await self.conn.wait_closed()


def singly(frame: dict[str, Any]) -> list[dict[str, Any]]:
    return [frame | {"m": [m]} for m in frame["m"]] if frame["t"] in _LISTS else [frame]


class Hook:
    """A receiver of webhooks that answers what the transcript says."""

    def __init__(self) -> None:
        self.url = ""
        self._came: asyncio.Queue[tuple[dict[str, Any], asyncio.Future[int]]] = asyncio.Queue()
        self._open: asyncio.Future[int] | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site.port}/hook"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        Webhook(SECRET).verify(body, dict(request.headers))
        payload = json.loads(body)
        assert request.headers["webhook-id"] == payload["data"]["id"]
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._came.put_nowait((payload, answer))
        return web.Response(status=await answer)

    async def next(self) -> dict[str, Any]:
        payload, self._open = await self._came.get()
        return payload

    def answer(self, status: int) -> None:
        assert self._open is not None
        self._open.set_result(status)


class Player:
    """Plays the steps of one chapter; `close` checks that nothing came that was not told."""

    def __init__(self, gateway: GatewayProcess, hook: Hook, http: aiohttp.ClientSession) -> None:
        """`http` has no address of its own: a restart changes the gateway's."""
        self.gateway = gateway
        self.hook = hook
        self.http = http
        self.bound: Bound = {}
        self.peers: dict[str, Peer] = {}
        self._refused: dict[str, tuple[int, bytes]] = {}
        self._asked: tuple[str, str, Any] | None = None

    async def play(self, step: Step) -> None:
        """Raises AssertionError, naming the line."""
        special: dict[tuple[str, bool], Callable[[str], Any]] = {
            ("backend", True): self._ask,
            ("backend", False): self._answered,
            ("hook", True): self._hook_answers,
            ("hook", False): self._hook_gets,
            ("operator", True): self._operate,
        }
        play = special.get((step.who, step.sends))
        try:
            async with asyncio.timeout(PATIENCE):
                if play is not None:
                    await play(step.what)
                elif step.sends:
                    await self._send(step.who, step.what)
                else:
                    await self._get(step.who, step.what)
        except (AssertionError, TimeoutError, ConnectionClosed, LookupError) as error:
            raise AssertionError(
                f"line {step.line}: {step.what}\n  {type(error).__name__}: {error}"
            ) from error

    async def close(self) -> None:
        for who, peer in self.peers.items():
            await peer.conn.send('{"t":"ping"}')
            async with asyncio.timeout(PATIENCE):
                frame = await peer.next()
            assert frame == {"t": "pong"}, f"{who} also got: {frame}"

    async def stop(self) -> None:
        for peer in self.peers.values():
            await peer.cut()
        self.peers.clear()

    # -- clients ---------------------------------------------------------------------------------------------------

    async def _send(self, who: str, what: str) -> None:
        if what.startswith("GET /ws"):
            await self._connect(who, dict(h.split(": ", 1) for h in self._filled(who, what).split("  ")[1:]))
        elif what == "cut":
            await self.peers.pop(who).cut()
        else:
            if who not in self.peers:
                await self._connect(who, {})
            text = what.removeprefix("text ") if what.startswith("text ") else self._frame(who, what)
            await self.peers[who].conn.send(text)

    def _frame(self, who: str, what: str) -> str:
        return json.dumps(fill(parse(what), self.bound | {"token": self._token(who)}))

    def _filled(self, who: str, what: str) -> str:
        return str(fill(what, self.bound | {"token": self._token(who)}))

    def _token(self, who: str) -> str:
        return self.gateway.token(who.partition("/")[0])

    async def _connect(self, who: str, headers: dict[str, str]) -> None:
        name = headers.pop("Sec-WebSocket-Protocol", "botgw.v1.json")
        try:
            conn = await connect(
                self.gateway.ws, subprotocols=[Subprotocol(name)], additional_headers=headers, compression=None,
                ping_interval=None, max_size=None, proxy=None,
            )  # fmt: skip
        except InvalidStatus as error:
            self._refused[who] = (error.response.status_code, bytes(error.response.body or b""))
        else:
            self.peers[who] = Peer(conn)

    async def _get(self, who: str, what: str) -> None:
        if what.startswith("{"):
            for told in singly(parse(what)):
                match(told, await self.peers[who].next(), self.bound)
            return
        word, _, rest = what.partition(" ")
        if word == "close":
            code = await self.peers.pop(who).closed()
            assert code == int(rest), f"closed with {code}"
        elif word == "101":
            assert who in self.peers, f"not connected: {self._refused.get(who)}"
        else:
            status, body = self._refused.pop(who)
            assert status == int(word), f"{status} {body!r}"
            match(parse(rest), json.loads(body), self.bound)

    # -- the others ------------------------------------------------------------------------------------------------

    async def _ask(self, what: str) -> None:
        method, path, *body = what.split(" ", 2)
        self._asked = (method, fill(path, self.bound), fill(parse(body[0]), self.bound) if body else None)

    async def _answered(self, what: str) -> None:
        assert self._asked is not None
        method, path, body = self._asked
        word, _, rest = what.partition(" ")
        headers = {"Authorization": f"Bearer {self.gateway.key}"}
        while True:
            url = self.gateway.api + path
            async with self.http.request(method, url, json=body, headers=headers) as answer:
                text = await answer.text()
            try:
                assert answer.status == int(word), f"{answer.status} {text}"
                if rest:
                    match(parse(rest), json.loads(text), self.bound)
            except AssertionError as error:
                if method != "GET":
                    raise
                failed = error
            else:
                return
            try:
                await asyncio.sleep(_PAUSE)  # there is no event to await over a polling API
            except asyncio.CancelledError:
                raise failed from None

    async def _hook_gets(self, what: str) -> None:
        match(parse(what), await self.hook.next(), self.bound)

    async def _hook_answers(self, what: str) -> None:
        self.hook.answer(int(what))

    async def _operate(self, what: str) -> None:
        if what == "kill -9":
            await self.gateway.kill()
            await self.stop()
        elif what == "start":
            await self.gateway.start()
        else:
            assert what == "stop", what
            assert self.gateway.process is not None
            self.gateway.process.terminate()
