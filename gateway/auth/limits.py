"""Token buckets: so much at once, so much in the long run, for each of a bounded number of keys.

A bucket is one integer: the moment at which it will be full again, counted in millionths of a token on an axis where
a millisecond is worth what the rate refills in it (the "theoretical arrival time" of GCRA, ITU-T I.371). The debt of
a bucket is its distance from now. There is no rounding after the start, no timer, and a key that was never seen, or
that was idle long enough, is a full bucket.
"""

import ipaddress
from heapq import heappop, heappush, heapreplace
from typing import Final

TOKEN: Final = 1_000_000


class RateLimiter:
    """`rate` tokens a second (resolution 0.001), `burst` at once, for up to `max_keys` keys. Raises ValueError.

    At `max_keys` the bucket nearest to full makes room. A full one says nothing, so dropping it changes nothing; when
    every bucket is busy, what is forgiven is the smallest debt there is, so nobody who is far over the limit can wash
    it off with fresh keys.
    """

    __slots__ = ("_burst", "_full_at", "_gain", "_heap", "_max_keys")

    def __init__(self, rate: float, burst: int, max_keys: int = 16_384) -> None:
        self._gain = round(rate * TOKEN / 1000)
        if self._gain < 1:
            raise ValueError("rate must be at least 0.001 a second")
        if burst < 1 or max_keys < 1:
            raise ValueError("burst and max_keys must be at least 1")
        self._burst = burst
        self._max_keys = max_keys
        self._full_at: dict[str, int] = {}
        # one entry a key, at or below its `_full_at`: put right when it comes to the top
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, n: int, now_ms: int) -> int:
        """Take `n` tokens. 0, or the ms after which the same call succeeds if nothing else is taken meanwhile.

        More than `burst` at once are taken from a full bucket, which then owes them: no batch is refused for ever, and
        the long run keeps to the rate.
        """
        wait = self.wait(key, n, now_ms)
        if wait:
            return wait
        now = now_ms * self._gain
        known = self._full_at.get(key)
        full_at = (now if known is None or known < now else known) + n * TOKEN
        if known is None:
            if len(self._full_at) >= self._max_keys:
                self._evict()
            heappush(self._heap, (full_at, key))
        self._full_at[key] = full_at
        return 0

    def wait(self, key: str, n: int, now_ms: int) -> int:
        """What `take` would say, without taking any."""
        now = now_ms * self._gain
        known = self._full_at.get(key)
        debt = 0 if known is None or known < now else known - now
        over = debt - (self._burst - min(n, self._burst)) * TOKEN
        return -(-over // self._gain) if over > 0 else 0

    def _evict(self) -> None:
        """Drop the bucket nearest to full. Each call of `take` makes one entry stale at most: amortised O(log keys)."""
        while True:
            noted, key = self._heap[0]
            full_at = self._full_at[key]
            if full_at == noted:
                heappop(self._heap)
                del self._full_at[key]
                return
            heapreplace(self._heap, (full_at, key))


def peer_key(host: str) -> str:
    """The key of a peer address: an IPv4 address, or the /64 of an IPv6 one, which is what one customer is given.

    IPv4 within IPv6 counts as IPv4. What is no address (a Unix socket) shares one key.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "local"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"
        address = address.ipv4_mapped
    return str(address)
