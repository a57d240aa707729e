"""The configuration: file and environment in, a Config or an error that names the key out."""

from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import fields

from gateway.config import (
    ApiKey,
    Config,
    Issuer,
    Table,
    Webhook,
    load,
    masked,
    parse_listen,
    reference_markdown,
)
from gateway.config.listeners import Broker
from gateway.config.table import meaning
from gateway.errors import ConfigError

ROOT = Path(__file__).parents[2]
SECRET = "whsec_" + "QUJD" * 8
HOOK = f'[channels.hook]\nkind = "webhook"\nurl = "https://example.com/in?key=k3y"\nsecret = "{SECRET}"\n'


def read(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> Config:
    path = tmp_path / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, env or {})


def refused(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, env)
    return caught.value


def all_tables() -> list[type[Table]]:
    inner = [get_args(field.type)[0] for field in fields(Config)]
    return [
        Config,
        ApiKey,
        Issuer,
        Webhook,
        Broker,
        *(t for t in inner if isinstance(t, type) and issubclass(t, Table)),
    ]


def test_without_a_file_everything_has_a_default() -> None:
    assert load(None, {"HOME": "/x", "PATH": "/bin"}) == Config()


def test_the_defaults_of_the_plan() -> None:
    config = Config()
    assert (config.http.listen, config.websocket.listen) == ("127.0.0.1:8081", "127.0.0.1:8080")
    session = config.session
    assert (session.window, session.ack_wait, session.deliver_max, session.crash_max) == (64, 10, 5, 20)
    assert (session.offline_deadline, session.heartbeat, session.expiry) == (30, 25, 604800)
    assert (config.dedup.window, config.limits.max_payload) == (86400, 65536)


def test_a_whole_file(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        f"""
        data_dir = "/var/lib/bots"
        [session]
        ack_wait = 3
        [auth]
        jwt_secret = "{"s" * 32}"
        api_keys = [{{ id = "shop", secret = "{"k" * 16}", scopes = ["publish"] }}]
        [[auth.issuers]]
        name = "https://id.example"
        algorithms = ["RS256", "ES256"]
        jwks_url = "https://id.example/keys"
        [routes]
        default = ["hook"]
        {HOOK}
        """,
    )
    assert config.session.ack_wait == 3.0
    assert config.auth.api_keys == (ApiKey(id="shop", secret="k" * 16, scopes=("publish",)),)
    assert config.auth.issuers[0].algorithms == ("RS256", "ES256")
    assert config.routes.default == ("hook",)
    assert config.channels["hook"].timeout == 15.0


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    env = {
        "BOTGW_DATA_DIR": "elsewhere",
        "BOTGW_SESSION__ACK_WAIT": "2.5",
        "BOTGW_WEBSOCKET__COMPRESSION": "true",
        "BOTGW_WEBSOCKET__ORIGINS": '["https://a.example", "https://b.example:8443"]',
        "BOTGW_HTTP__LISTEN": "[::1]:9000",
        "BOTGW_CHANNELS__HOOK__TIMEOUT": "7",
    }
    config = read(tmp_path, f'data_dir = "here"\n[session]\nack_wait = 9\nwindow = 8\n{HOOK}', env)
    assert config.data_dir == "elsewhere"
    assert (config.session.ack_wait, config.session.window) == (2.5, 8)
    assert config.websocket.compression
    assert config.websocket.origins == ("https://a.example", "https://b.example:8443")
    assert config.http.listen == "[::1]:9000"
    assert (config.channels["hook"].timeout, config.channels["hook"].secret) == (7.0, SECRET)


@pytest.mark.parametrize(
    "text", ["1" * 40, "true" * 10, "[1,2]" * 8, "0x" + "ab" * 20, "a = 1\nb = 2" * 4, '"' * 33]
)
def test_text_from_the_environment_need_not_be_quoted(text: str) -> None:
    assert load(None, {"BOTGW_AUTH__JWT_SECRET": text}).auth.jwt_secret == text


def test_quoted_text_from_the_environment_is_unquoted() -> None:
    assert load(None, {"BOTGW_DATA_DIR": '"my data"'}).data_dir == "my data"


