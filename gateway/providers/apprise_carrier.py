"""Apprise for one channel: an exchange is one notification, made in a thread, for the library blocks.

There are as many threads as attempts at once. A thread that is stuck cannot be stopped: its attempt ends in time, as
ambiguous, and the thread counts until it ends. While all are stuck nothing is begun, so nothing waits behind them
unseen. They are no part of the loop's pool, and do not hold up the end of the process.

The library tells in its log why a service has not taken a message, and nowhere else that all its versions have. Only a
status is taken from there: the rest may hold what must not be shown.
"""

import asyncio
import contextlib
import logging
import re
import threading
from importlib import import_module
from typing import Any

from gateway.config.channels import Apprise as Settings
from gateway.providers.http import CONNECT_SHARE, NoAnswer
from gateway.providers.provider import Answer, Notify

_status = re.compile(r"\berror=([1-5][0-9][0-9])\b").search


class _Log(logging.Handler):
    """What the library says in a thread while it is asked to send, and nothing of it elsewhere."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._said = threading.local()

    def begin(self) -> None:
        self._said.statuses = []
        self._said.sent = False

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(self._said, "statuses"):
            return
        if record.levelno < logging.WARNING:
            self._said.sent = True  # `Sent … notification`
        elif record.levelno <= logging.ERROR:  # above are its deprecations
            match = _status(record.getMessage())
            self._said.statuses.append(int(match[1]) if match else 0)

    @property
    def complained(self) -> bool:
        return bool(self._said.statuses)

    @property
    def status(self) -> int:
        """The service's answer, where it gave one, and no part of the notification has gone out; else 0."""
        statuses = self._said.statuses
        return statuses[0] if len(statuses) == 1 and not self._said.sent else 0


_log = _Log()


def library() -> Any:
    """Apprise, whose log goes nowhere else from now on. The first call takes seconds. Raises ImportError."""
    module = import_module("apprise")
    logger = logging.getLogger("apprise")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if _log not in logger.handlers:
        logger.addHandler(_log)
    return module


class AppriseCarrier:
    """Threads of a channel. Made on the loop."""

    def __init__(self, settings: Settings) -> None:
        self._apprise = library()
        self._settings = settings
        self._busy = 0
        # nothing on disk; where a service redirects to was not configured
        self._asset: Any = self._apprise.AppriseAsset(
            app_id="bot-gateway",
            storage_mode="memory",
            http_redirects=False,
            pgp_autogen=False,
            pem_autogen=False,
        )

    async def close(self) -> None:
        """Nothing is held: a thread that is stuck ends with the process."""

    async def exchange(self, notify: Notify, address: str = "") -> Answer:
        """Send the notification, within the channel's timeout; the answer is as `Apprise.outcome` reads it. Raises
        NoAnswer, nothing else, unless the task is cancelled.
        """
        if self._busy >= self._settings.concurrency:
            raise NoAnswer(sent=False) from OSError("every thread is stuck")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def settle(found: Answer | None, error: Exception | None) -> None:
            self._busy -= 1
            if answer.done():
                return
            if found is not None:
                answer.set_result(found)
            else:
                answer.set_exception(error or RuntimeError())

        def work() -> None:
            found: Answer | None = None
            failure: Exception | None = None
            try:
                found = self._send(notify)
            except Exception as error:  # noqa: BLE001 - a bug in the library is the attempt's outcome
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile: nobody waits
                loop.call_soon_threadsafe(settle, found, failure)

        self._busy += 1
        threading.Thread(target=work, name="apprise", daemon=True).start()
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await answer
        except Exception as error:
            raise NoAnswer(sent=True) from error

    def _send(self, notify: Notify) -> Answer:
        """In a thread."""
        _log.begin()
        service = self._apprise.Apprise.instantiate(notify.service, asset=self._asset)
        # an address that it does not like it drops with a warning, and some services then write to the sender instead
        if service is None or _log.complained:
            return Answer(404, {}, b"")
        connect = self._settings.timeout * CONNECT_SHARE
        service.socket_connect_timeout = connect
        service.socket_read_timeout = self._settings.timeout - connect
        taken = service.notify(
            body=notify.text,
            title=notify.title,
            notify_type=self._apprise.NotifyType(notify.type),
            body_format="text",
        )
        return Answer(200 if taken else _log.status, {}, b"")
