"""`status` and `dead-letters`: what people and programs read of a message."""

from typing import Any

import pytest

from gateway.cli.output import clean, moment, span
from tests.cli.support import ID, OTHER, ApiDouble, Runner, message

LOOK = f"GET /v1/messages/{ID}"
LETTERS = "GET /v1/dead-letters"


def dead(**more: Any) -> dict[str, Any]:
    steps = [
        {"at": 1_700_000_000_000, "event": "queued"},
        {"at": 1_700_000_030_000, "event": "handed_over", "why": "offline", "data": {"channels": ["hook"]}},
        {"at": 1_700_000_030_001, "event": "attempt", "data": {"channel": "hook", "n": 1}},
        {
            "at": 1_700_000_030_100,
            "event": "attempt_ended",
            "data": {
                "channel": "hook",
                "n": 1,
                "outcome": "retry",
                "reason": "HTTP 503",
                "status": 503,
                "next": {"channel": "hook", "at": 1_700_000_030_900},
            },
        },
    ]
    return message(status="dead", via="hook", why="HTTP 400: no", timeline=steps) | more


async def test_a_message_and_each_step(cli: Runner, api: ApiDouble) -> None:
    api.answers[LOOK] = (200, message(type="greeting", redelivered=1, meta={"a": "b"}))
    result = await cli("status", ID)
    assert (result.code, result.err) == (0, "")
    lines = [line.strip(" ├└─│") for line in result.out.splitlines()]
    assert lines[0] == f"{ID}  delivered via ws"
    assert lines[1] == "to alice  from api:backend  normal  type greeting"
    assert lines[2] == 'body {"text":"hello"}'
    assert 'meta {"a":"b"}' in lines
    assert "redelivered 1" in lines
    assert lines[-4] == f"accepted {moment(1_700_000_000_000)}"
    assert lines[-3:] == ["+0.000 s  queued", "+0.001 s  sent", "+0.250 s  delivered  via ws"]


async def test_attempts_and_their_reasons(cli: Runner, api: ApiDouble) -> None:
    chain = {"channels": ["hook"], "channel": "hook", "state": "waiting", "why": "offline", "attempts": 1}
    api.answers[LOOK] = (200, dead(chain=chain | {"next_attempt_at": 1_700_000_030_900}))
    out = (await cli("status", ID)).out
    assert '+30.000 s  handed_over  offline, channels ["hook"]' in out
    assert "+30.001 s  attempt  1 on hook" in out
    assert (
        "+30.100 s  attempt_ended  1 on hook, outcome retry, reason HTTP 503, status 503, next on hook in 0.800 s"
        in out
    )
    assert "channel hook of hook: waiting, next attempt" in out


async def test_json_is_what_the_api_said(cli: Runner, api: ApiDouble) -> None:
    value = message(unknown_to_this_version=[1, 2])
    api.answers[LOOK] = (200, value)
    assert (await cli("status", ID, "--json")).json == [value]


async def test_the_newest_one(cli: Runner, api: ApiDouble) -> None:
    api.answers["GET /v1/messages"] = (200, {"messages": [{"id": ID, "status": "queued"}], "cursor": ID})
    api.answers[LOOK] = (200, message())
    assert (await cli("status", "last")).code == 0
    assert api.asked[0].query == {"limit": "1"}


async def test_there_is_none(cli: Runner, api: ApiDouble) -> None:
    api.answers["GET /v1/messages"] = (200, {"messages": []})
    assert (await cli("status", "last")).code == 3
    api.problem(LOOK, 404, "not_found", "no message has this id")
    result = await cli("status", ID)
    assert (result.code, result.error) == (3, "bot-gateway: no message has this id (not_found)")


async def test_what_comes_from_elsewhere_cannot_act_on_the_terminal(cli: Runner, api: ApiDouble) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\x9b31m [bold]\u202e"
    api.answers[LOOK] = (
        200,
        dead(body={"text": hostile}, why=hostile, type=hostile, meta={hostile: hostile}),
    )
    api.answers[LETTERS] = (200, {"dead_letters": [dead(why=hostile)]})
    for argv in (["status", ID], ["dead-letters", "list"]):
        out = (await cli(*argv)).out
        assert "[bold]" in out
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out)


def test_clean() -> None:
    assert clean("ä☃\U0001f600 plain") == "ä☃\U0001f600 plain"
    assert clean("a\nb\x1b\x9b\u2028\ud800") == "a\\nb\\x1b\\x9b\\u2028\\ud800"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0.000 s"),
        (59_999, "59.999 s"),
        (61_000, "1 min 1 s"),
        (3_660_000, "1 h 1 min"),
        (172_800_000, "2 d 0 h"),
        (-500, "-0.500 s"),
    ],
)
def test_spans(ms: int, text: str) -> None:
    assert span(ms) == text