def test_tables_of_an_array_from_the_environment() -> None:
    keys = '[{id = "a", secret = "0123456789abcdef", scopes = ["read"]}]'
    assert load(None, {"BOTGW_AUTH__API_KEYS": keys}).auth.api_keys[0].id == "a"


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("[sesion]\nwindow = 1", "sesion", "`session`"),
        ("[session]\nwindw = 1", "session.windw", "`session.window`"),
        ("heartbeat = 5", "heartbeat", "`session.heartbeat`"),
        ("[kafka]\nlisten = ''", "kafka", "known here: data_dir, http"),
        (
            "[[auth.api_keys]]\nid = 'a'\nscope = ['read']",
            "auth.api_keys[0].scope",
            "`auth.api_keys[0].scopes`",
        ),
        (HOOK + "time_out = 3", "channels.hook.time_out", "`channels.hook.timeout`"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest(
    tmp_path: Path, text: str, field: str, says: str
) -> None:
    error = refused(tmp_path, text)
    assert error.field == field
    assert "unknown key" in error.detail
    assert says in error.detail


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[session]\nwindow = 0", "session.window"),
        ("[session]\nwindow = 'many'", "session.window"),
        ("[session]\nwindow = 2.5", "session.window"),
        ("[session]\nack_wait = true", "session.ack_wait"),
        ("[session]\nack_wait = nan", "session.ack_wait"),
        ("[session]\nheartbeat = inf", "session.heartbeat"),
        ("session = 5", "session"),
        ("channels = 5", "channels"),
        ("channels = {hook = 5}", "channels.hook"),
        ("[auth]\napi_keys = 5", "auth.api_keys"),
        ("[auth]\napi_keys = ['a']", "auth.api_keys[0]"),
        ("[websocket]\norigins = ['https://a', 5]", "websocket.origins[1]"),
        ("[log]\nlevel = 'loud'", "log.level"),
        ("[drain]\nafter = [1]", "drain.after"),
        ("data_dir = ''", "data_dir"),
    ],
)
def test_a_wrong_type_or_bound_names_the_key(tmp_path: Path, text: str, field: str) -> None:
    error = refused(tmp_path, text)
    assert error.field == field
    assert error.detail.startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("env", "field"),
    [
        ({"BOTGW_SESSION__WINDOW": "many"}, "session.window"),
        ({"BOTGW_SESSION": "5"}, "session"),
        ({"BOTGW_SESION": "5"}, "sesion"),
        ({"BOTGW_AUTH__API_KEYS": "5"}, "auth.api_keys"),
    ],
)
def test_an_error_from_the_environment_names_the_variable(env: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, env)
    assert caught.value.field == field
    assert next(iter(env)) in caught.value.detail


def test_a_variable_cannot_go_below_a_value() -> None:
    with pytest.raises(ConfigError, match="BOTGW_DATA_DIR__X: `data_dir` is not a table"):
        load(None, {"BOTGW_DATA_DIR": "here", "BOTGW_DATA_DIR__X": "1"})


def key(rest: str) -> str:
    return f"[[auth.api_keys]]\nid = 'a'\nscopes = ['read']\n{rest}\n"


def issuer(rest: str) -> str:
    return f"[[auth.issuers]]\nname = 'x'\n{rest}\n"


