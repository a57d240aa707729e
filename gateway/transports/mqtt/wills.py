"""Wills: what a device wants said when it is gone (MQTT 5, 3.1.2.5 and 3.1.3.2.2).

A will is a message to the address in its topic. It is read when its device connects, so that a bad one is refused then,
and published when the connection ends without a DISCONNECT that takes it back: after its delay, or with the end of the
session where that is earlier. A connection of the same client before that makes a delayed one void, unless it begins
with a clean start: that ends the session. When the gateway itself goes away, devices are only moved: no will is
published then, and none that waits outlives the process.
"""

from typing import TYPE_CHECKING, Any, Final

from gateway.auth import Principal
from gateway.errors import GatewayError
from gateway.model import Publish
from gateway.observe.log import get_logger
from gateway.transports.mqtt.codec import P
from gateway.transports.mqtt.codec import Will as Packet

if TYPE_CHECKING:
    from gateway.transports.mqtt.server import MqttServer

NOTHING_RETAINED: Final = "nothing is retained here"

_log = get_logger("mqtt")
_FATES: Final = ("published", "cancelled", "refused", "dropped")


class Will:
    """One will, prepared. `delay` in ms. `retained`: of a device with MQTT 3.1.1, whose CONNECT cannot be refused for
    that alone: a dead letter, like a publish of it.
    """

    __slots__ = ("_due", "_wills", "delay", "principal", "pub", "retained", "slot")

    def __init__(self, wills: "Wills", principal: Principal, pub: Publish, packet: Packet) -> None:
        self._wills = wills
        self._due = 0
        self.principal = principal
        self.pub = pub
        self.retained = packet.retain
        self.delay = 1000 * (packet.props or {}).get(P.WILL_DELAY, 0)
        self.slot = 0

    def wait(self, now: int, ms: int) -> int:
        """Wait so long from now. When it is due."""
        self._due = now + ms
        return self._due

    def look(self, now: int) -> int:
        """See Timed: publish it when its time has come."""
        if now < self._due:
            return self._due
        self._wills.due(self)
        return 0

    def abort(self) -> None:
        """See Timed."""


class Wills:
    """Those of all devices: the ones that wait, and what became of the others. A gateway.commit.Sink."""

    def __init__(self, server: "MqttServer") -> None:
        self._server = server
        self._waiting: dict[str, Will] = {}
        self._fates = dict.fromkeys(_FATES, 0)

    def figures(self) -> dict[str, int]:
        """How many ended how, and how many wait."""
        return {**self._fates, "waiting": len(self._waiting)}

    def left(self, will: Will, keep: int) -> None:
        """Its connection has ended, and its session will in `keep` ms. So many wait as there may be connections: one
        above that is published at once.
        """
        server = self._server
        delay = min(will.delay, keep)
        if delay <= 0 or len(self._waiting) >= server.max_connections:
            self._publish(will)
            return
        self._waiting[will.principal.name] = will
        server.wheel.put(will, will.wait(server.now(), delay))

    def came_back(self, client: str, clean: bool) -> None:
        """The client has connected; with a clean start its older session has ended."""
        will = self._waiting.pop(client, None)
        if will is None:
            return
        self._server.wheel.drop(will)
        if clean:
            self._publish(will)
        else:
            self._fates["cancelled"] += 1

    def cancel(self) -> None:
        """Taken back by its client."""
        self._fates["cancelled"] += 1

    def drop(self) -> None:
        """Void, because its client is only moved."""
        self._fates["dropped"] += 1

    def stop(self) -> None:
        """The gateway goes away."""
        for will in self._waiting.values():
            self._server.wheel.drop(will)
            self.drop()
        self._waiting.clear()

    def due(self, will: Will) -> None:
        """Its delay is over."""
        del self._waiting[will.principal.name]
        self._publish(will)

    def _publish(self, will: Will) -> None:
        # an end may be told in the middle of what the hub is doing
        self._server.hub.scheduler.soon(lambda: self._hand_over(will))

    def _hand_over(self, will: Will) -> None:
        hub, name = self._server.hub, will.principal.name
        try:
            if will.retained:
                body = bytes(will.pub.body)  # type: ignore[arg-type]
                hub.refuse(will.principal, will.pub.to, body, "publish_invalid", NOTHING_RETAINED, self, "")
            else:
                hub.publish(will.principal, will.pub, self, name, field="will")
        except GatewayError as error:
            self.refused(will.principal.name, error)

    # -- a Sink ----------------------------------------------------------------------------------------------------

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        """A will is durable; `ref` is its client, "" for a dead letter."""
        self._fates["published" if ref else "refused"] += 1

    def refused(self, ref: Any, error: GatewayError) -> None:
        """A will was refused."""
        self._fates["refused"] += 1
        _log.warning("a will was refused", client=ref, code=error.code, why=error.detail)
