"""A hello on its way: said once, or over MQTT again and again, until it is answered or given up. Pure."""

from random import Random

from gateway.client.frames import Hello

WELCOME_TIMEOUT = 10.0
# seconds after which a hello is repeated over MQTT; doubles
AGAIN = 2.0


class Greeting:
    """`hello` is due at once, and again where `rng` is given. `said` counts."""

    __slots__ = ("_hello", "_next", "_rng", "_until", "said")

    def __init__(self, hello: Hello, now: float, rng: Random | None) -> None:
        self._hello = hello
        self._rng = rng
        self._next: float | None = now
        self._until = now + WELCOME_TIMEOUT
        self.said = 0

    @property
    def due(self) -> float:
        return self._until if self._next is None else min(self._next, self._until)

    def given_up(self, now: float) -> bool:
        return now >= self._until

    def take(self, now: float) -> list[Hello]:
        """The hello, if it is to be said now."""
        if self._next is None or now < self._next:
            return []
        again = AGAIN * 2.0**self.said
        self._next = None if self._rng is None else now + again * self._rng.uniform(0.75, 1.25)
        self.said += 1
        return [self._hello]
