"""`POST /v1/messages` as a stream of lines (application/x-ndjson), answered line by line.

Each line is published as it is read, and answered when its commit is done: the answers come in the order of completion
and carry the number of their line, counted from 1 with the empty ones, which are skipped and unanswered. A bad line is
answered and stops nothing. The response begins at once, with 200: what is durable is said by each answer.

    reader   takes lines from the request, as long as fewer than IN_FLIGHT of them wait for their commit
    writer   writes the answers, as many as there are; the transport holds it up while the sender does not read

Unread are the answers that the writer could not hand on. While there are many, the reader takes BATCH lines at a time
and pauses before the next, until the writer gets on or PAUSE seconds have passed; so a sender that sends all before it
reads comes through if it can. At `limits.ndjson_unread` the stream ends. Whatever ends a stream early, its last answer
says why and which line was the last one taken, and what the sender still sends is read and dropped for a while, so that
it can come to reading.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec
from aiohttp import StreamReader, web

from gateway.api import problems
from gateway.api.base import NDJSON, Api, Call, check_still, proceed
from gateway.auth import Principal
from gateway.commit import BareMessage
from gateway.errors import GatewayError, Limited, Unavailable
from gateway.ids import id_text
from gateway.model import Item, Publish
from gateway.wire import Bare

IN_FLIGHT = 1024
BATCH = 256
PAUSE = 0.25
# a sender that sends nothing, not even an empty line, for so many seconds is gone
IDLE_TIMEOUT = 300.0
# how long IN_FLIGHT lines may wait for a commit, in seconds
COMMIT_TIMEOUT = 60.0
# how long the answers of a stream that was ended early may take to get away, in seconds
FLUSH_TIMEOUT = 10.0

_decoder = msgspec.json.Decoder(Publish)
_bare_decoder = msgspec.json.Decoder(Bare)

# a line, without its end; None: over the limit
Line = bytes | None


class Splitter:
    """Lines out of chunks. A line over `limit` bytes is dropped as it comes, and told as None."""

    __slots__ = ("_limit", "_over", "_rest")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""
        self._over = False

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that are whole now; they end in LF or CRLF."""
        lines: list[Line] = []
        first, *others = chunk.split(b"\n")
        if not others:
            self._keep(first)
            return lines
        self._keep(first)
        lines.append(self._take())
        lines += [self._fit(line.removesuffix(b"\r")) for line in others[:-1]]
        self._keep(others[-1])
        return lines

    def end(self) -> list[Line]:
        """What stands behind the last line end, if anything."""
        return [self._take()] if self._rest or self._over else []

    def _keep(self, part: bytes) -> None:
        # one byte more than the limit for the CR of a line that just fits
        if self._over or len(self._rest) + len(part) > self._limit + 1:
            self._over, self._rest = True, b""
        else:
            self._rest += part

    def _take(self) -> Line:
        rest, over = self._rest, self._over
        self._rest, self._over = b"", False
        return None if over else self._fit(rest.removesuffix(b"\r"))

    def _fit(self, line: bytes) -> Line:
        return line if len(line) <= self._limit else None


