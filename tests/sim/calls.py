"""The hub's coroutines, driven by hand: they wait for nothing but futures that a commit answers. No loop runs."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Then = Callable[[Any, Exception | None], None]


class _NoLoop:
    """As much of an event loop as a future asks for."""

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Of a future that nobody asked: its gateway has crashed."""


_LOOP = _NoLoop()


class Calls:
    """Calls under way in one life of the gateway."""

    def __init__(self) -> None:
        self._running: list[tuple[Coroutine[Any, Any, Any], asyncio.Future[Any], Then]] = []

    def start(self, coroutine: Coroutine[Any, Any, Any], then: Then) -> None:
        self._step(coroutine, then)

    def poll(self) -> None:
        """Go on with what has its answer."""
        if not self._running:
            return
        running, self._running = self._running, []
        for coroutine, future, then in running:
            if future.done():
                self._step(coroutine, then)
            else:
                self._running.append((coroutine, future, then))

    def _step(self, coroutine: Coroutine[Any, Any, Any], then: Then) -> None:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(_LOOP)  # type: ignore[arg-type]
        try:
            future = coroutine.send(None)
        except StopIteration as stop:
            then(stop.value, None)
        except Exception as error:  # noqa: BLE001 - the caller's to judge
            then(None, error)
        else:
            self._running.append((coroutine, future, then))
        finally:
            asyncio._set_running_loop(before)

    def died(self) -> None:
        running, self._running = self._running, []
        for coroutine, _, then in running:
            coroutine.close()
            then(None, ConnectionResetError())
