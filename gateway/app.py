"""Builds and wires a gateway, runs it until it is told to stop. Nothing else knows all the rooms."""

import asyncio
import contextlib
import gc
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import uvloop
from msgspec import Struct

from gateway.api import ApiServer, CallbackServer
from gateway.auth import Authenticator
from gateway.bootstrap import Bootstrap, prepare
from gateway.clock import SystemClock
from gateway.config import Config, load
from gateway.errors import StoreFailed
from gateway.hub import Hub
from gateway.observe.lag import Lag
from gateway.observe.log import get_logger, setup
from gateway.observe.metrics import Watch, exposition
from gateway.ports import Handle
from gateway.providers.callbacks import Callbacks
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.fetched import Fetched
from gateway.stores import SqliteStore
from gateway.transports.mqtt import MqttServer
from gateway.transports.mqtt.broker import BrokerLinks
from gateway.transports.websocket import WebSocketServer

# the writer thread takes the interpreter back after each statement; while the loop is busy this is how long it waits
SWITCH_INTERVAL = 0.0005
# Containers made, and not freed, between two looks for cycles among the young; how many such looks before one at what
# they have left; how many of these before one at all there is, if that has grown by a quarter. A look holds everything
# up, for a microsecond or more a container.
GC_YOUNG = 5_000
GC_AGAIN = 2
GC_OLD = 160
# between the last connection's end and the last commit
STOP_TIMEOUT = 10.0


class Ready(Struct, frozen=True):
    """A gateway that listens. URLs name the ports that were really taken."""

    websocket_url: str
    api_url: str
    mqtt_url: str  # empty: no endpoint
    config: Config
    bootstrap: Bootstrap
    callbacks_url: str = ""  # empty: no listener


