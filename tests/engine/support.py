"""What the engine's tests make their values of. All times are literal milliseconds."""

from gateway.engine.session import Session
from gateway.engine.states import Input, Rules
from gateway.model import Extra, Hold, Item, Kind, SessionRow

T0 = 1_000_000
FAR = 1_000_000_000
OFFLINE = 30_000
PRESENTED = b"p" * 32
ISSUED = b"i" * 32


def item(
    id: int,
    *,
    seq: int = 0,
    lane: int = 2,
    body: bytes | None = b'"x"',
    expire: int = FAR,
    kind: Kind = Kind.MESSAGE,
    hold: Hold = Hold.WAITING,
    x: Extra | None = None,
) -> Item:
    made = Item(id, "alice", "bob", lane, T0, expire, body, x, kind=int(kind))
    made.hold = int(Hold.BOUND if seq else hold)
    made.seq = seq
    made.eno = 1 if seq else 0
    return made


def row(*, following: int = 1, epoch: str = "e1") -> SessionRow:
    return SessionRow("alice", epoch, 1, following, PRESENTED, ISSUED)


def live(rules: Rules | None = None, *, limit: int = 4, now: int = T0, half: float = 0.5) -> Session:
    """A session that has just been welcomed in epoch e1, with nothing bound."""
    session = Session("alice", rules or Rules(), row())
    session.feed(Input.HELLO)
    session.welcomed(now, limit, half)
    return session


def bind(session: Session, *ids: int, now: int = T0, kind: Kind = Kind.MESSAGE) -> list[Item]:
    """Bind messages as the store would, each to the next seq."""
    made = []
    for id in ids:
        bound = item(id, seq=session.next, kind=kind)
        session.binding += 1
        session.bound(bound, now)
        made.append(bound)
    return made


def seqs(items: list[Item]) -> list[int]:
    return [i.seq for i in items]


def ids(items: list[Item]) -> list[int]:
    return [i.id for i in items]
