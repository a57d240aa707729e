"""Three stock clients under one surface: mosquitto_sub and mosquitto_pub, paho-mqtt, MQTT.js."""

import asyncio
import json
import re
import sys
from base64 import b64encode
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from tests.stock.process import SPARES, Process

HERE = Path(__file__).parent
Program = Literal["mosquitto", "paho", "mqttjs"]
SCRIPTS: dict[str, tuple[str, str]] = {
    "paho": (sys.executable, str(HERE / "paho_device.py")),
    "mqttjs": ("node", str(HERE / "mqttjs_device.mjs")),
}
NAMES = {4: "mqttv311", 5: "mqttv5"}


@dataclass(frozen=True, kw_only=True)
class Will:
    topic: str
    payload: str
    qos: int = 1
    delay: int | None = None  # s, MQTT 5


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a device connects. `expiry`, `receive_maximum`, `max_packet`, `aliases`, `ask_response`: MQTT 5;
    `reconnect`: by itself (mosquitto_sub always does).
    """

    host: str
    port: int
    version: int
    client: str
    password: str
    username: str = ""  # the client id where nothing else is said
    clean: bool = False
    expiry: int | None = 3600
    keepalive: int = 60
    subscribe: tuple[tuple[str, int], ...] = ()
    receive_maximum: int | None = None
    max_packet: int | None = None
    aliases: bool = False
    ask_response: bool = False
    reconnect: bool = True
    path: str | None = None  # over WebSocket
    origin: bool = False  # paho's own there: a page of the host that it connects to
    ca: str | None = None  # over TLS
    will: Will | None = None

    def but(self, **changed: Any) -> Self:
        return replace(self, **changed)


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a device publishes, and MQTT 5 properties."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    user: list[tuple[str, str]] = field(default_factory=list)
    response: str | None = None
    correlation: str | None = None
    expiry: int | None = None


class Script(Process):
    """A device of which everything can be asked: paho or MQTT.js."""

    def __init__(self, program: Program, options: Options) -> None:
        super().__init__(*SCRIPTS[program])
        fields = {name: getattr(options, name) for name in options.__dataclass_fields__}
        fields["username"] = options.username or options.client
        fields["will"] = None if options.will is None else vars(options.will)
        self._options = fields
        self._ref = 0

    async def start(self) -> asyncio.subprocess.Process:
        """It waits for its options."""
        process = await SPARES.take(self.args)
        assert process.stdin is not None
        process.stdin.write(json.dumps(self._options).encode() + b"\n")
        return process

    def publish_soon(self, message: Message) -> int:
        """Its `ref`; a `puback` has the same."""
        self._ref += 1
        fields = {**vars(message), "payload": b64encode(message.payload).decode()}
        self.say({"do": "publish", "ref": self._ref, **fields})
        return self._ref

    async def publish(self, message: Message) -> dict[str, Any]:
        """The `puback`."""
        ref = self.publish_soon(message)
        answer = await self.event("puback")
        assert answer["ref"] == ref
        return answer

    async def by_hand(self) -> None:
        """What is received from now on is acked by `ack` only. MQTT.js reads nothing behind it until then."""
        self.say({"do": "by_hand"})
        await self.event("by_hand")

    def ack(self, mid: int, code: int = 0) -> None:
        """`code`: MQTT.js with MQTT 5 only."""
        self.say({"do": "ack", "mid": mid, "code": code})

    def disconnect(self, code: int = 0, expiry: int | None = None) -> None:
        self.say({"do": "disconnect", "code": code, "expiry": expiry})


def mosquitto(program: str, options: Options, *more: str) -> tuple[str, ...]:
    """The command line of a program of mosquitto-clients."""
    args = [
        # what they tell is buffered in a pipe, but for messages
        "stdbuf", "-oL", program, "-d", "-h", options.host, "-p", str(options.port), "-V", NAMES[options.version],
        "-i", options.client, "-u", options.username or options.client, "-P", options.password,
        "-k", str(max(5, options.keepalive)),
    ]  # fmt: skip
    if not options.clean and program != "mosquitto_pub":
        args.append("-c")
    if options.version == 5 and program != "mosquitto_pub":
        args += ["-x", str(options.expiry or 0)]
    if options.version == 5 and options.receive_maximum is not None:
        args += ["-D", "connect", "receive-maximum", str(options.receive_maximum)]
    if options.ca:
        args += ["--cafile", options.ca]
    will = options.will
    if will is not None:
        args += ["--will-topic", will.topic, "--will-payload", will.payload, "--will-qos", str(will.qos)]
        if options.version == 5 and will.delay is not None:
            args += ["-D", "will", "will-delay-interval", str(will.delay)]
    return (*args, *more)


def spoken(message: Message) -> list[str]:
    """The arguments of mosquitto_pub and mosquitto_rr that make a PUBLISH."""
    args = ["-q", str(message.qos), "-t", message.topic]
    args += ["-m", message.payload.decode()] if message.payload else ["-n"]
    if message.retain:
        args.append("-r")
    properties: list[tuple[str, ...]] = [("user-property", *pair) for pair in message.user]
    if message.correlation is not None:
        properties.append(("correlation-data", message.correlation))
    if message.expiry is not None:
        properties.append(("message-expiry-interval", str(message.expiry)))
    for each in properties:
        args += ["-D", "publish", *each]
    return args


_CONNACK = re.compile(r"Client .* received CONNACK \((\d+)\)$")
_SUBACK = re.compile(r"Subscribed \(mid: \d+\): (.*)$")
_PUBLISH = re.compile(r"Client .* received PUBLISH \(d([01]), q\d, r\d, m\d+, '")
_PUBACK = re.compile(r"Client .* received PUBACK \(Mid: \d+, RC:(\d+)\)$")
_DISCONNECT = re.compile(r"Received DISCONNECT \((\d+)\)$")
_PONG = re.compile(r"Client .* received PINGRESP$")


class Mosquitto(Process):
    """mosquitto_sub, mosquitto_rr or mosquitto_pub, which tell what they do (`-d`)."""

    def __init__(self, *args: str) -> None:
        super().__init__(*args)
        self._dup = False

    def hear(self, line: str) -> dict[str, Any] | None:
        """See Process."""
        if line.startswith("{"):
            return self._message(json.loads(line))
        if found := _PUBLISH.match(line):
            self._dup = found[1] == "1"
        elif found := _CONNACK.match(line):
            code = int(found[1])
            return {"e": "refused", "code": code} if code else {"e": "connected"}
        elif found := _SUBACK.match(line):
            return {"e": "subscribed", "codes": [int(code) for code in found[1].split(", ")]}
        elif found := _PUBACK.match(line):
            return {"e": "puback", "code": int(found[1])}
        elif found := _DISCONNECT.match(line):
            return {"e": "closed", "code": int(found[1])}
        elif _PONG.match(line):
            return {"e": "pong"}
        return None

    def _message(self, told: dict[str, Any]) -> dict[str, Any]:
        props = told.get("properties", {})
        return {
            "e": "message",
            "topic": told["topic"],
            "payload": told["payload"] or "",  # null
            "qos": told["qos"],
            "dup": self._dup,
            "retain": bool(told["retain"]),
            "mid": told.get("mid", 0),
            "user": [list(pair) for pair in props.get("user-properties", {}).items()],
            "response": props.get("response-topic"),
            "correlation": props.get("correlation-data"),
            "expiry": props.get("message-expiry-interval"),
            "content": props.get("content-type"),
        }


def subscriber(program: Program, options: Options, *more: str) -> Process:
    """A device that is subscribed to `options.subscribe`, and acks what it gets. `more`: for mosquitto_sub."""
    if program != "mosquitto":
        return Script(program, options)
    qos = {qos for _, qos in options.subscribe}
    assert len(qos) == 1, "mosquitto_sub has one QoS for all"
    topics = [arg for topic, _ in options.subscribe for arg in ("-t", topic)]
    return Mosquitto(*mosquitto("mosquitto_sub", options, "-q", str(*qos), *topics, "-F", "%j", *more))


async def publish(program: Program, options: Options, *messages: Message) -> list[dict[str, Any]]:
    """Publish at QoS 1 one after the other: the `puback` of each. A mosquitto_pub each, or one device for all."""
    if program != "mosquitto":
        async with Script(program, options) as device:
            await device.event("connected")
            answers = [await device.publish(message) for message in messages]
            assert not device.waiting("closed"), device.told()
            return answers
    answers = []
    for message in messages:
        async with Mosquitto(*mosquitto("mosquitto_pub", options, *spoken(message))) as pub:
            answer = await pub.event("puback")
            assert await pub.ended() == 0, pub.told()
            # a refusal: "Warning: Publish 1 failed: Not authorized.", and the reason string on a line of its own
            answers.append({**answer, "why": pub.errors.partition("\n")[2].strip()})
    return answers


class Stream:
    """A device that publishes numbered messages to one topic: mosquitto_pub, a line of its stdin each, or a script."""

    def __init__(self, program: Program, options: Options, topic: str) -> None:
        self._topic = topic
        self.device: Process = (
            Mosquitto(*mosquitto("mosquitto_pub", options, "-q", "1", "-t", topic, "-l"))
            if program == "mosquitto"
            else Script(program, options)
        )

    async def __aenter__(self) -> Self:
        await self.device.__aenter__()
        await self.device.event("connected")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.device.kill()

    async def publish(self, numbers: range) -> None:
        """Returns when each has its PUBACK."""
        for n in numbers:
            if isinstance(self.device, Script):
                self.device.publish_soon(Message(topic=self._topic, payload=b'{"n":%d}' % n))
            else:
                self.device.say({"n": n})
        answers = await all_of(self.device, "puback", len(numbers))
        assert {a["code"] for a in answers} == {0}


async def all_of(device: Process, kind: str, count: int) -> list[dict[str, Any]]:
    """The next so many events of a kind."""
    async with asyncio.timeout(60):
        return [await device.event(kind) for _ in range(count)]