class Answers:
    """The answers on their way to the sender, and the sink of its lines."""

    __slots__ = ("_counts", "_ready", "_waiting", "closed", "gone", "in_flight", "progress", "unread")

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._counts = 0  # answers in there
        self._ready = asyncio.Event()
        self.progress = asyncio.Event()
        self.in_flight = 0  # lines whose commit is not done
        self.unread = 0  # answers not handed to the transport
        self.closed = False
        self.gone = False  # the connection is broken

    def stored(self, ref: int, id: int, dup: bool, status: int) -> None:
        """Never within the call of `publish`."""
        self.in_flight -= 1
        tail = b',"dup":true}\n' if dup else b"}\n"
        self._put(b'{"line":%d,"id":"%b"' % (ref, id_text(id)) + tail)

    def stored_run(self, refs: list[int], items: list[Item]) -> None:
        """The same for many."""
        self.in_flight -= len(refs)
        answers = [
            b'{"line":%d,"id":"%b"}\n' % (ref, id_text(item.id))
            for ref, item in zip(refs, items, strict=True)
        ]
        self._put(b"".join(answers), len(refs))

    def refused(self, ref: int, error: GatewayError) -> None:
        self.in_flight -= 1
        self.bad(ref, error)

    def bad(self, line: int, error: GatewayError) -> None:
        """The answer to a line that was never published."""
        self._put(_line(error, b"line", line))

    def last(self, error: GatewayError, line: int) -> None:
        """The answer that ends the stream early."""
        self._put(_line(error, b"last_line", line))

    def close(self) -> None:
        """No line comes any more; `write` returns when all are answered."""
        self.closed = True
        self._ready.set()

    def _put(self, answers: bytes, count: int = 1) -> None:
        if not self.gone:
            self._waiting.append(answers)
            self._counts += count
            self.unread += count
        self._ready.set()
        self.progress.set()

    async def write(self, response: web.StreamResponse) -> None:
        """Write answers as they come, until closed and nothing is left, or the connection is broken."""
        try:
            while not self.gone and (self._waiting or self.in_flight or not self.closed):
                await self._ready.wait()
                self._ready.clear()
                waiting, self._waiting = self._waiting, []
                count, self._counts = self._counts, 0
                if waiting:
                    await response.write(b"".join(waiting))
                    self.unread -= count
                    self.progress.set()
        except ConnectionError:
            self.gone = True
            self._waiting.clear()
            self.progress.set()

    async def settle(self, enough: Callable[[], bool], timeout: float) -> None:
        """Wait until `enough` holds, as long as something moves within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not self.gone and not enough():
                    self.progress.clear()
                    await self.progress.wait()
        except TimeoutError:
            return


def _line(error: GatewayError, name: bytes, number: int) -> bytes:
    return b'{"%b":%d,%b\n' % (name, number, problems.refusal(error)[1:])


class _Stream:
    """The reader of one stream."""

    __slots__ = (
        "_answers",
        "_api",
        "_limit",
        "_principal",
        "_splitter",
        "_step",
        "_stopped",
        "_timer",
        "taken",
    )

    def __init__(self, api: Api, principal: Principal, answers: Answers) -> None:
        limits = api.config.limits
        self._api = api
        self._principal = principal
        self._answers = answers
        self._splitter = Splitter(limits.ndjson_line_bytes)
        self._limit = limits.ndjson_unread
        self._step = min(BATCH, limits.ndjson_unread)
        self._timer: asyncio.Timeout | None = None
        self._stopped = False
        self.taken = 0

    def end(self) -> None:
        """The server stops."""
        self._stopped = True
        if self._timer is not None:
            self._timer.reschedule(0.0)

    async def read(self, content: StreamReader) -> GatewayError | None:
        """Take lines until there are no more: None, or why the stream ended before."""
        try:
            while not self._answers.gone:
                chunk = await self._chunk(content)
                lines = self._splitter.feed(chunk) if chunk else self._splitter.end()
                for at in range(0, len(lines), self._step):
                    await self._take(lines[at : at + self._step])
                if not chunk:
                    break
        except GatewayError as error:
            return error
        except ConnectionError:
            self._answers.gone = True
        except web.RequestPayloadError:
            return problems.malformed("the transfer coding of the body is broken")
        return None

    async def _chunk(self, content: StreamReader) -> bytes:
        """What came, b"" at the end. Raises GatewayError when the stream must end."""
        try:
            if not self._stopped:
                async with asyncio.timeout(IDLE_TIMEOUT) as self._timer:
                    return await content.readany()
        except TimeoutError:
            if not self._stopped:
                raise GatewayError(
                    f"nothing came for {IDLE_TIMEOUT:.0f} s", code="stream_idle", http=408
                ) from None
        finally:
            self._timer = None
        raise Unavailable("the gateway stops", code="draining", retry_after=1.0)

    async def _take(self, lines: list[Line]) -> None:
        """Publish these lines, then wait while too many are unanswered. Raises GatewayError to end the stream."""
        check_still(self._api, self._principal)
        bare: list[tuple[bytes, BareMessage]] = []
        for line in lines:
            self.taken += 1
            if line is not None:
                if not line.strip():
                    continue
                try:
                    message = _bare_decoder.decode(line)
                except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                    # it has more, or is bad
                    pass
                else:
                    bare.append((line, (message.to, bytes(message.body), 0, self.taken)))
                    continue
            self._publish_bare(bare)
            bare = []
            self._publish(line, self.taken)
        self._publish_bare(bare)
        answers = self._answers
        if answers.in_flight >= IN_FLIGHT:
            await answers.settle(lambda: answers.in_flight < IN_FLIGHT, COMMIT_TIMEOUT)
            if answers.in_flight >= IN_FLIGHT:
                raise Unavailable("the store does not answer")
        if answers.unread >= self._step:
            await answers.settle(lambda: answers.unread < self._step, PAUSE)
        if answers.unread >= self._limit:
            raise Limited(f"{self._limit} answers are unread", code="answers_unread")

    def _publish_bare(self, lines: list[tuple[bytes, BareMessage]]) -> None:
        """The short way in (hub/bare.py), and the long way for what that leaves."""
        hub, answers = self._api.hub, self._answers
        messages = [message for _, message in lines]
        at = 0
        while at < len(lines):
            count = hub.publish_bare(self._principal, messages[at:], answers)
            answers.in_flight += count
            at += count
            if at < len(lines):
                line, (_, _, _, number) = lines[at]
                self._publish(line, number)
                at += 1

    def _publish(self, line: Line, number: int) -> None:
        answers = self._answers
        try:
            if line is None:
                limit = self._api.config.limits.ndjson_line_bytes
                raise GatewayError(f"the line is over {limit} bytes", code="line_too_large", http=413)
            pub = problems.decode(_decoder, line)
            self._api.hub.publish(self._principal, pub, answers, number)
        except GatewayError as error:
            answers.bad(number, error)
        else:
            answers.in_flight += 1


async def publish(api: Api, call: Call) -> web.StreamResponse:
    """Read the stream and answer it."""
    request = call.request
    if "Expect" in request.headers:
        await proceed(request)
    response = call.stream(NDJSON)
    await response.prepare(request)
    answers = Answers()
    stream = _Stream(api, call.caller, answers)
    async with asyncio.TaskGroup() as tasks:
        writer = tasks.create_task(answers.write(response))
        with api.streaming(stream.end):
            error = await stream.read(request.content)
            if error is None:
                answers.close()
                await writer
                return response
            response.force_close()
            await answers.settle(lambda: not answers.in_flight, FLUSH_TIMEOUT)
            answers.last(error, stream.taken)
            answers.close()
            # so that the sender comes to reading
            dropping = tasks.create_task(_drop(request.content))
            await asyncio.wait((writer,), timeout=FLUSH_TIMEOUT)
            dropping.cancel()
            if not writer.done() and request.transport is not None:
                request.transport.abort()
            writer.cancel()
    return response


async def _drop(content: StreamReader) -> None:
    with suppress(ConnectionError, web.RequestPayloadError):
        while await content.readany():
            pass
