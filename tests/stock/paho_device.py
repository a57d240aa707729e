"""A device with paho-mqtt, as a process: options, then commands, as lines of stdin; events on stdout (process.py)."""

import json
import os
import sys
import threading
from base64 import b64decode
from typing import Any

from paho.mqtt.client import Client, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

# paho tells the return codes of 3.1.1 as reason codes of 5
RETURN_CODES = {132: 1, 133: 2, 136: 3, 134: 4, 135: 5}


def without_origin(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "Origin"}


class Device:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.version = options["version"]
        self.by_hand = False
        self.held: list[int] = []  # received, not acked
        self.refs: dict[int, int] = {}  # what the test calls a packet id
        self.early: dict[int, dict[str, Any]] = {}  # answers that came before `publish` had returned
        self.publishing = threading.Lock()
        self.writing = threading.Lock()
        self.client = client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=options["client"],
            clean_session=options["clean"] if self.version != 5 else None,
            protocol=MQTTProtocolVersion(self.version),
            transport="websockets" if options.get("path") else "tcp",
            reconnect_on_failure=options["reconnect"],
            manual_ack=True,
        )
        client.username_pw_set(options["username"], options["password"])
        client.reconnect_delay_set(0.1, 0.5)  # type: ignore[arg-type]  # a fraction will do
        if options.get("path"):
            client.ws_set_options(options["path"], headers=None if options["origin"] else without_origin)
        if options.get("ca"):
            client.tls_set(options["ca"])
        if options.get("will"):
            self.set_will(options["will"])
        client.on_connect = self.on_connect
        client.on_connect_fail = self.on_connect_fail
        client.on_disconnect = self.on_disconnect
        client.on_subscribe = self.on_subscribe
        client.on_unsubscribe = self.on_unsubscribe
        client.on_publish = self.on_publish
        client.on_message = self.on_message
        client.on_log = self.on_log

    def properties(self, packet: int, **named: Any) -> Properties | None:
        """Those that are given; 3.1.1 has none."""
        if self.version != 5:
            return None
        properties = Properties(packet)  # type: ignore[no-untyped-call]
        for name, value in named.items():
            if value is not None:
                setattr(properties, name, value)
        return properties

    def set_will(self, will: dict[str, Any]) -> None:
        self.client.will_set(
            will["topic"],
            will["payload"],
            will["qos"],
            properties=self.properties(PacketTypes.WILLMESSAGE, WillDelayInterval=will.get("delay")),
        )

    def start(self) -> None:
        options = self.options
        more: dict[str, Any] = {}
        if self.version == 5:
            more["clean_start"] = options["clean"]
            more["properties"] = self.properties(
                PacketTypes.CONNECT,
                SessionExpiryInterval=options.get("expiry"),
                ReceiveMaximum=options.get("receive_maximum"),
                MaximumPacketSize=options.get("max_packet"),
            )
        self.client.connect_async(options["host"], options["port"], options["keepalive"], **more)
        self.client.loop_start()

    def tell(self, kind: str, **fields: Any) -> None:
        with self.writing:
            sys.stdout.write(json.dumps({"e": kind, **fields}) + "\n")
            sys.stdout.flush()

    # -- what paho calls -----------------------------------------------------------------------------------------------

    def on_connect(self, client: Client, _: Any, flags: Any, code: ReasonCode, props: Any) -> None:
        if code.is_failure:
            value = code.value if self.version == 5 else RETURN_CODES[code.value]
            self.tell("refused", code=value, why=getattr(props, "ReasonString", ""))
            return
        self.tell("connected", present=flags.session_present)
        for topic, qos in self.options["subscribe"]:
            client.subscribe(topic, qos)

    def on_connect_fail(self, _c: Any, _u: Any) -> None:
        if not self.options["reconnect"]:
            os._exit(1)

    def on_disconnect(self, _c: Any, _u: Any, flags: DisconnectFlags, code: ReasonCode, props: Any) -> None:
        told = flags.is_disconnect_packet_from_server
        self.tell(
            "closed",
            code=code.value if told else None,
            reference=getattr(props, "ServerReference", None),
        )

    def on_subscribe(self, _c: Any, _u: Any, _m: int, codes: list[ReasonCode], props: Any) -> None:
        self.tell("subscribed", codes=[c.value for c in codes], why=getattr(props, "ReasonString", ""))

    def on_unsubscribe(self, _c: Any, _u: Any, _m: int, codes: list[ReasonCode], _p: Any) -> None:
        self.tell("unsubscribed")

    def on_publish(self, _c: Any, _u: Any, mid: int, code: ReasonCode, props: Any) -> None:
        answer = {"code": code.value, "why": getattr(props, "ReasonString", "")}
        with self.publishing:
            ref = self.refs.pop(mid, None)
            if ref is None:
                self.early[mid] = answer
                return
        self.tell("puback", ref=ref, **answer)

    def on_message(self, client: Client, _: Any, message: MQTTMessage) -> None:
        props = message.properties
        correlation = getattr(props, "CorrelationData", None)
        by_hand = self.by_hand
        if by_hand and message.qos:
            # the test may ack it as soon as it is told
            self.held.append(message.mid)
        self.tell(
            "message",
            topic=message.topic,
            payload=message.payload.decode(),
            qos=message.qos,
            dup=message.dup,
            retain=message.retain,
            mid=message.mid,
            user=getattr(props, "UserProperty", []),
            response=getattr(props, "ResponseTopic", None),
            correlation=correlation.decode() if correlation is not None else None,
            expiry=getattr(props, "MessageExpiryInterval", None),
            content=getattr(props, "ContentType", None),
        )
        if message.qos and not by_hand:
            client.ack(message.mid, message.qos)

    def on_log(self, _c: Any, _u: Any, _level: int, text: str) -> None:
        if text == "Received PINGRESP":
            self.tell("pong")

    # -- commands ------------------------------------------------------------------------------------------------------

    def do_publish(self, it: dict[str, Any]) -> None:
        properties = self.properties(
            PacketTypes.PUBLISH,
            UserProperty=[tuple(pair) for pair in it["user"]] or None,
            ResponseTopic=it.get("response"),
            CorrelationData=it["correlation"].encode() if it.get("correlation") else None,
            MessageExpiryInterval=it.get("expiry"),
        )
        payload = b64decode(it["payload"])
        mid = self.client.publish(it["topic"], payload, it["qos"], it["retain"], properties).mid
        with self.publishing:
            early = self.early.pop(mid, None)
            if early is None:
                self.refs[mid] = it["ref"]
        if early is not None:
            self.tell("puback", ref=it["ref"], **early)

    def do_subscribe(self, it: dict[str, Any]) -> None:
        self.client.subscribe(it["topic"], it["qos"])

    def do_unsubscribe(self, it: dict[str, Any]) -> None:
        self.client.unsubscribe(it["topic"])

    def do_by_hand(self, _: dict[str, Any]) -> None:
        self.by_hand = True
        self.tell("by_hand")

    def do_ack(self, it: dict[str, Any]) -> None:
        self.held.remove(it["mid"])
        self.client.ack(it["mid"], 1)

    def do_disconnect(self, it: dict[str, Any]) -> None:
        code = it["code"]
        self.client.disconnect(
            ReasonCode(PacketTypes.DISCONNECT, identifier=code) if self.version == 5 else None,
            self.properties(PacketTypes.DISCONNECT, SessionExpiryInterval=it.get("expiry")),
        )


def main() -> None:
    device = Device(json.loads(sys.stdin.readline()))
    device.start()
    for line in sys.stdin:
        command = json.loads(line)
        getattr(device, f"do_{command['do']}")(command)


main()
