"""What may go wrong in a run, and how often. Chances are per event of their kind; times are in ms of virtual time."""

from msgspec import Struct
from msgspec.structs import replace


class Profile(Struct, frozen=True, kw_only=True):
    name: str
    length: int = 30_000  # how long publishers publish and things go wrong
    clients: int = 3
    keys: int = 1  # publishers with an API key
    pause: tuple[int, int] = (200, 2500)  # between what one publisher does
    delay: tuple[int, int] = (1, 40)  # of the network, one way
    commit: tuple[int, int] = (1, 12)  # how long a commit takes
    # publishes
    chained: float = 0.0  # names a fallback chain
    timed: float = 0.0  # has a short ttl, a deadline of its own, or deliver_at
    keyed: float = 0.5
    collapse: float = 0.0
    cancel: float = 0.0  # is cancelled soon after
    burst: int = 4  # messages at once, at most
    # clients
    nack: float = 0.0
    reject: float = 0.0
    lazy: float = 0.0  # does nothing with this delivery
    slow: float = 0.0  # processes it after a while
    no_ack: float = 0.0  # processes it and keeps silent this time
    act: tuple[int, int] = (0, 0)  # between what a client does of its own accord; 0: nothing
    # chances of what it does then, the rest is nothing
    bye: float = 0.1
    cut: float = 0.3
    duel: float = 0.1
    forget: float = 0.03
    stale: float = 0.08
    stall: float = 0.1
    rude: float = 0.02
    unsub: float = 0.0  # as a device
    away: float = 0.25  # stays away long enough for its offline deadline
    devices: float = 1.0  # of the clients have a plain MQTT device too,
    plain: float = 0.0  # and connect with it so often
    # the gateway
    crash: tuple[int, int] = (0, 0)  # between crashes; 0: none
    graceful: float = 0.2  # of them are a drain and a restart
    fail: float = 0.0  # a commit fails
    clock: float = 0.0  # a client's act comes with a step of the wall clock
    # channels
    outcomes: tuple[int, int, int, int, int] = (6, 3, 1, 1, 1)  # delivered retry refused ambiguous silent
    reports: bool = (
        False  # what arrives is accepted, and reported: early, late, twice, in any order, or never
    )
    # numbers of the configuration
    offline: float = 5.0
    expiry: float = 3600.0
    ack_wait: float = 2.0
    deliver_max: int = 5
    crash_max: int = 20
    window: int = 16
    heads: int = 256
    queue: int = 100_000
    late: float = 0.0  # of the clients say `late: deliver`
    routed: bool = False  # messages that name no chain have the route's


CALM = Profile(
    name="calm", timed=0.1, collapse=0.0, slow=0.2, ack_wait=30.0, length=25_000, devices=0.35, plain=1.0
)

LINKS = Profile(
    name="links", chained=0.3, timed=0.2, collapse=0.1, cancel=0.05, nack=0.06, reject=0.02, lazy=0.05, slow=0.1,
    no_ack=0.1, act=(300, 5000), late=0.2, expiry=40.0, window=8, heads=6,
)  # fmt: skip

CRASHES = Profile(
    name="crashes", chained=0.3, timed=0.15, nack=0.05, lazy=0.05, no_ack=0.1, act=(1000, 9000), cut=0.2, forget=0.0,
    crash=(1500, 9000), window=6, commit=(2, 60),
)  # fmt: skip

STORE = Profile(
    name="store", chained=0.25, timed=0.15, nack=0.05, reject=0.02, no_ack=0.1, act=(1000, 9000), fail=0.03,
    commit=(2, 60), window=8, heads=8,
)  # fmt: skip

# clients that hardly ever take anything: deliver_max, poison, chains that give back
STUBBORN = Profile(
    name="stubborn", chained=0.6, timed=0.1, nack=0.3, reject=0.02, lazy=0.3, no_ack=0.1, act=(300, 4000), cut=0.5,
    away=0.1, deliver_max=3, crash_max=3, window=4, heads=4, ack_wait=1.0, late=0.2, outcomes=(2, 6, 3, 1, 1),
    crash=(8000, 30_000),
)  # fmt: skip

EVERYTHING = Profile(
    name="everything", chained=0.4, timed=0.3, collapse=0.1, cancel=0.05, nack=0.1, reject=0.02, lazy=0.08, slow=0.1,
    no_ack=0.15, act=(200, 5000), crash=(3000, 15_000), fail=0.015, clock=0.05, expiry=40.0, deliver_max=4,
    crash_max=4, window=6, heads=5, queue=40, late=0.25, routed=True, commit=(1, 40), burst=6,
)  # fmt: skip

# clients that come by WebSocket and as plain MQTT devices in turn
DEVICES = Profile(
    name="devices", chained=0.3, timed=0.2, collapse=0.05, cancel=0.05, nack=0.05, reject=0.03, lazy=0.06, slow=0.1,
    no_ack=0.1, act=(300, 4000), late=0.2, expiry=40.0, window=6, heads=6, commit=(1, 40), burst=6, plain=0.65,
    unsub=0.2,
)  # fmt: skip

MIXED = replace(EVERYTHING, name="mixed", devices=0.7, plain=0.6, unsub=0.15)

RECEIPTS = Profile(
    name="receipts", chained=0.7, timed=0.1, nack=0.05, no_ack=0.15, act=(300, 5000), cut=0.5, away=0.4, fail=0.01,
    crash=(4000, 15_000), commit=(1, 40), window=8, heads=8, late=0.2, offline=2.0, reports=True,
    outcomes=(6, 2, 1, 2, 1),
)  # fmt: skip

PROFILES = {p.name: p for p in (RECEIPTS, CALM, LINKS, CRASHES, STORE, STUBBORN, EVERYTHING, DEVICES, MIXED)}
