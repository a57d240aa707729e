"""A gateway behind a real Mosquitto, the ledger with devices at that, and a network in between: all as processes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.harness import LedgerProcess, Mosquitto, assert_clean, fixed_ports, ready
from tests.stock.proxy import Proxy
from tests.support.process import GatewayProcess

LINKS = 2
FRAMED = 4
# acknowledged, and arrived, between two faults
MORE = 300
CONFIG = """
[mqtt.broker]
url = "mqtt://gateway:none@127.0.0.1:{port}"
links = {links}
keep_alive = 2
[session]
heartbeat = {heartbeat}
# a fault is not to be blamed on a message
deliver_max = 1000
crash_max = 1000
"""
# who a device is, is up to its user name
RULES = """
user gateway
topic readwrite gw/v1/#
pattern read gw/v1/d/%u
pattern write gw/v1/u/+/%u/#
"""
# s: what a planted bug has lost is not worth waiting for
HOPELESS = 1.0
LOST_SESSION = "the broker has lost the session of a link"


class Scene(NamedTuple):
    broker: Mosquitto
    gateway: GatewayProcess
    ledger: LedgerProcess
    proxy: Proxy  # between the gateway and the broker

    async def load(self, also: Callable[[dict[str, Any]], bool] = lambda _: True) -> None:
        """Until all links are up and much more has its `ok` and has arrived; more is under way then."""
        acked, arrived = (self.ledger.figures.get(key, 0) + MORE for key in ("acked", "arrived"))
        await self.ledger.until(lambda f: f["acked"] >= acked and f["arrived"] >= arrived and also(f))
        await self.linked()
        await self.ledger.until(lambda f: f["outstanding"] > 0)

    async def linked(self) -> None:
        """Until all links are up."""
        async with self.gateway.http() as http:
            await ready(http, 200)

    async def kill_gateway(self, then: str = "") -> None:
        """SIGKILL, and a start with what is planted `then`."""
        await self.gateway.kill()
        self.gateway.module = ("tests.faults.planted", then) if then else ("gateway",)
        await self.gateway.start()

    async def kill_broker(self) -> None:
        """SIGKILL, and a start with what is on its disk: what was there half an hour ago."""
        await self.broker.kill()
        await self.broker.start()

    def lost_sessions(self) -> int:
        """How often Session Present was 0 where a link had expected 1."""
        return sum(entry.get("event") == LOST_SESSION for entry in self.gateway.log)

    async def stored(self, statuses: str = "") -> list[dict[str, Any]]:
        """Up to ten messages that the gateway has, of these statuses."""
        params = {"limit": "10"} | ({"status": statuses} if statuses else {})
        async with self.gateway.http() as http, http.get("/v1/messages", params=params) as answer:
            body = await answer.json()
            assert answer.status == 200, body
            found: list[dict[str, Any]] = body["messages"]
            return found

    async def end(self) -> dict[str, Any]:
        """The verdict, which is clean; nothing that the gateway has accepted was anything but delivered by then."""
        self.ledger.pause()
        await self.ledger.until(lambda f: not f["outstanding"])
        await self.linked()
        await self.until_true(self.delivered)
        verdict = await self.ledger.verdict()
        assert_clean(verdict)
        # by the gateway or by the broker
        assert not verdict["refusals"], verdict
        return verdict

    async def delivered(self) -> bool:
        """Whether all messages that it has are."""
        return not await self.stored("queued,sent,expired,dead")

    async def until_true(self, ask: Callable[[], Awaitable[Any]]) -> None:
        """Ask the gateway, whose interfaces are polled, with each line of the ledger."""
        async with asyncio.timeout(30):
            while not await ask():
                await self.ledger.until(lambda _: True)

    async def broker_figure(self, name: str) -> float:
        """A metric of the links."""
        async with self.gateway.http() as http, http.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"botgw_broker_{name} "))


@asynccontextmanager
async def behind_a_broker(
    folder: Path,
    *args: str,
    bug: str = "",
    patience: float = 60.0,
    heartbeat: float = 25.0,
    rules: str = RULES,
) -> AsyncIterator[Scene]:
    """`args` and `patience`, in seconds, are the ledger's, `rules` the broker's; `bug` is planted in the gateway."""
    broker = Mosquitto(folder / "broker", "max_queued_messages 100000", rules=rules)
    proxy = Proxy(lambda: ("127.0.0.1", broker.port))
    told = ("--patience", str(patience), *args)
    async with broker, proxy:
        config = CONFIG.format(port=proxy.port, links=LINKS, heartbeat=heartbeat)
        gateway = GatewayProcess(folder / "gateway", config, env=fixed_ports(), bug=bug)
        async with gateway, LedgerProcess(gateway, *told, kind="broker", url=broker.url) as ledger:
            yield Scene(broker, gateway, ledger, proxy)