class LoopScheduler:
    """The hub's time and turns, of a running event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: SystemClock) -> None:
        self._loop = loop
        self._clock = clock
        self.now = clock.now
        self.wall = clock.wall

    def soon(self, call: Callable[[], None]) -> None:
        self._loop.call_soon(call)

    def at(self, when: int, call: Callable[[], None]) -> Handle:
        return self._loop.call_later(max(when - self._clock.now(), 0) / 1000, call)


class Gateway:
    """One gateway in one process: `start`, then `stop`."""

    def __init__(self, config: Config, bootstrap: Bootstrap) -> None:
        loop = asyncio.get_running_loop()
        clock = SystemClock()
        self.config = config
        self.bootstrap = bootstrap
        self.watch = Watch()
        self.store = SqliteStore(Path(config.data_dir), lambda call: _post(loop, call), loop.call_soon)
        self.dispatcher = Dispatcher(config.channels, config.callbacks.public_url)
        self.hub = Hub(
            config,
            self.store,
            LoopScheduler(loop, clock),
            self.dispatcher,
            self.watch,
            random.SystemRandom(),
            lambda: secrets.token_urlsafe(24),
            clock.reanchor,
        )
        self.dispatcher.ready = self.hub.channel_ready
        self.authenticator = Authenticator(config.auth, clock, self.hub.not_before)
        self.mqtt: MqttServer | None = None
        self.broker: BrokerLinks | None = None
        self.websocket: WebSocketServer | None = None
        metrics = exposition(
            self.watch,
            self.hub.figures,
            self.readiness,
            {
                "store": self.store.figures,
                "websocket": lambda: self.websocket.figures() if self.websocket is not None else {},
                "mqtt": lambda: self.mqtt.figures() if self.mqtt is not None else {},
                "broker": lambda: self.broker.figures() if self.broker is not None else {},
            },
            self.dispatcher.figures,
        )

        async def scrape() -> bytes:
            with contextlib.suppress(StoreFailed):
                self.watch.waiting = await self.store.waiting()
            return metrics()

        self.api = ApiServer(
            self.hub, self.authenticator, config, scrape, self._outside, self.dispatcher.describe
        )
        self.callbacks: CallbackServer | None = None
        if config.callbacks.listen:
            reader = Callbacks(
                config.callbacks.public_url,
                self.dispatcher.provider,
                clock.wall,
                self.watch.receipt,
                Fetched(self.dispatcher.fetch, clock.wall),
            )
            self.callbacks = CallbackServer(self.hub, reader, config.callbacks)
        self._lag: asyncio.TimerHandle | None = None

    async def start(self) -> Ready:
        """Open the store, then listen. Raises ConfigError, StoreFailed."""
        self.hub.start()
        self.watch.trace_root = self.hub.trace_root
        await self.dispatcher.start(self.hub.trace_root)
        self.authenticator.start()
        if self.config.mqtt.listen:
            self.mqtt = await MqttServer.start(self.hub, self.authenticator, self.config)
        self.websocket = await WebSocketServer.start(self.hub, self.authenticator, self.config, self.mqtt)
        if self.config.mqtt.broker.url:
            self.broker = await BrokerLinks.start(self.hub, self.config)
        await self.api.start()
        if self.callbacks is not None:
            await self.callbacks.start()
        self._watch_lag()
        # what lives as long as the process need not be looked at by every collection
        gc.collect()
        gc.freeze()
        # Messages come and go by counting references; looking for cycles among those in flight after every few hundred
        # of them finds none.
        gc.set_threshold(GC_YOUNG, GC_AGAIN, GC_OLD)
        scheme = "wss" if self.config.websocket.tls_cert else "ws"
        web = "https" if self.config.http.tls_cert else "http"
        return Ready(
            f"{scheme}://{_host(self.config.websocket.listen)}:{self.websocket.port}/ws",
            f"{web}://{_host(self.config.http.listen)}:{self.api.port}",
            self._mqtt_url(),
            self.config,
            self.bootstrap,
            self._callbacks_url(),
        )

    def readiness(self) -> str:
        """ "" where clients are served on every way that is configured, else why not (/readyz)."""
        return self.hub.ready or self._outside()

    def _outside(self) -> str:
        return self.broker.ready if self.broker is not None else ""

    def _mqtt_url(self) -> str:
        if self.mqtt is None:
            return ""
        scheme = "mqtts" if self.config.mqtt.tls_cert else "mqtt"
        return f"{scheme}://{_host(self.config.mqtt.listen)}:{self.mqtt.port}"

    def _callbacks_url(self) -> str:
        if self.callbacks is None:
            return ""
        scheme = "https" if self.config.callbacks.tls_cert else "http"
        return f"{scheme}://{_host(self.config.callbacks.listen)}:{self.callbacks.port}"

    def _watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        lag = Lag(time.monotonic, self.watch.lag)

        def look() -> None:
            self._lag = loop.call_later(lag.look(), look)

        look()

    async def drain(self, stop: asyncio.Event) -> None:
        """Let clients go elsewhere; ends when all have gone, at the configured time, or when `stop` is set again."""
        stop.clear()
        self.hub.drain()
        self.hub.when_quiet(True, stop.set)
        try:
            async with asyncio.timeout(self.config.drain.timeout + 1.0):
                await stop.wait()
        except TimeoutError:
            get_logger("gateway").warning("drain timeout", connections=len(self.hub.core.conns))

    async def stop(self) -> None:
        """Close everything; what was accepted is on disk."""
        if self._lag is not None:
            self._lag.cancel()
        for server in (self.websocket, self.mqtt, self.broker):
            if server is not None:
                await server.stop()
        if self.callbacks is not None:
            await self.callbacks.stop()
        await self.api.stop()
        await self.dispatcher.close()
        try:
            quiet = asyncio.Event()
            self.hub.when_quiet(False, quiet.set)
            async with asyncio.timeout(STOP_TIMEOUT):
                await quiet.wait()
        except TimeoutError:
            get_logger("gateway").warning("stopped with a commit under way")
        self.hub.stop()
        await self.authenticator.close()
        self.store.close()


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Run `call` on the loop's thread. After the loop's end nobody waits for it any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


def _host(listen: str) -> str:
    """The host part of a listen address, as a URL on this machine wants it."""
    host = listen.rpartition(":")[0]
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared


async def _serve(config: Config, bootstrap: Bootstrap, on_ready: Callable[[Ready], None]) -> int:
    log = get_logger("gateway")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    gateway = Gateway(config, bootstrap)
    try:
        ready = await gateway.start()
    except StoreFailed as error:
        log.error("the store does not open", why=str(error))
        gateway.store.close()
        return 1
    on_ready(ready)
    log.info(
        "ready",
        websocket=ready.websocket_url,
        mqtt=ready.mqtt_url,
        api=ready.api_url,
        callbacks=ready.callbacks_url,
        data_dir=config.data_dir,
    )
    try:
        await stop.wait()
        log.info("draining", connections=len(gateway.hub.core.conns))
        await gateway.drain(stop)
    finally:
        await gateway.stop()
    log.info("stopped")
    return 0


def run(config_path: Path | None, env: Mapping[str, str], on_ready: Callable[[Ready], None]) -> int:
    """Run a gateway until SIGTERM or SIGINT; a second signal ends the drain at once. Returns the exit status.

    Raises ConfigError for a configuration, an address or a data folder that cannot be used.
    """
    config, bootstrap = prepare(load(config_path, env))
    setup(config.log)
    sys.setswitchinterval(SWITCH_INTERVAL)
    return uvloop.run(_serve(config, bootstrap, on_ready))
