"""Drives a session over links: connects, reads, writes, comes back, until it is closed or told to stop.

One task reads, one writes, one renews the token; a fourth, over all connections, tells the application of gaps,
statuses and events, so that a callback may itself publish and wait for the receipt.
"""

import asyncio
import contextlib
import inspect
import logging
import time
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import Struct

from gateway.client.comeback import Plan, jitter
from gateway.client.errors import ClientClosed, ClientError, StateFailed
from gateway.client.frames import BadFrame, Gap, StatusReport
from gateway.client.session import Session
from gateway.client.state import Snapshot, StateFile
from gateway.client.tokens import TokenFailed, Tokens
from gateway.client.transport import Link, LinkClosed, LinkRefused, Opener
from gateway.client.values import Leave

log = logging.getLogger("gateway.client")

# events of connections that wait for a slow callback; above it no new connection is made
MAX_EVENTS = 1000
# how long the callbacks of the last events may take, seconds
LAST_EVENTS = 2.0
# after a token callable failed, seconds
RENEW_AGAIN = 1.0
NO_LINK = 1006
BAD_FRAME = 1002


class Hooks(Struct, frozen=True):
    """The application's callbacks, plain or async. What one raises is logged and changes nothing."""

    on_status: Callable[[StatusReport], object] | None = None
    on_gap: Callable[[Gap], object] | None = None
    on_welcome: Callable[[str], object] | None = None
    on_close: Callable[[int, str], object] | None = None


