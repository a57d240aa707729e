"""What the ledger knows of each client's epochs: which it is, what MQTT subscription it holds, how long it is to be
kept. Each Session Present, each `resumed` and each reason for starting over is checked against it.

What cannot be known is not checked: a hello or a device that was never welcomed may have begun an epoch all the same,
and a start of the gateway may have lost what was not committed.
"""

from typing import TYPE_CHECKING, Any

from gateway.model import Sub
from tests.sim.link import End

if TYPE_CHECKING:
    from tests.sim.world import World

# ms in which what has its time is done
SLACK = 1500


class Book:
    """Of one client. Times are of the gateway's clock."""

    def __init__(self) -> None:
        self.name = ""
        self.held: bool | None = False  # the epoch holds a plain subscription; None: who knows
        self.keep = -1  # ms that it outlives its connection; -1: as configured
        self.conn: End | None = None  # who is in it; a device that has unsubscribed too
        self.gone = 0  # when that ended
        self.over = False  # it has ended with its connection
        self.past = False  # its time had passed before a crash; what the clock says after it does not count
        self.told: tuple[int, int] | None = (
            None  # the era in which a device has said something that may be lost
        )
        self.era = (0, 0)  # in which its connection ended
        self.trying: dict[End, None] = {}  # who wanted to join since the last welcome


class Epochs:
    def __init__(self, world: "World") -> None:
        self.world = world
        self._books: dict[str, Book] = {}

    def book(self, client: str) -> Book:
        return self._books.setdefault(client, Book())

    def _kept(self, keep: int) -> int:
        expiry = round(self.world.profile.expiry * 1000)
        return expiry if keep < 0 else min(keep, expiry)

    def _sure(self, book: Book) -> bool:
        """What a device said last has not been lost with a life of the gateway."""
        return book.told is None or book.told == self.world.era

    # -- joining ---------------------------------------------------------------------------------------------------

    def tries(self, conn: End) -> None:
        """A hello, or a device, is about to join."""
        self.book(conn.client).trying[conn] = None

    def connected(self, conn: End, kind: int) -> None:
        """A device has connected; `kind` is the subscription that the hub says its epoch holds."""
        book = self.book(conn.client)
        if book.trying or book.held is None or not self._sure(book):
            return
        now = self.world.clock()
        ends = book.gone + self._kept(book.keep)
        stands = book.conn is not None or now < ends
        gone = book.over or (book.conn is None and book.era == self.world.era and now >= ends)
        if kind == Sub.PLAIN and (gone or not book.held):
            self.world.ledger.fail(f"{conn.client} has a session present that it does not have: {vars(book)}")
        if kind != Sub.PLAIN and book.held and stands and not book.over:
            self.world.ledger.fail(f"{conn.client} has lost its subscription: {vars(book)}")

    def welcomed(self, conn: End, fields: dict[str, Any], *, clean: bool) -> None:
        """The hub has joined it. `clean`: it wanted a new epoch."""
        book, fail = self.book(conn.client), self.world.ledger.fail
        sole = book.trying.keys() == {conn} and self._sure(book)
        resumed, name = fields["resumed"], fields["epoch"]
        if resumed and clean:
            fail(f"{conn.client} resumed, and wanted a clean start")
        if not resumed and name == book.name:
            fail(f"{conn.client}: a new epoch has the old name")
        if sole and resumed:
            self._check_resumed(conn, book, name)
        elif sole:
            self._check_begun(conn, book, fields["why"], clean=clean)
        if not resumed:
            book.held = False
        elif not sole:
            # one that was never welcomed may have subscribed, or begun an epoch, in between
            book.held = None
        book.trying.clear()
        book.told, book.name, book.over, book.keep, book.conn = None, name, False, -1, conn
        book.past = False

    def _check_resumed(self, conn: End, book: Book, name: str) -> None:
        fail = self.world.ledger.fail
        if name != book.name:
            fail(f"{conn.client} resumed epoch {name}, the last was {book.name}")
        if book.over:
            fail(f"{conn.client} resumed an epoch that ended with its connection")
        longest = max(self._kept(book.keep), round(self.world.profile.offline * 1000)) + SLACK
        if book.conn is None and book.era == self.world.era and self.world.clock() > book.gone + longest:
            fail(f"{conn.client} resumed an epoch that was to be kept for {book.keep} ms")

    def _check_begun(self, conn: End, book: Book, why: str, *, clean: bool) -> None:
        fail = self.world.ledger.fail
        early = not (book.over or book.past) and (
            book.conn is not None or self.world.clock() < book.gone + self._kept(book.keep)
        )
        if why == "clean" and not clean:
            fail(f"{conn.client} began an epoch and did not want to")
        if why == "new" and book.name:
            fail(f"{conn.client} has had an epoch and is new")
        if why == "expired" and early:
            fail(
                f"{conn.client} began an epoch, and its last was to be kept for {book.keep} ms: {vars(book)}"
            )

    # -- devices ---------------------------------------------------------------------------------------------------

    def subscribed(self, conn: End, keep: int) -> None:
        """A device is in the session: its epoch is to be kept for so long."""
        book = self.book(conn.client)
        book.held, book.keep = True, keep

    def begun(self, conn: End) -> None:
        """A device has begun an epoch and is not in it."""
        book = self.book(conn.client)
        book.conn, book.gone, book.era = None, self.world.clock(), self.world.era

    def unsubscribed(self, conn: End) -> None:
        book = self.book(conn.client)
        if book.conn is conn:
            book.held, book.told = False, self.world.era

    # -- ends ------------------------------------------------------------------------------------------------------

    def left(self, conn: End, keep: int | None = None) -> None:
        """It is no longer in its session, or never was; `keep`: what a device says then."""
        book = self.book(conn.client)
        if book.conn is not conn:
            return
        if keep is not None:
            book.keep, book.told = keep, self.world.era
        self._leave(book)

    def _leave(self, book: Book) -> None:
        book.conn, book.gone, book.era = None, self.world.clock(), self.world.era
        book.over = book.keep == 0

    def crashed(self) -> None:
        """The gateway's process is gone."""
        for book in self._books.values():
            if book.conn is not None:
                self._leave(book)
            elif self.world.clock() >= book.gone + self._kept(book.keep):
                book.past = True

    def booted(self) -> None:
        """Its clock may have been set back meanwhile; and what is not known to have ended before has ended now."""
        for book in self._books.values():
            if book.conn is None:
                book.gone = min(book.gone, self.world.clock())