def channel(rest: str) -> str:
    return f"[channels.hook]\nkind = 'webhook'\nurl = 'https://x.example'\n{rest}\n"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[http]\nlisten = '8080'", "http.listen"),
        ("[websocket]\nlisten = '::1:8080'", "websocket.listen"),
        ("[http]\ntls_cert = 'c.pem'", "http.tls_key"),
        ("[websocket]\ntls_key = 'k.pem'", "websocket.tls_cert"),
        ("[websocket]\norigins = ['https://a.example/path']", "websocket.origins[0]"),
        ("[websocket]\ntrusted_proxies = ['10.0.0.0/8', 'proxy']", "websocket.trusted_proxies[1]"),
        ("[store]\nurl = 'redis://x'", "store.url"),
        ("[session]\nwindow = 64\n[limits]\nmax_window = 32", "session.window"),
        ("[session]\nack_wait = 20\nack_wait_max = 10", "session.ack_wait_max"),
        ("[limits]\nndjson_line_bytes = 1024", "limits.ndjson_line_bytes"),
        ("[limits]\nmax_frame_bytes = 1024", "limits.max_frame_bytes"),
        ("[http]\nmax_body_bytes = 1024", "http.max_body_bytes"),
        ("[limits]\npublish_burst = 5", "limits.publish_burst"),
        ("[drain]\nafter = [5.0, 1.0]", "drain.after"),
        ("[drain]\nafter = [nan, 1.0]", "drain.after"),
        ("[drain]\nafter = [1.0, 5.0]\ntimeout = 4", "drain.timeout"),
        ("[auth]\njwt_secret = 'short'", "auth.jwt_secret"),
        (key(""), "auth.api_keys[0]"),
        (key("secret = '0123456789abcdef'") * 2, "auth.api_keys[1].id"),
        (key("secret = 'short'"), "auth.api_keys[0].secret"),
        (key("secret_sha256 = 'abc'"), "auth.api_keys[0].secret_sha256"),
        ("[[auth.api_keys]]\nid = 'a.b'\nscopes = ['read']", "auth.api_keys[0].id"),
        ("[[auth.api_keys]]\nid = 'a'\nscopes = []", "auth.api_keys[0].scopes"),
        ("[[auth.api_keys]]\nid = 'a'\nscopes = ['write']", "auth.api_keys[0].scopes[0]"),
        ("[[auth.api_keys]]\nscopes = ['read']", "auth.api_keys[0].id"),
        (issuer("algorithms = ['RS256']"), "auth.issuers[0]"),
        (issuer("algorithms = ['RS256']\njwks_file = 'a'\npublic_key = 'b'"), "auth.issuers[0]"),
        (issuer("algorithms = ['HS256']\njwks_file = 'a'"), "auth.issuers[0].algorithms"),
        (issuer("algorithms = ['HS256', 'RS256']\npublic_key = 'a'"), "auth.issuers[0].algorithms"),
        (issuer(f"algorithms = ['HS256', 'RS256']\nsecret = '{'s' * 32}'"), "auth.issuers[0].algorithms"),
        (issuer("algorithms = ['HS256']\nsecret = 'short'"), "auth.issuers[0].secret"),
        (issuer("algorithms = ['none']\nsecret = 'a'"), "auth.issuers[0].algorithms[0]"),
        (issuer("algorithms = ['RS256']\njwks_url = 'http://x.example/k'"), "auth.issuers[0].jwks_url"),
        (issuer("algorithms = ['RS256']\njwks_url = 'https://u:p@x.example/k'"), "auth.issuers[0].jwks_url"),
        (issuer("algorithms = ['RS256']\njwks_file = 'k'") * 2, "auth.issuers[1].name"),
        ("[routes]\ndefault = ['sms']", "routes.default[0]"),
        ("[routes]\ndefault = ['hook', 'hook']\n" + HOOK, "routes.default[1]"),
        ("[[routes.rules]]\nfallback = []", "routes.rules[0]"),
        ("[[routes.rules]]\ntype = 'a'\nfallback = ['sms']", "routes.rules[0].fallback[0]"),
        (
            "[[routes.rules]]\ntype = 'a'\nfallback = []\n[[routes.rules]]\npriority = 'low'\n"
            "fallback = ['hook', 'hook']\n" + HOOK,
            "routes.rules[1].fallback[1]",
        ),
        ("[[routes.rules]]\ntype = 'a'", "routes.rules[0].fallback"),
        ("[[routes.rules]]\npriority = 'urgent'\nfallback = []", "routes.rules[0].priority"),
        (HOOK.replace("hook", "Hook", 1), "channels.Hook"),
        (HOOK.replace('kind = "webhook"\n', ""), "channels.hook.kind"),
        (HOOK.replace('"webhook"', '"sms"'), "channels.hook.kind"),
        (channel(""), "channels.hook.secret"),
        (channel(f"secret = '{SECRET}'\nbackoff_base = 9\nbackoff_max = 3"), "channels.hook.backoff_max"),
    ],
)
def test_what_does_not_fit_together_names_the_key(tmp_path: Path, text: str, field: str) -> None:
    error = refused(tmp_path, text)
    assert error.field == field
    assert error.detail.startswith(f"{field}: ")


