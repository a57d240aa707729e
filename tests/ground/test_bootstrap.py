"""The first start: folder and secrets appear once, and stay."""

import os
import stat
from multiprocessing import get_context
from pathlib import Path

import pytest

from gateway.bootstrap import prepare
from gateway.config import ApiKey, Auth, Config
from gateway.errors import ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_folder_and_secrets(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        config, made = prepare(Config(data_dir=str(tmp_path / "a" / "data")))
    finally:
        os.umask(old)
    folder = tmp_path / "a" / "data"
    assert (made.first, made.folder, made.made) == (True, folder, ("jwt_secret", "backend_key"))
    assert (mode(folder), mode(folder / "secrets.toml")) == (0o700, 0o600)
    assert [p.name for p in folder.iterdir()] == ["secrets.toml"]
    assert len(config.auth.jwt_secret) >= 32
    (key,) = config.auth.api_keys
    assert key.scopes == ("publish", "read", "admin")
    assert made.api_key == f"backend.{key.secret}"


def test_later_starts_read_the_same(tmp_path: Path) -> None:
    first, _ = prepare(Config(data_dir=str(tmp_path)))
    again, made = prepare(Config(data_dir=str(tmp_path)))
    assert again == first
    assert (made.first, made.made) == (False, ())


def test_what_is_configured_wins_and_is_not_stored(tmp_path: Path) -> None:
    keys = (ApiKey(id="shop", secret="0123456789abcdef", scopes=("read",)),)
    config = Config(data_dir=str(tmp_path / "data"), auth=Auth(jwt_secret="s" * 32, api_keys=keys))
    prepared, made = prepare(config)
    assert prepared == config
    assert (made.first, made.api_key) == (False, "")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_missing_secret_is_added_to_the_others(tmp_path: Path) -> None:
    keys = (ApiKey(id="shop", secret="0123456789abcdef", scopes=("read",)),)
    first, _ = prepare(Config(data_dir=str(tmp_path), auth=Auth(api_keys=keys)))
    second, made = prepare(Config(data_dir=str(tmp_path)))
    assert second.auth.jwt_secret == first.auth.jwt_secret
    assert (made.first, made.made) == (False, ("backend_key",))
    assert mode(tmp_path / "secrets.toml") == 0o600


def test_reading_only_makes_nothing(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path / "data"))
    same, found = prepare(config, create=False)
    assert same == config
    assert found.api_key == ""
    assert not (tmp_path / "data").exists()
    made, _ = prepare(config)
    assert prepare(config, create=False)[0] == made


def test_a_file_left_by_a_crash_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets.new").write_text("jwt_sec")
    config, _ = prepare(Config(data_dir=str(tmp_path)))
    assert prepare(Config(data_dir=str(tmp_path)))[0] == config
    assert [p.name for p in tmp_path.iterdir()] == ["secrets.toml"]


def test_secrets_open_to_others_are_refused(tmp_path: Path) -> None:
    prepare(Config(data_dir=str(tmp_path)))
    (tmp_path / "secrets.toml").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        prepare(Config(data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    "content",
    [
        "jwt_secret = hunter2",
        "hunter2 = 'x'",
        "jwt_secret = 5",
        "jwt_secret = 'hunter2'",
        b"jwt_secret = '\xff'",
    ],
)
def test_a_broken_file_is_refused_without_quoting_it(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "secrets.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        prepare(Config(data_dir=str(tmp_path)))
    assert "hunter2" not in str(caught.value)
    assert path.exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="data_dir: ") as caught:
        prepare(Config(data_dir=str(tmp_path / "file")))
    assert caught.value.field == "data_dir"


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    config, made = prepare(Config(data_dir=str(tmp_path)))
    shown = f"{config!r} {made!r} {made.__rich_repr__()}"
    assert config.auth.jwt_secret not in shown
    assert config.auth.api_keys[0].secret not in shown


def _start(folder: str) -> tuple[str, bool]:
    config, made = prepare(Config(data_dir=folder))
    return config.auth.jwt_secret, made.first


def test_starts_at_the_same_time_agree(tmp_path: Path) -> None:
    with get_context("spawn").Pool(4) as pool:
        results = pool.map(_start, [str(tmp_path / "data")] * 8, chunksize=1)
    assert len({secret for secret, _ in results}) == 1
    assert sum(first for _, first in results) == 1