class Driver:
    """`error` is set when it has ended, `trouble` says what kept it from connecting last."""

    def __init__(
        self,
        session: Session,
        wake: asyncio.Event,
        open_link: Opener,
        tokens: Tokens,
        rng: Random,
        hooks: Hooks,
    ) -> None:
        self.session = session
        self.error: ClientError | None = None
        self.trouble = ""
        self.settled = asyncio.Event()  # welcomed for the first time, or ended
        self.arrived = asyncio.Event()  # messages, or the end
        self.closing = asyncio.Event()
        self.state: StateFile | None = None
        self._wake = wake
        self._open = open_link
        self._tokens = tokens
        self._rng = rng
        self._hooks = hooks
        self._renew = False
        self._linked = False
        self._events: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._untold = 0
        self._news = asyncio.Event()
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Until the client is closed or stopped; `error` then says why."""
        try:
            async with asyncio.TaskGroup() as group:
                teller = group.create_task(self._tell())
                self._end(await self._connections())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LAST_EVENTS):
                        await self._told_but(0)
                teller.cancel()
        finally:
            self._end(ClientClosed("the client is closed"))

    def _end(self, error: ClientError) -> None:
        self.error = self.error or error
        self.session.end(self.error)
        self.arrived.set()
        self.settled.set()

    def close(self, *, end: bool) -> bool:
        """Begin to close. False: there is no connection that must be left properly."""
        self.closing.set()
        self.session.close(end=end)
        return self._linked

    async def save(self) -> None:
        """Put what has changed into the state file. Raises StateFailed."""
        if self.session.unsaved:
            await self._save(*self.session.snapshot())

    async def _save(self, snapshot: Snapshot, serial: int) -> None:
        if self.state is None:
            return
        try:
            await asyncio.to_thread(self.state.save, snapshot, serial)
        except BaseException:
            self.session.inbox.changed = True  # it may not be on disk: the next save has it all
            raise

    # -- connections -----------------------------------------------------------------------------------------------

    async def _connections(self) -> ClientError:
        while True:
            plan = await self._connection()
            if self.error is not None:
                return self.error
            if self.closing.is_set():
                return ClientClosed("the client is closed")
            if plan.stop is not None:
                return plan.stop
            self._renew = self._renew or plan.renew
            await self._told_but(MAX_EVENTS)
            try:
                async with asyncio.timeout(plan.delay):
                    await self.closing.wait()
            except TimeoutError:
                continue
            return ClientClosed("the client is closed")

    async def _connection(self) -> Plan:
        session = self.session
        try:
            token = await (self._tokens.renew() if self._renew else self._tokens.get(time.time()))
            self._renew = False
            link = await self._open(token)
        except LinkRefused as e:
            self._note(f"refused: {e}")
            return session.refused(e.status, e.detail, e.retry_after, self._now())
        except LinkClosed as e:
            self._note(f"refused: {e}")
            return session.ended(e.code, e.reason, self._now())
        except (OSError, TokenFailed) as e:
            self._note(str(e) or type(e).__name__)
            return session.ended(NO_LINK, "", self._now())
        session.connected(token, self._now(), link.nonce)
        code, reason = await self._serve(link)
        plan = session.ended(code, reason, self._now())
        self._note(f"connection ended: {plan.code} {session.why or reason}")
        self._event(self._hooks.on_close, plan.code, session.why or reason)
        return plan

    def _note(self, trouble: str) -> None:
        self.trouble = trouble
        log.info("%s", trouble)

    async def _serve(self, link: Link) -> tuple[int, str]:
        self._linked = True
        try:
            async with asyncio.TaskGroup() as group:
                side = [group.create_task(self._write(link)), group.create_task(self._renewals())]
                end = await self._read(link)
                for task in side:
                    task.cancel()
            return end
        finally:
            self._linked = False
            link.abort()

    async def _read(self, link: Link) -> tuple[int, str]:
        session = self.session
        while True:
            try:
                data = await link.recv()
            except LinkClosed as e:
                return e.code, e.reason
            try:
                session.receive(data, self._now())
            except BadFrame as e:
                log.warning("%s", e)
                await link.close(BAD_FRAME, "bad frame")
                return BAD_FRAME, "bad frame"
            welcome = session.take_welcome()
            if welcome is not None:
                log.info("welcome: %s", welcome.why)
                self.settled.set()
                self._event(self._hooks.on_welcome, welcome.why)
            if session.inbox.ready:
                self.arrived.set()
            if session.inbox.notices:
                self._news.set()

    async def _write(self, link: Link) -> None:
        session = self.session
        while True:
            session.heard(link.heard)
            out = session.take(self._now())
            try:
                if out.snapshot is not None:
                    await self._save(out.snapshot, out.serial)
                for frame in out.frames:
                    # a peer that pings but does not read is as good as gone
                    async with asyncio.timeout(session.patience):
                        await link.send(frame)
            except StateFailed as e:
                self.error = e
                link.abort()
                return
            except TimeoutError:
                link.abort()
                return
            except LinkClosed:
                return
            if session.leave == Leave.ABORT:
                link.abort()
                return
            if session.leave == Leave.CLOSE:
                await link.close(1000, session.why)
                return
            await self._until(session.next_deadline())

    async def _until(self, due: float | None) -> None:
        try:
            async with asyncio.timeout_at(due):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _renewals(self) -> None:
        """A fresh token before the one in use expires."""
        failures = 0
        while True:
            at = self._tokens.renew_at(time.time())
            if at is None:
                return
            await asyncio.sleep(max(0.0, at - time.time()))
            try:
                self.session.renew(await self._tokens.renew())
                failures = 0
            except TokenFailed as e:
                log.warning("%s", e)
                await asyncio.sleep(RENEW_AGAIN + jitter(self._rng, failures))
                failures += 1

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # -- the application's callbacks -------------------------------------------------------------------------------

    def _event(self, hook: Callable[..., object] | None, *args: Any) -> None:
        if hook is not None:
            self._events.append((hook, args))
            self._untold += 1
            self._news.set()

    async def _told_but(self, left: int) -> None:
        """Until at most `left` events are untold."""
        while self._untold > left:
            self._told.clear()
            await self._told.wait()

    async def _tell(self) -> None:
        inbox = self.session.inbox
        while True:
            while self._events:
                hook, args = self._events.popleft()
                await self._call(hook, *args)
                self._untold -= 1
                self._told.set()
            while inbox.notices and not self._events:
                notice = inbox.notices.popleft()
                what = notice.what
                about = self._hooks.on_gap if isinstance(what, Gap) else self._hooks.on_status
                if about is not None:
                    await self._call(about, what)
                inbox.told(notice)
            if not self._events and not inbox.notices:
                self._news.clear()
                await self._news.wait()

    @staticmethod
    async def _call(hook: Callable[..., object], *args: Any) -> None:
        try:
            result = hook(*args)
            if inspect.isawaitable(result):
                await result
        except Exception:
            log.exception("a callback of the application failed")