def test_a_time_beyond_all_dates_is_shown_all_the_same() -> None:
    assert moment(1 << 62).startswith("9999-")


# -- dead letters ------------------------------------------------------------------------------------------------------


async def test_list_as_a_table(cli: Runner, api: ApiDouble) -> None:
    api.answers[LETTERS] = (200, {"dead_letters": [dead(), dead(id=OTHER, why="x" * 100, replayed_as=ID)]})
    result = await cli("dead-letters", "list", "--to", "alice", "--why", "unacked")
    head, first, second = result.out.splitlines()
    assert head.split() == ["id", "to", "from", "ended", "why", "replayed", "as"]
    assert first.split()[0] == ID
    assert "HTTP 400: no" in first
    assert "x" * 59 + "…" in second
    assert second.rstrip().endswith(ID)
    assert api.asked[0].query == {"to": "alice", "why": "unacked", "limit": "50"}


async def test_list_goes_on_to_the_next_page(cli: Runner, api: ApiDouble) -> None:
    def page(asked: Any) -> tuple[int, Any]:
        start = int(asked.query.get("cursor", "0"))
        count = int(asked.query["limit"])
        rows = [dead(id=f"{n:013}") for n in range(start, start + count)]
        return 200, {"dead_letters": rows, "cursor": str(start + count)}

    api.answers[LETTERS] = page
    result = await cli("dead-letters", "list", "--limit", "60", "--json", "--replayed")
    assert [row["id"] for row in result.json] == [f"{n:013}" for n in range(60)]
    assert [asked.query["limit"] for asked in api.asked] == ["50", "11"]
    assert api.asked[0].query["replayed"] == "true"
    shown = await cli("dead-letters", "list", "--limit", "60")
    assert len(shown.out.splitlines()) == 61
    assert shown.err == "there are more: --limit\n"


async def test_an_empty_list(cli: Runner, api: ApiDouble) -> None:
    api.answers[LETTERS] = (200, {"dead_letters": []})
    result = await cli("dead-letters", "list")
    assert (result.code, result.out, result.err) == (0, "", "no dead letters\n")


async def test_show(cli: Runner, api: ApiDouble) -> None:
    api.answers[LOOK] = (200, dead())
    assert "HTTP 503" in (await cli("dead-letters", "show", ID)).out
    api.answers[LOOK] = (200, message())
    result = await cli("dead-letters", "show", ID)
    assert (result.code, result.error) == (3, f"bot-gateway: ID: {ID} is no dead letter but delivered")


async def test_replay_by_id(cli: Runner, api: ApiDouble) -> None:
    api.answers[f"POST /v1/dead-letters/{ID}/replay"] = (202, {"id": OTHER, "replay_of": ID})
    result = await cli("dead-letters", "replay", ID, "--channel", "hook")
    assert (result.code, result.out) == (0, f"{ID} replayed as {OTHER}\n")
    assert api.asked[0].body == {"channel": "hook"}
    api.problem(f"POST /v1/dead-letters/{ID}/replay", 409, "already_replayed", "it was replayed already")
    assert (await cli("dead-letters", "replay", ID)).code == 1


async def test_replay_all_goes_on_until_none_is_left(cli: Runner, api: ApiDouble) -> None:
    ok = {"id": OTHER, "replay_of": ID}
    api.answers["POST /v1/dead-letters/replay"] = [
        (202, {"results": [ok, ok], "more": True}),
        (202, {"results": [ok], "more": False}),
    ]
    result = await cli("dead-letters", "replay", "--all", "--why", "unacked", "--json")
    assert (result.code, result.json) == (0, [ok, ok, ok])
    assert [asked.body for asked in api.asked] == [{"why": "unacked", "limit": 100}] * 2


async def test_replay_all_ends_where_some_cannot_be_replayed(cli: Runner, api: ApiDouble) -> None:
    refused = {"code": "queue_full", "status": 429, "detail": "full", "replay_of": ID}
    api.answers["POST /v1/dead-letters/replay"] = (202, {"results": [refused], "more": True})
    result = await cli("dead-letters", "replay", "--all")
    assert (result.code, result.err) == (1, f"{ID}: full (queue_full)\n")
    assert len(api.asked) == 1


async def test_delete(cli: Runner, api: ApiDouble) -> None:
    api.answers[f"DELETE /v1/dead-letters/{ID}"] = (204, None)
    api.answers["DELETE /v1/dead-letters"] = (200, {"deleted": 7})
    assert (await cli("dead-letters", "delete", ID)).out == "deleted: 1\n"
    assert (await cli("dead-letters", "delete", "--all", "--json")).json == [{"deleted": 7}]
