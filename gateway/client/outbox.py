"""Publishes on their way: each is kept until the gateway has answered it. Pure.

Every publish carries a `key`, so that one whose answer was lost with the connection is sent again without a second
message coming of it. After a reconnect all that is unanswered leaves again in the order in which it was published,
before anything newer. What the gateway could not take now (429, 503 with a time; `commit_unknown`) is tried again with
the same key, a bounded number of times; such a one may be overtaken by what was published after it.

Over MQTT a frame may be lost while the connection stands, either way. What is unanswered is then repeated after
REPEAT_AFTER seconds, and again after twice that, up to REPEAT_CAP.
"""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from random import Random

from msgspec import Raw, Struct

from gateway.client.comeback import jitter, later
from gateway.client.errors import ClientError, PublishRefused, PublishUnknown
from gateway.client.frames import Err, OkEntry, Pub

TOO_LARGE = "too_large"
# far below what a gateway takes in one frame, and enough that a frame costs next to nothing a message
MESSAGES_PER_FRAME = 100
# seconds without an answer, over a transport that may lose frames
REPEAT_AFTER = 5.0
REPEAT_CAP = 40.0


class Receipt(Struct, frozen=True):
    """The message is on the gateway's disk.

    `dup`: it already was, under this key; that may have been an earlier try of this same publish.
    """

    id: str
    dup: bool


Answer = Callable[[Receipt | ClientError], None]


class Publication:
    """One publish. `raw`: the encoded message; `again`: when it is sent again unless it is answered before."""

    __slots__ = ("again", "answer", "body_size", "key", "raw", "ref", "repeats", "sent", "tries", "waits")

    def __init__(self, ref: str, key: str, raw: bytes, body_size: int, answer: Answer) -> None:
        self.ref = ref
        self.key = key
        self.raw = raw
        self.body_size = body_size
        self.answer = answer
        self.again = inf
        self.repeats = 0
        self.tries = 0
        self.sent = False
        self.waits = False


class Outbox:
    __slots__ = ("_all", "_later", "_ready", "_retries", "_rng", "lossy", "max_payload")

    def __init__(self, retries: int, rng: Random) -> None:
        self.max_payload = 0  # of the last welcome, bytes a message
        self.lossy = False  # frames may be lost: what is unanswered is repeated
        self._retries = retries
        self._rng = rng
        self._all: dict[str, Publication] = {}  # unanswered, in the order of publishing
        self._ready: deque[Publication] = deque()
        self._later: list[tuple[float, int, Publication]] = []

    def add(self, publication: Publication) -> None:
        self._all[publication.ref] = publication
        self._ready.append(publication)

    def abandon(self, publication: Publication) -> bool:
        """Drop it if it never left, and say so: then there is no answer. What has left takes its course."""
        if publication.sent or publication.ref not in self._all:
            return False
        del self._all[publication.ref]
        self._ready.remove(publication)
        return True

    def reconnected(self, max_payload: int) -> None:
        """Everything unanswered is to be sent again, oldest first."""
        self.max_payload = max_payload
        self._ready = deque(p for p in self._all.values() if not p.waits)
        for publication in self._ready:
            publication.again, publication.repeats = inf, 0

    # -- what leaves -----------------------------------------------------------------------------------------------

    def due(self) -> float | None:
        """When a publish that was refused, or not answered, is to be sent again."""
        times = [self._later[0][0]] if self._later else []
        if self.lossy:
            # the oldest one's: the others are looked at when it is due
            times += [next((p.again for p in self._all.values() if p.again < inf), inf)]
        due = min(times, default=inf)
        return due if due < inf else None

    def _look(self, now: float) -> None:
        """What is to be sent again is ready: what was not answered before everything new, what was refused after it."""
        if self.lossy and (self.due() or inf) <= now:
            again = [p for p in self._all.values() if p.again <= now]
            for publication in again:
                publication.again = inf
                publication.repeats += 1
            self._ready.extendleft(reversed(again))
        while self._later and self._later[0][0] <= now:
            waited = heappop(self._later)[2]
            waited.waits = False
            if waited.ref in self._all:
                self._ready.append(waited)

    def take(self, now: float) -> list[Pub]:
        """The frames to send now: at most MESSAGES_PER_FRAME in each, together at most `max_payload` bytes, or one."""
        self._look(now)
        frames: list[Pub] = []
        batch: list[Raw] = []
        size = 0
        while self._ready:
            publication = self._ready.popleft()
            if publication.ref not in self._all:
                continue
            if publication.body_size > self.max_payload:
                self._refuse_size(publication)
                continue
            full = size + len(publication.raw) > self.max_payload or len(batch) == MESSAGES_PER_FRAME
            if batch and full:
                frames.append(Pub(batch))
                batch, size = [], 0
            publication.sent = True
            if self.lossy:
                wait = min(REPEAT_CAP, REPEAT_AFTER * 2.0 ** min(publication.repeats, 8))
                publication.again = now + wait * self._rng.uniform(1.0, 1.25)
            batch.append(Raw(publication.raw))
            size += len(publication.raw)
        if batch:
            frames.append(Pub(batch))
        return frames

    # -- what comes ------------------------------------------------------------------------------------------------

    def accepted(self, entry: OkEntry) -> None:
        publication = self._all.pop(str(entry.ref), None)
        if publication is not None:
            publication.answer(Receipt(entry.id, entry.dup))

    def refused(self, err: Err, now: float) -> None:
        publication = self._all.get(str(err.ref))
        if publication is None or publication.waits:
            return  # answered already, or for now: this is about a repetition
        passing = err.code == "commit_unknown" or (err.status in {429, 503} and err.retry_after is not None)
        if passing and publication.tries < self._retries:
            wait = later(err.retry_after) + jitter(self._rng, publication.tries)
            publication.tries += 1
            publication.waits = True
            publication.again = inf
            heappush(self._later, (now + wait, int(publication.ref), publication))
            return
        del self._all[publication.ref]
        publication.answer(PublishRefused(err.code, err.status, err.detail, err.retry_after, err.field))

    def oversize(self) -> None:
        """The connection was closed over a frame that was too big: the largest message in flight is not sent again."""
        flying = [p for p in self._all.values() if p.sent]
        if flying:
            self._refuse_size(max(flying, key=lambda p: len(p.raw)))

    def _refuse_size(self, publication: Publication) -> None:
        del self._all[publication.ref]
        publication.answer(
            PublishRefused(
                TOO_LARGE,
                413,
                f"{publication.body_size} bytes of body; the gateway takes {self.max_payload} a message",
                field="$.body",
            )
        )

    def end(self, error: ClientError) -> None:
        """The client has ended: nothing will be answered any more."""
        unanswered = list(self._all.values())
        self._all.clear()
        for publication in unanswered:
            publication.answer(PublishUnknown(publication.key) if publication.sent else error)
