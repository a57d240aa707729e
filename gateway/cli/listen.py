"""`listen`: a client on the command line. A message is acked once it is printed."""

import argparse
import asyncio
import sys
from contextlib import suppress
from typing import Any

from gateway.cli.api import run
from gateway.cli.exits import Exit, Failure
from gateway.cli.output import Output, clean, clock, shown
from gateway.cli.where import Where
from gateway.client import (
    Client,
    ClientError,
    ConnectTimeout,
    Gap,
    HandshakeRefused,
    Message,
    StateFailed,
    Stopped,
)

CONNECT_TIMEOUT = 10.0
# of a token that is minted here; it is renewed before its end
TOKEN_TTL = 3600.0


def listen(options: argparse.Namespace) -> int:
    """Until --once messages have come, --timeout has passed, or the gateway says stop."""
    return run(_Listener(options).run())


class _Listener:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._out = Output(json=options.json)
        self._where = Where(options)
        self._task: asyncio.Task[Any] | None = None
        self._client: Client
        self._broken = False

    async def run(self) -> int:
        """Returns when --once messages are printed and acked."""
        options = self._options
        self._task = asyncio.current_task()
        timer = asyncio.timeout(options.timeout)
        try:
            self._client = self._make_client()
            async with timer, self._client as client:
                await self._messages(client)
        except TimeoutError:
            if not timer.expired():
                raise
            raise Failure(Exit.TIMED_OUT, f"{options.timeout:g} s are over", field="--timeout") from None
        except asyncio.CancelledError:
            if self._broken:
                raise BrokenPipeError from None
            raise
        except ClientError as error:
            raise _failure(error) from None
        return Exit.OK

    def _make_client(self) -> Client:
        url, tls = self._where.websocket()
        named = self._where.token()
        if not named:
            # what is wrong with the secret is said now, not by the first connection
            self._mint()
        try:
            return Client(
                url,
                named or self._fresh,
                state=self._options.state,
                on_gap=self._on_gap,
                on_welcome=self._on_welcome,
                on_close=self._on_close,
                connect_timeout=CONNECT_TIMEOUT,
                ssl=tls,
            )
        except ValueError as error:
            raise Failure(Exit.USAGE, str(error), field="--url") from None

    def _mint(self) -> str:
        return self._where.mint(self._options.client, TOKEN_TTL)

    async def _fresh(self) -> str:
        return self._mint()

    async def _messages(self, client: Client) -> None:
        left: int | None = self._options.once
        async for message in client.messages():
            self._print(message)
            if self._options.ack:
                await message.ack()
            if left is not None:
                left -= 1
                if not left:
                    return

    def _print(self, message: Message) -> None:
        if self._out.json:
            self._out.line(entry(message))
        else:
            sys.stdout.write(line(message) + "\n")
            sys.stdout.flush()

    # -- what is no message ----------------------------------------------------------------------------------------

    def _on_gap(self, gap: Gap) -> None:
        if self._out.json:
            told = {"t": "gap", "seq": gap.seq, "id": gap.id, "why": gap.why, "via": gap.via}
            self._line({name: value for name, value in told.items() if value is not None})
        else:
            via = f" via {gap.via}" if gap.via else ""
            self._note(f"gap at seq {gap.seq}: {gap.id} {gap.why}{via}")

    def _on_welcome(self, why: str) -> None:
        info = self._client.info
        if info.missed and self._out.json:
            self._line({"t": "welcome", "resumed": info.resumed, "why": why, "missed": info.missed})
        began = "session resumed" if info.resumed else f"session begun: {why}"
        missed = ", ".join(f"{count} {what}" for what, count in info.missed.items())
        self._note(f"listening as {info.client}, {began}{f', missed while away: {missed}' if missed else ''}")

    def _on_close(self, code: int, reason: str) -> None:
        if reason != "closed":
            self._note(f"connection ended: {code}{f' {reason}' if reason else ''}")

    def _note(self, text: str) -> None:
        with suppress(OSError):
            self._out.note(text)

    def _line(self, value: dict[str, Any]) -> None:
        """Out of a callback, whose errors go nowhere."""
        try:
            self._out.line(value)
        except BrokenPipeError:
            self._broken = True
            assert self._task is not None
            self._task.cancel()


def entry(message: Message) -> dict[str, Any]:
    """A message as in its frame (PROTOCOL 3), with `t`."""
    told = {
        "t": "msg",
        "seq": message.seq,
        "id": message.id,
        "from": message.sender,
        "at": message.at,
        "body": message.body,
        "type": message.type,
        "priority": message.priority,
        "redelivered": message.redelivered or None,
        "trace": message.trace,
        "meta": message.meta,
        "via": message.via,
        "possible_dup": message.possible_dup,
    }
    return {name: value for name, value in told.items() if value is not None or name == "body"}


def line(message: Message) -> str:
    """A message on one line: when it was accepted, its id, from whom, what is unusual, the body."""
    unusual = [message.priority] if message.priority != "normal" else []
    if message.type is not None:
        unusual.append(f"type {message.type}")
    if message.redelivered:
        unusual.append(f"redelivered {message.redelivered}")
    if message.via is not None:
        unusual.append(f"late, via {message.via}")
    parts = [clock(message.at), message.id, message.sender, *([f"[{', '.join(unusual)}]"] if unusual else [])]
    return f"{clean('  '.join(parts))}  {shown(message.body)}"


def _failure(error: ClientError) -> Failure:
    """Why the client has ended, with the exit code that tells it."""
    if isinstance(error, ConnectTimeout | HandshakeRefused):
        return Failure(Exit.UNREACHABLE, str(error))
    if isinstance(error, StateFailed):
        return Failure(Exit.USAGE, str(error), field="--state")
    if isinstance(error, Stopped):
        return Failure(Exit.FAILED, f"the gateway says stop: {error}")
    return Failure(Exit.FAILED, str(error))
