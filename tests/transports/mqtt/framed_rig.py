"""Devices that speak frames over MQTT, without sockets: the real hub on the memory store, a clock turned by hand."""

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.auth import Principal
from gateway.config import Config
from gateway.errors import Close, GatewayError
from gateway.model import Sub
from gateway.transports.mqtt.framed import FramedDesk
from gateway.transports.mqtt.framing import Framing
from gateway.transports.wheel import Wheel
from tests.hub.rig import Conn, Rig

TICK = 1000


class Framed(Rig):
    """The hub and what all framed peers share."""

    def __init__(self, config: Config | None = None, limit: int = 0) -> None:
        super().__init__(config)
        self.framing = Framing(
            self.hub, self.hub.config, Wheel(TICK), door="mqtt", sub=int(Sub.FRAMED), limit=limit
        )

    def device(self, client: str, **desk: Any) -> "Device":  # type: ignore[override]
        """A device whose topics are open; it has said nothing yet."""
        return Device(self, client, **desk)

    def joined(self, client: str = "alice", c: str = "n1", **desk: Any) -> "Device":
        """One that is welcomed."""
        device = self.device(client, **desk)
        device.hello(c)
        return device

    def advance(self, seconds: float, every: Callable[[], None] | None = None) -> None:
        """Time passes, a tick at a time; `every`: what happens after each tick."""
        end = self.turns.now() + round(seconds * 1000)
        while self.turns.now() < end:
            self.turns.run(min(TICK, end - self.turns.now()))
            self.framing.wheel.turn(self.turns.now())
            self.turns.settle()
            if every is not None:
                every()

    def row(self, client: str = "alice") -> Any:
        """Its session's row as the hub has it."""
        return self.hub.core.sessions[client].row


class Device:
    """A Link with one desk. `sent` are payloads as they were published to it."""

    def __init__(self, rig: Framed, client: str, **desk: Any) -> None:
        self.rig = rig
        self.sent: list[bytes] = []
        self.stops: list[bool] = []
        self.ends: list[int] = []
        self.takes: int | None = None  # how many payloads it takes until it pauses
        self.full: Close | None = None  # what it ends the desk with when it is sent something
        self.desk = FramedDesk(rig.framing, self, Principal(kind="client", name=client), **desk)
        self._read = 0

    # -- Link ------------------------------------------------------------------------------------------------------

    def send(self, desk: FramedDesk, payload: bytes) -> None:
        assert desk is self.desk
        assert len(payload) <= desk.max_frame
        self.sent.append(payload)
        if self.takes is not None:
            self.takes -= 1
            if self.takes <= 0:
                desk.pause()
        if self.full is not None:
            desk.end(self.full, "slow consumer")

    def throttle(self, desk: FramedDesk, stop: bool) -> None:
        self.stops.append(stop)

    def ended(self, desk: FramedDesk, code: int) -> None:
        assert desk.peer is None
        self.ends.append(int(code))

    # -- the device ------------------------------------------------------------------------------------------------

    def say(self, frame: Any, c: str | None = "n1") -> "Device":
        """A frame arrives, an object or bytes; `c` is put into an object."""
        if not isinstance(frame, bytes):
            frame = msgspec.json.encode(frame if c is None else {**frame, "c": c})
        self.desk.receive(frame)
        self.rig.pass_(0.01)
        return self

    def hello(self, c: str = "n1", **fields: Any) -> dict[str, Any]:
        """Its hello is welcomed."""
        frames = self.say({"t": "hello", **fields}, c).hear()
        (welcome,) = [frame for frame in frames if frame["t"] == "welcome"]
        return welcome  # type: ignore[no-any-return]

    def hear(self) -> list[Any]:
        """Frames since the last look."""
        frames = [msgspec.json.decode(payload) for payload in self.sent[self._read :]]
        self._read = len(self.sent)
        return frames

    def heard(self, t: str) -> list[Any]:
        """The elements of all frames `t` since the last look."""
        return [entry for frame in self.hear() if frame["t"] == t for entry in frame["m"]]

    def refused(self, code: str, close: int | None, c: str | None = "n1") -> dict[str, Any]:
        """The one `err` that it was just sent."""
        (err,) = self.hear()
        told: dict[str, Any] = err
        assert (told["t"], told["code"], told.get("close"), told.get("c")) == ("err", code, close, c)
        return told


class Tokens:
    """Proves tokens when it is told to: `name`, `name:exp`, or an error."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.asked: list[str] = []
        self.waiting: list[tuple[str, Callable[[Principal | GatewayError], None]]] = []
        self.errors: dict[str, GatewayError] = {}

    def __call__(self, token: str, done: Callable[[Principal | GatewayError], None]) -> None:
        self.asked.append(token)
        self.waiting.append((token, done))
        if self.at_once:
            self.answer()

    def answer(self) -> None:
        token, done = self.waiting.pop(0)
        done(self.errors.get(token) or self.principal(token))

    @staticmethod
    def principal(token: str) -> Principal:
        name, _, exp = token.partition(":")
        return Principal(kind="client", name=name, exp=int(exp) if exp else None)


def written_by(conn: Conn) -> list[int]:
    """The seqs that another connection was handed."""
    return [seq for seq, _, _ in conn.items]
