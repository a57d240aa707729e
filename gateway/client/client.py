"""The client as a program uses it.

    async with Client("ws://127.0.0.1:8080/ws", token) as c:
        async for m in c.messages():
            ...
            await m.ack()

or Client("mqtt://127.0.0.1:1883", token): the gateway's own endpoint, or a broker before it.

It connects, resumes and reconnects by itself. A message is handed out once, however often it is delivered, as long as
the client remembers it: in memory, or with `state=` in a file over a restart of the program.
"""

import asyncio
import os
import secrets
import ssl as tls
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from random import SystemRandom
from types import TracebackType
from typing import Any, Literal, Self

from gateway.client.connection import Driver, Hooks
from gateway.client.errors import ClientClosed, ClientError, ConnectTimeout
from gateway.client.frames import Codec, Gap, StatusReport
from gateway.client.message import Message
from gateway.client.outbox import Receipt
from gateway.client.session import Session
from gateway.client.state import StateFile
from gateway.client.tokens import TokenCall, Tokens
from gateway.client.transport import Device, opener
from gateway.client.values import Info, Options, Reading
from gateway.ids import decode_id
from gateway.model import Priority
from gateway.wire import PubEntry

CLOSE_TIMEOUT = 5.0
MAX_WINDOW = 65535


class Client:
    """One client of the gateway. Enter it once, with `async with`.

    url            ws:// or wss://, with the path (`/ws`); mqtt:// or mqtts://, without one: MQTT 5, framed, at the
                   gateway's own endpoint or a broker. ValueError for another scheme
    token          a JWT, or an async callable that gives one: called for the first connection, before `exp` and
                   when the gateway says that it has expired. Over MQTT it is the password, unless the URL names a user
                   of a broker (mqtt://user:password@host): then none is needed
    window         how many messages may be unsettled at once, 1..65535; the gateway may grant fewer
    state          file that carries session and dedupe over a restart; None: memory
    ack_delay      seconds for which acks are gathered into one frame; half a window of them leaves at once
    dedupe         how many acked message ids are remembered
    encoding       json or msgpack; over MQTT json
    on_status      called with a StatusReport for what `notify` asked; acked after it ran, so perhaps told twice
    on_gap         called with a Gap for a message that can no longer be delivered; as on_status
    on_welcome     called with why: resumed, new, expired, epoch, unknown, clean
    on_close       called with code and reason whenever a connection has ended
    max_publishes  publishes in flight; a further one waits
    publish_retries  how often a publish is tried again that the gateway could not take now
    connect_timeout  seconds until the first welcome, None for ever; afterwards it reconnects until it is closed
    ssl            for wss:// and mqtts://: whom to trust
    client         over MQTT: the client id, where neither the token's `sub` nor the user in the URL is it
    prefix         over MQTT: of the topics, as the gateway's configuration has it; gw/v1 where not given

    Raises on entry: ConnectTimeout, StateFailed, or what stopped it (see `gateway.client.errors`).
    """

    def __init__(  # noqa: PLR0913 - all but two are options by name
        self,
        url: str,
        token: str | TokenCall = "",
        *,
        window: int = 64,
        state: str | os.PathLike[str] | None = None,
        ack_delay: float = 0.005,
        dedupe: int = 10_000,
        encoding: Literal["json", "msgpack"] = "json",
        on_status: Callable[[StatusReport], object] | None = None,
        on_gap: Callable[[Gap], object] | None = None,
        on_welcome: Callable[[str], object] | None = None,
        on_close: Callable[[int, str], object] | None = None,
        max_publishes: int = 1000,
        publish_retries: int = 5,
        connect_timeout: float | None = 30.0,
        ssl: tls.SSLContext | None = None,
        client: str = "",
        prefix: str = "",
    ) -> None:
        if not 1 <= window <= MAX_WINDOW:
            raise ValueError(f"window must be within 1..{MAX_WINDOW}")
        if min(ack_delay, dedupe, publish_retries) < 0 or max_publishes < 1:
            raise ValueError(
                "ack_delay, dedupe and publish_retries must not be negative, max_publishes at least 1"
            )
        self._codec = Codec(encoding)
        fixed = token if isinstance(token, str) else None
        self._open = opener(url, self._codec, ssl, Device(client, fixed, prefix))
        self._tokens = Tokens(token)
        self._state = StateFile(state) if state is not None else None
        self._options = Options(
            window=window,
            ack_delay=ack_delay,
            dedupe=dedupe,
            publish_retries=publish_retries,
            renewable=self._tokens.renewable,
            persist=state is not None,
        )
        self._hooks = Hooks(on_status, on_gap, on_welcome, on_close)
        self._connect_timeout = connect_timeout
        self._slots = asyncio.Semaphore(max_publishes)
        self._driver: Driver | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._driver is not None:
            raise RuntimeError("a client is entered once; make another")
        snapshot = await asyncio.to_thread(self._state.load) if self._state is not None else None
        rng = SystemRandom()
        wake = asyncio.Event()
        session = Session(
            self._codec,
            self._options,
            rng=rng,
            key_prefix=secrets.token_urlsafe(9),
            wake=wake.set,
            snapshot=snapshot,
        )
        driver = self._driver = Driver(session, wake, self._open, self._tokens, rng, self._hooks)
        driver.state = self._state
        self._task = asyncio.create_task(driver.run())
        try:
            async with asyncio.timeout(self._connect_timeout):
                await driver.settled.wait()
            if driver.error is not None:
                raise driver.error
        except TimeoutError:
            trouble = driver.trouble or "no answer"
            await self.close()
            raise ConnectTimeout(f"no welcome within {self._connect_timeout} s: {trouble}") from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, *, end: bool = False) -> None:
        """Send the acks that wait and `bye`, and leave; at most CLOSE_TIMEOUT seconds. Harmless when repeated.

        `end`: the gateway need not wait for the offline deadline. Publishes that wait for an answer raise. Acks that
        could not be sent are in the state file, where there is one. Raises StateFailed.
        """
        driver, task = self._driver, self._task
        if driver is None or task is None:
            return
        if not driver.close(end=end):
            task.cancel()
        await asyncio.wait((task,), timeout=CLOSE_TIMEOUT)
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
        self._task = None
        if not task.cancelled():
            task.result()
        await driver.save()

    def messages(self) -> AsyncIterator[Message]:
        """The messages, in order, until the client is closed. Several loops share them.

        The loop raises what stopped the client (Stopped, StateFailed).
        """
        return _Messages(self._entered())

    async def publish(  # noqa: PLR0913 - a message has many fields, all by name
        self,
        to: str,
        body: Any,
        *,
        type: str | None = None,  # noqa: A002 - the field's name
        priority: Priority = "normal",
        ttl: float | None = None,
        deadline: float | None = None,
        deliver_at: int | None = None,
        fallback: Sequence[str] | None = None,
        key: str | None = None,
        collapse: str | None = None,
        notify: Sequence[str] | None = None,
        meta: dict[str, str] | None = None,
        trace: str | None = None,
        reply_to: str | None = None,
        correlation: str | None = None,
    ) -> Receipt:
        """Send a message (PROTOCOL 2: `ttl`, `deadline` in seconds, `deliver_at` Unix ms); returns once it is durable.

        `reply_to`: the client that an answer is to be addressed to; `correlation`: what it is to repeat, base64.

        Without a `key` it gets one, so that repeating it after a lost connection makes no second message. Publishes of
        one turn of the loop leave in one frame. Waits while `max_publishes` are in flight.

        Raises PublishRefused; PublishUnknown, ClientClosed or what stopped the client when it ends first; TypeError,
        ValueError or OverflowError for a body that the encoding cannot say.
        """
        entry = PubEntry(
            to=to,
            type=type,
            priority=priority,
            deadline=deadline,
            deliver_at=deliver_at,
            fallback=None if fallback is None else list(fallback),
            key=key,
            collapse=collapse,
            notify=None if notify is None else list(notify),  # type: ignore[arg-type]
            meta=meta,
            trace=trace,
            reply_to=reply_to,
            correlation=correlation,
        )
        if ttl is not None:
            entry.ttl = ttl
        self._running()
        await self._slots.acquire()
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

        def answer(result: Receipt | ClientError) -> None:
            self._slots.release()
            if future.done():
                return
            if isinstance(result, Receipt):
                future.set_result(result)
            else:
                future.set_exception(result)

        try:
            session = self._running().session
            publication = session.publish(entry, body, answer)
        except BaseException:
            self._slots.release()
            raise
        try:
            return await future
        except asyncio.CancelledError:
            if session.abandon(publication):
                self._slots.release()
            raise

    async def read(self, ids: Iterable[str]) -> None:
        """A person has seen these messages. Returns when it is sent; nothing answers it, and it is not repeated.

        Raises ValueError for what is no message id.
        """
        checked = list(ids)
        for each in checked:
            decode_id(each)
        if not checked:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def sent(error: ClientError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        session = self._running().session
        reading = Reading(checked, sent)
        session.read(reading)
        try:
            await future
        except asyncio.CancelledError:
            session.unread(reading)
            raise

    @property
    def info(self) -> Info:
        """The last welcome."""
        info = self._driver.session.info if self._driver is not None else None
        if info is None:
            raise RuntimeError("not welcomed yet")
        return info

    def _entered(self) -> Driver:
        if self._driver is None:
            raise RuntimeError("enter the client first: async with Client(…) as c")
        return self._driver

    def _running(self) -> Driver:
        driver = self._entered()
        if driver.error is not None:
            raise driver.error.with_traceback(None)
        return driver


class _Messages:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        driver = self._driver
        while True:
            if driver.closing.is_set() or isinstance(driver.error, ClientClosed):
                raise StopAsyncIteration
            if driver.error is not None:
                raise driver.error.with_traceback(None)
            message = driver.session.inbox.next()
            if message is not None:
                return message
            driver.arrived.clear()
            await driver.arrived.wait()
