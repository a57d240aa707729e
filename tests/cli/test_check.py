"""`check`: valid TOML, no secret, and the same errors as a start."""

import json
import os
import tomllib
from pathlib import Path

import pytest

from gateway.config import Config, masked, reference_markdown
from tests.cli.support import Runner

FILE = """
data_dir = "here"
[routes]
default = ["hook"]
[[auth.api_keys]]
id = "backend"
secret = "a-key-that-nobody-may-see"
scopes = ["publish", "read"]
[[auth.issuers]]
name = 'an "issuer" \\ of tokens'
algorithms = ["HS256"]
secret = "a-secret-of-at-least-thirty-two-bytes"
[channels.hook]
kind = "webhook"
url = "https://example.com/hook?token=hidden-too"
secret = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cy0wMTIzNDU2Nzg5YWI="
"""


def write(text: str) -> str:
    Path("gateway.toml").write_text(text)
    return "gateway.toml"


async def test_what_is_in_force_as_toml(cli: Runner) -> None:
    result = await cli("check", "--config", write(FILE))
    assert (result.code, result.err) == (0, "")
    told = tomllib.loads(result.out)
    assert told["data_dir"] == "here"
    assert told["auth"]["api_keys"][0] == {
        "id": "backend",
        "secret": "•••",
        "secret_sha256": "",
        "scopes": ["publish", "read"],
    }
    assert told["auth"]["issuers"][0]["name"] == 'an "issuer" \\ of tokens'
    assert told["channels"]["hook"]["url"] == "https://example.com/hook?•••"
    assert told["session"]["ack_wait"] == 10
    for secret in ("a-key-that", "a-secret-of", "hidden-too", "whsec_"):
        assert secret not in result.out


async def test_toml_and_json_say_the_same(cli: Runner, started: Config) -> None:
    as_toml = await cli("check")
    as_json = await cli("check", "--json")
    assert as_json.json == [tomllib.loads(as_toml.out)]
    assert as_json.json == [json.loads(json.dumps(masked(started)))]
    assert started.auth.jwt_secret not in as_toml.out


async def test_reference(cli: Runner) -> None:
    assert (await cli("check", "--reference")).out == reference_markdown()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[session]\nwindw = 3\n", "session.windw"),
        ("[session]\nwindow = 0\n", "session.window"),
        ("[http]\nlisten = 8081\n", "http.listen"),
        ('[http]\ntls_cert = "no.pem"\ntls_key = "no.pem"\n', "http.tls_cert"),
        ('[websocket]\ntls_cert = "no.pem"\ntls_key = "no.pem"\n', "websocket.tls_cert"),
        (
            '[[auth.issuers]]\nname = "i"\nalgorithms = ["ES256"]\njwks_file = "no.json"\n',
            "auth.issuers[0].jwks_file",
        ),
        (
            FILE.replace("https://example.com", "http://example.com"),
            "channels.hook.url",
        ),
        ("not toml", "gateway.toml"),
    ],
)
async def test_what_would_keep_it_from_starting(cli: Runner, text: str, named: str) -> None:
    result = await cli("check", "--config", write(text))
    assert result.code == 2
    assert named in result.error


async def test_open_secrets(cli: Runner, started: Config) -> None:
    os.chmod("data/secrets.toml", 0o644)  # noqa: PTH101
    result = await cli("check")
    assert result.code == 2
    assert "secrets.toml" in result.error
