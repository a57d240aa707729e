"""Names of topics: who may publish and subscribe where, and what a refusal says."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import CLIENT_ID, Sub
from gateway.topics import part_of
from gateway.transports.mqtt.codec import Reason
from gateway.transports.mqtt.topics import Refusal, Topics

TOPICS = Topics("gw/v1")
ALICE = TOPICS.of("alice")
PART = part_of("alice")
OTHER = "00" if PART != "00" else "01"
CLIENTS = st.from_regex(CLIENT_ID, fullmatch=True)

UNKNOWN, FOREIGN = Reason.TOPIC_NAME_INVALID, Reason.NOT_AUTHORIZED


def test_a_part_is_two_digits_below_64() -> None:
    assert f"{crc32(b'alice') % 64:02d}" == PART
    parts = {part_of(f"bot-{n}") for n in range(2000)}
    assert parts == {f"{n:02d}" for n in range(64)}


def test_names() -> None:
    assert TOPICS.inbox("alice") == ALICE.inbox == b"gw/v1/m/alice"
    assert TOPICS.frames_down("alice") == b"gw/v1/d/alice"
    assert TOPICS.frames_up("alice") == f"gw/v1/u/{PART}/alice".encode()
    assert TOPICS.to("bob") == b"gw/v1/to/bob"
    assert TOPICS.own_to("alice", "bob") == f"gw/v1/u/{PART}/alice/to/bob".encode()
    assert Topics("a/b/c").inbox("x") == b"a/b/c/m/x"


@pytest.mark.parametrize(
    ("topic", "found"),
    [
        ("gw/v1/to/bob", "bob"),
        ("gw/v1/to/pool:support", "pool:support"),
        ("gw/v1/to/no client ü", "no client ü"),
        (f"gw/v1/u/{PART}/alice/to/bob", "bob"),
        (f"gw/v1/u/{PART}/alice/to/alice", "alice"),
        (f"gw/v1/u/{PART}/alice", None),
        # no topic of ours
        ("", UNKNOWN),
        ("gw/v1", UNKNOWN),
        ("gw/v1/", UNKNOWN),
        ("gw/v1/to", UNKNOWN),
        ("gw/v1/to/", UNKNOWN),
        ("gw/v1/to/bob/x", UNKNOWN),
        ("gw/v1/to/bob/", UNKNOWN),
        ("gw/v2/to/bob", UNKNOWN),
        ("/gw/v1/to/bob", UNKNOWN),
        ("gw/v1/x/alice", UNKNOWN),
        ("gw/v1/m/alice", UNKNOWN),
        ("gw/v1/d/bob", UNKNOWN),
        ("gw/v1/u", UNKNOWN),
        ("gw/v1/u/", UNKNOWN),
        (f"gw/v1/u/{PART}", UNKNOWN),
        (f"gw/v1/u/{PART}/", UNKNOWN),
        (f"gw/v1/u/{PART}/alice/", UNKNOWN),
        (f"gw/v1/u/{PART}/alice/to", UNKNOWN),
        (f"gw/v1/u/{PART}/alice/to/", UNKNOWN),
        (f"gw/v1/u/{PART}/alice/to/a/b", UNKNOWN),
        (f"gw/v1/u/{PART}/alice/at/bob", UNKNOWN),
        (f"gw/v1/u/{PART}/no client/to/bob", UNKNOWN),
        ("$SYS/broker", UNKNOWN),
        # a wrong part
        (f"gw/v1/u/{OTHER}/alice/to/bob", UNKNOWN),
        (f"gw/v1/u/{OTHER}/alice", UNKNOWN),
        (f"gw/v1/u/{int(PART)}_/alice", UNKNOWN),
        (f"gw/v1/u/0{PART}/alice", UNKNOWN),
        # another client's
        (f"gw/v1/u/{part_of('bob')}/bob/to/eve", FOREIGN),
        (f"gw/v1/u/{part_of('bob')}/bob", FOREIGN),
        (f"gw/v1/u/{part_of('alice2')}/alice2/to/eve", FOREIGN),
    ],
)
def test_where_a_client_publishes(topic: str, found: str | Reason | None) -> None:
    result = ALICE.uplink(topic.encode())
    if isinstance(found, Reason):
        assert isinstance(result, Refusal)
        assert result.code is found
        assert result.why
    else:
        assert result == found
        assert not isinstance(result, Refusal)


@pytest.mark.parametrize(
    ("topic_filter", "found"),
    [
        ("gw/v1/m/alice", Sub.PLAIN),
        ("gw/v1/d/alice", Sub.FRAMED),
        ("gw/v1/m/bob", Reason.NOT_AUTHORIZED),
        ("gw/v1/d/bob", Reason.NOT_AUTHORIZED),
        ("gw/v1/m/alice2", Reason.NOT_AUTHORIZED),
        ("gw/v1/m/alice/", Reason.NOT_AUTHORIZED),
        (f"gw/v1/u/{PART}/alice", Reason.NOT_AUTHORIZED),
        ("weather", Reason.NOT_AUTHORIZED),
        ("$SYS/broker/uptime", Reason.NOT_AUTHORIZED),
        ("gw/v1/m/+", Reason.WILDCARDS_NOT_SUPPORTED),
        ("gw/v1/#", Reason.WILDCARDS_NOT_SUPPORTED),
        ("#", Reason.WILDCARDS_NOT_SUPPORTED),
        ("+", Reason.WILDCARDS_NOT_SUPPORTED),
        ("+/+/m/alice", Reason.WILDCARDS_NOT_SUPPORTED),
        ("/#", Reason.WILDCARDS_NOT_SUPPORTED),
        ("+/#", Reason.WILDCARDS_NOT_SUPPORTED),
        ("", Reason.TOPIC_FILTER_INVALID),
        ("gw/v1/#/m", Reason.TOPIC_FILTER_INVALID),
        ("#/#", Reason.TOPIC_FILTER_INVALID),
        ("gw/v1#", Reason.TOPIC_FILTER_INVALID),
        ("gw/v1/m/a+", Reason.TOPIC_FILTER_INVALID),
        ("gw/++/m", Reason.TOPIC_FILTER_INVALID),
        ("gw/+#", Reason.TOPIC_FILTER_INVALID),
        ("$share/group/gw/v1/m/alice", Reason.SHARED_NOT_SUPPORTED),
        ("$share/group/#", Reason.SHARED_NOT_SUPPORTED),
    ],
)
def test_what_a_client_subscribes_to(topic_filter: str, found: Sub | Reason) -> None:
    result = ALICE.subscription(topic_filter)
    if isinstance(found, Reason):
        assert isinstance(result, Refusal)
        assert result.code is found
        assert result.why
    else:
        assert result is found


@given(client=CLIENTS, address=CLIENTS)
def test_what_is_named_is_read_back(client: str, address: str) -> None:
    own = TOPICS.of(client)
    assert own.uplink(TOPICS.to(address)) == address
    assert own.uplink(TOPICS.own_to(client, address)) == address
    assert own.uplink(TOPICS.frames_up(client)) is None
    assert TOPICS.uplink(TOPICS.own_to(client, address)) == (client, address)
    assert TOPICS.uplink(TOPICS.frames_up(client)) == (client, None)
    assert own.subscription(TOPICS.inbox(client).decode()) is Sub.PLAIN
    assert own.subscription(TOPICS.frames_down(client).decode()) is Sub.FRAMED


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        ("gw/v1/to/bob", UNKNOWN),
        ("gw/v1/m/alice", UNKNOWN),
        (f"gw/v1/u/{OTHER}/alice", UNKNOWN),
        (f"gw/v1/u/{OTHER}/alice/to/bob", UNKNOWN),
        (f"gw/v1/u/{PART}/alice/to/", UNKNOWN),
        (f"gw/v1/u/{PART}/alice/to/a/b", UNKNOWN),
        (f"gw/v1/u/{PART}/-alice", UNKNOWN),
        (f"gw/v1/u/{PART}", UNKNOWN),
    ],
)
def test_what_a_broker_must_not_pass_on_is_refused(topic: str, code: Reason) -> None:
    result = TOPICS.uplink(topic.encode())
    assert isinstance(result, Refusal)
    assert result.code is code


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_raises(text: str) -> None:
    for topic in (text, f"gw/v1/{text}", f"gw/v1/u/{text}", f"gw/v1/u/{PART}/alice/{text}"):
        ALICE.uplink(topic.encode())
        TOPICS.uplink(topic.encode())
        ALICE.subscription(topic)
