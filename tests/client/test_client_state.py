"""The state file, and where tokens come from."""

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from gateway.client.errors import StateFailed
from gateway.client.inbox import Refusal
from gateway.client.state import Snapshot, StateFile
from gateway.client.tokens import TokenFailed, Tokens, expiry


def snapshot(ack: int = 3) -> Snapshot:
    return Snapshot("alice", "e1", "secret", ack, [5, 7], [Refusal(6, 1.5, "why"), Refusal(8)], ["A", "B"])


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "alice.state"
    assert StateFile(path).load() is None
    StateFile(str(path)).save(snapshot(), 1)
    assert StateFile(path).load() == snapshot()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["alice.state"]


def test_an_older_snapshot_never_replaces_a_newer_one(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "s")
    file.save(snapshot(9), 2)
    file.save(snapshot(8), 1)
    loaded = file.load()
    assert loaded is not None
    assert loaded.ack == 9


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StateFile(tmp_path / "s")
    file.save(snapshot(1), 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StateFailed, match="No space left"):
        file.save(snapshot(2), 2)
    loaded = file.load()
    assert loaded is not None
    assert loaded.ack == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no state file"),
        (b"{}", "no state file"),
        (b"\xff", "no state file"),
        (b'{"client":"a","epoch":"e","resume":"r","ack":"1"}', "no state file"),
        (b'{"client":"a","epoch":"e","resume":"r","ack":1,"v":2}', "version 2"),
    ],
)
def test_what_is_no_state_file_is_told(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "s"
    path.write_bytes(content)
    with pytest.raises(StateFailed, match=complaint) as caught:
        StateFile(path).load()
    assert str(path) in str(caught.value)


def test_a_folder_is_no_state_file(tmp_path: Path) -> None:
    with pytest.raises(StateFailed, match="cannot read"):
        StateFile(tmp_path).load()


def jwt(payload: Any) -> str:
    encoded = base64.urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b"=").decode()
    return f"e30.{encoded}.sig"


@pytest.mark.parametrize(
    ("token", "exp"),
    [
        (jwt({"exp": 1700000000, "sub": "alice"}), 1700000000),
        (jwt({"exp": 17.5}), 17.5),
        (jwt({"sub": "x"}), None),
        (jwt({"exp": "soon"}), None),
        (jwt([]), None),
        ("opaque", None),
        ("a.%%%.c", None),
        ("a.é.c", None),
        ("", None),
    ],
)
def test_expiry_of_a_token(token: str, exp: float | None) -> None:
    assert expiry(token) == exp


def test_renewal_is_due_when_a_tenth_is_left_at_most_a_minute() -> None:
    async def unused() -> str:
        raise AssertionError

    tokens = Tokens(unused)
    assert tokens.renew_at(1000) is None
    tokens._last = jwt({"exp": 1100})
    assert tokens.renew_at(1000) == 1090
    assert tokens.renew_at(1100) is None
    tokens._last = jwt({"exp": 1_000_000})
    assert tokens.renew_at(1000) == 1_000_000 - 60
    assert Tokens(jwt({"exp": 1100})).renew_at(1000) is None


async def test_a_callable_is_asked_once_until_its_token_has_expired() -> None:
    given = [jwt({"exp": 2000}), jwt({"exp": 3000}), "last"]
    calls = iter(given)

    async def call() -> str:
        return next(calls)

    tokens = Tokens(call)
    assert tokens.renewable
    assert [await tokens.get(1000), await tokens.get(1999), await tokens.get(2000)] == [
        given[0],
        given[0],
        given[1],
    ]
    assert await tokens.renew() == "last"
    assert await tokens.get(9999) == "last"


async def test_a_string_stays_what_it_is() -> None:
    tokens = Tokens(jwt({"exp": 5}))
    assert not tokens.renewable
    assert await tokens.get(10) == jwt({"exp": 5})


async def test_a_callable_that_fails_keeps_the_token_it_had() -> None:
    answers: list[Any] = ["first", ValueError("secret"), None, ""]

    async def call() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    tokens = Tokens(call)
    assert await tokens.get(0) == "first"
    for _ in range(3):
        with pytest.raises(TokenFailed) as caught:
            await tokens.renew()
        assert "secret" not in str(caught.value)
    assert await tokens.get(0) == "first"
