"""Where the gateway is, and which credential goes there."""

import ssl
from argparse import Namespace
from pathlib import Path

import pytest

from gateway.cli.exits import Exit, Failure
from gateway.cli.where import Where
from gateway.config import Config
from gateway.errors import ConfigError
from tests.cli.support import certificate


def where(env: dict[str, str] | None = None, **options: object) -> Where:
    return Where(
        Namespace(**{"config": None, "api": None, "api_key": None, "url": None, "token": None} | options),
        env or {},
    )


def refused(call: object) -> str:
    with pytest.raises(Failure) as caught:
        call()  # type: ignore[operator]
    assert caught.value.exit_code == Exit.USAGE
    return str(caught.value)


def test_the_configuration_is_read_as_serve_reads_it(started: Config) -> None:
    found = where()
    assert found.api() == ("http://127.0.0.1:8081", None)
    assert found.websocket() == ("ws://127.0.0.1:8080/ws", None)
    assert found.api_key("publish") == f"backend.{started.auth.api_keys[0].secret}"
    assert found.token() == ""


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("0.0.0.0:9000", "http://127.0.0.1:9000"),
        ("[::]:9000", "http://[::1]:9000"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("10.1.2.3:9000", "http://10.1.2.3:9000"),
    ],
)
def test_a_listener_on_every_address_is_reached_on_this_machine(listen: str, url: str) -> None:
    assert where({"BOTGW_HTTP__LISTEN": listen}).api().url == url


def test_options_beat_the_environment_and_that_the_configuration(started: Config) -> None:
    env = {
        "BOT_GATEWAY_API": "http://a:1/",
        "BOT_GATEWAY_API_KEY": "k.from-env",
        "BOT_GATEWAY_URL": "ws://a:1",
    }
    found = where(env)
    assert (found.api().url, found.api_key("read")) == ("http://a:1", "k.from-env")
    assert found.websocket().url == "ws://a:1/ws"
    found = where(env, api="http://b:2", api_key="k.option", url="ws://b:2/path")
    assert (found.api().url, found.api_key("read")) == ("http://b:2", "k.option")
    assert found.websocket().url == "ws://b:2/path"


def test_names_of_the_environment_are_no_keys_of_the_configuration() -> None:
    assert where({"BOT_GATEWAY_API": "http://a:1"}).config.http.listen == "127.0.0.1:8081"


def test_the_file_is_named_by_option_or_environment(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('http.listen = "127.0.0.1:7001"\n')
    assert where(config=file).api().url == "http://127.0.0.1:7001"
    assert where({"BOT_GATEWAY_CONFIG": str(file)}).api().url == "http://127.0.0.1:7001"
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        where(config=Path("nowhere.toml")).api()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8081", "ftp://a", "http://", "http://a:x", "http://u:p@a", "http://a b"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    assert refused(where(api=url).api).startswith("--api: ")


def test_a_secret_of_this_machine_goes_to_this_gateway_only(started: Config) -> None:
    for api in ("http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"):
        assert where(api=api).api_key("read").startswith("backend.")
    assert where({"BOTGW_HTTP__LISTEN": "10.1.2.3:80"}, api="http://10.1.2.3:80").api_key("read")
    message = refused(lambda: where(api="https://elsewhere.example").api_key("read"))
    assert message.startswith("--api-key: ")
    assert started.auth.api_keys[0].secret not in message
    assert refused(lambda: where(url="ws://elsewhere.example").mint("alice", 60)).startswith("--token: ")
    assert where(url="ws://127.0.0.1:9").mint("alice", 60)


def test_a_free_port_cannot_be_known() -> None:
    env = {"BOTGW_HTTP__LISTEN": "127.0.0.1:0", "BOTGW_WEBSOCKET__LISTEN": "127.0.0.1:0"}
    assert refused(where(env).api).startswith("--api: ")
    assert refused(where(env).websocket).startswith("--url: ")


def test_a_missing_data_folder_is_named() -> None:
    message = refused(lambda: where().api_key("read"))
    assert "--api-key" in message
    assert "data/secrets.toml" in message
    assert "auth.jwt_secret" in refused(lambda: where().mint("alice", 60))


def test_only_a_key_with_the_scope_and_a_secret_is_used(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        "[[auth.api_keys]]\n"
        f'id = "hashed"\nsecret_sha256 = "{"0" * 64}"\nscopes = ["publish", "read", "admin"]\n'
        '[[auth.api_keys]]\nid = "reader"\nsecret = "sixteen-characters"\nscopes = ["read"]\n'
    )
    assert where(config=file).api_key("read") == "reader.sixteen-characters"
    assert "scope admin" in refused(lambda: where(config=file).api_key("admin"))


def test_the_certificate_of_the_configuration_is_pinned_on_this_machine(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "gateway.example")
    env = {"BOTGW_HTTP__TLS_CERT": str(cert), "BOTGW_HTTP__TLS_KEY": str(key)}
    url, tls = where(env).api()
    assert url == "https://127.0.0.1:8081"
    assert tls is not None
    assert tls.verify_mode == ssl.CERT_REQUIRED
    assert tls.cert_store_stats()["x509"] == 1
    assert where(env, api="https://127.0.0.1:9").api().tls is not None
    assert where(env, api="https://elsewhere.example").api().tls is None
    cert.write_text("nothing")
    assert str(cert) in refused(where(env).api)
