import datetime as dt

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.sigv4 import Key, host_of, signed

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEY = Key("AKIDEXAMPLE", SECRET, "", "us-east-1", "service")
WALL = dt.datetime(2015, 8, 30, 12, 36, tzinfo=dt.UTC).timestamp()


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),  # get-vanilla
        ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),  # post-vanilla
    ],
)
def test_the_vectors_of_aws(method: str, signature: str) -> None:
    headers = signed(KEY, method, "https://example.amazonaws.com/", {}, b"", WALL + 0.9)
    assert headers == {
        "x-amz-date": "20150830T123600Z",
        "authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}",
    }


def by_botocore(key: Key, url: str, headers: dict[str, str], body: bytes, date: str) -> str:
    """The Authorization header that botocore would make, at this date."""
    request = AWSRequest("POST", url, headers=headers, data=body)
    request.context["timestamp"] = date
    auth = SigV4Auth(Credentials(key.id, key.secret, key.token or None), key.service, key.region)
    if key.token:
        request.headers["X-Amz-Security-Token"] = key.token
    request.headers["X-Amz-Date"] = date
    text = auth.string_to_sign(request, auth.canonical_request(request))
    names = auth.signed_headers(auth.headers_to_sign(request))
    return (
        f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, SignedHeaders={names}, "
        f"Signature={auth.signature(text, request)}"
    )


@given(
    path=st.text("abc/-_.~%20+:@ é", max_size=12),
    value=st.text("a b\t;:é", max_size=12),
    body=st.binary(max_size=40),
    token=st.sampled_from(["", "session+token=="]),
    wall=st.integers(0, 4_000_000_000),
)
def test_as_botocore_signs(path: str, value: str, body: bytes, token: str, wall: int) -> None:
    key = Key("AKID", SECRET, token, "eu-west-1", "ses")
    url = "https://email.eu-west-1.amazonaws.com/" + "/".join(
        part for part in path.split("/") if part not in {"", ".", ".."}
    )
    headers = {"content-type": "application/json", "x-a": value, "user-agent": value}
    made = signed(key, "POST", url, headers, body, float(wall))
    assert made["authorization"] == by_botocore(key, url, headers, body, made["x-amz-date"])
    assert made.get("x-amz-security-token", "") == token
    assert made.items() >= headers.items()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://SNS.us-east-1.amazonaws.com/", "sns.us-east-1.amazonaws.com"),
        ("https://a.example:443/", "a.example"),
        ("http://a.example:443/", "a.example:443"),
        ("http://127.0.0.1:5000", "127.0.0.1:5000"),
        ("http://[::1]:5000/", "[::1]:5000"),
    ],
)
def test_hosts(url: str, host: str) -> None:
    assert host_of(url) == host


def test_a_key_shows_no_secret() -> None:
    assert SECRET not in repr(KEY)