@pytest.mark.parametrize(
    "text",
    [
        key(f"secret_sha256 = '{'0aF' * 21}0'"),
        issuer(f"algorithms = ['HS256']\nsecret = '{'s' * 32}'"),
        issuer("algorithms = ['EdDSA']\npublic_key_file = 'k.pem'"),
        issuer("algorithms = ['RS256']\njwks_url = 'http://127.0.0.1:8000/keys'"),
        issuer("algorithms = ['RS256']\njwks_url = 'http://localhost/keys'"),
        channel(f"secret = ['{SECRET}', '{SECRET}']"),
        "[websocket]\norigins = ['capacitor://localhost']\ntrusted_proxies = ['::1', '10.0.0.0/8']",
    ],
)
def test_what_fits_is_taken(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) != Config()


def test_a_secret_is_in_no_error(tmp_path: Path) -> None:
    texts = [
        "[auth]\njwt_secret = 'hunter2'",
        "[auth]\njwt_secret = ['hunter2']",
        key("secret = 'hunter2'"),
        channel("secret = {hunter2 = 1}"),
        "[store]\nurl = 'redis://user:hunter2@host'",
    ]
    for text in texts:
        error = refused(tmp_path, text)
        assert "hunter2" not in f"{error!r} {error} {error.detail}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load(tmp_path / "absent.toml", {})
    (tmp_path / "bytes.toml").write_bytes(b"data_dir = '\xff'")
    with pytest.raises(ConfigError, match=r"bytes\.toml: is not UTF-8"):
        load(tmp_path / "bytes.toml", {})
    assert "line 2" in refused(tmp_path, "[http]\nlisten == 5").detail


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::1]:0", "::1", 0),
        ("localhost:65535", "localhost", 65535),
    ],
)
def test_listen_addresses(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", ":80", "host", "host:", "host:x", "host:65536", "::1:80", "[]:80", "h:٣", "h:-1", "h:000080"]
)
def test_what_is_no_listen_address(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_listen(text)


def test_masked_shows_all_but_secrets(tmp_path: Path) -> None:
    text = f"[auth]\njwt_secret = '{'j' * 32}'\n" + key("secret = 'k3yk3yk3yk3yk3yk'")
    text += issuer(f"algorithms = ['HS256']\nsecret = '{'i' * 32}'") + HOOK
    config = read(tmp_path, text)
    shown = masked(config)
    assert shown["session"]["window"] == 64
    assert shown["channels"]["hook"]["kind"] == "webhook"
    assert shown["channels"]["hook"]["url"] == "https://example.com/in?•••"
    assert shown["auth"]["api_keys"][0]["id"] == "a"
    for view in (shown, config):
        for secret in ("j" * 32, "k3y", "i" * 32, SECRET):
            assert secret not in repr(view)


def test_an_absent_secret_is_not_shown_as_one() -> None:
    assert masked(Config())["auth"]["jwt_secret"] == ""


@pytest.mark.parametrize("table", all_tables(), ids=lambda t: t.__name__)
def test_every_key_is_described(table: type[Table]) -> None:
    assert table.__doc__
    for field in fields(table):
        meta = meaning(field.type)
        assert meta.description, field.name
        assert meta.extra is not None
        bounded = get_args(field.type)[0] in (int, float)
        assert not bounded or (meta.extra["unit"] and meta.ge is not None), field.name


def test_the_reference_page_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference_markdown(), "run `make docs`"


def test_the_reference_page_has_every_key() -> None:
    page = reference_markdown()
    sections = {
        "api_keys",
        "issuers",
        "rules",
        "channels",
        "broker",
        *(f.name for f in fields(Config) if f.name != "data_dir"),
    }
    for table in all_tables():
        for field in fields(table):
            assert f"| `{field.name}` |" in page or field.name in sections
