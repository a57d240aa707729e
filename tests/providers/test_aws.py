"""SES and SNS against moto, as a server in a process of its own: through the dispatcher, and notifications it signs."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import boto3
import pytest
from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from gateway.config.channels import Channel, Ses, Sns
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import ses
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import Answer, Call, Forged, Needs, Receipt

Message = Callable[..., Item]
Dispatch = Callable[..., Awaitable[Dispatcher]]
Attempt = Callable[..., Awaitable[Outcome]]

REGION = "eu-west-1"
NAMED: dict[str, Any] = {
    "region": REGION,
    "access_key_id": "AKIDEXAMPLE",
    "secret_access_key": "secret-of-the-test",
    "allow_private": True,
    "timeout": 20.0,
}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """Its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < until:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)  # moto does not say when it listens
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def client(service: str, moto: str) -> Any:
    """botocore's own, to arrange things."""
    return boto3.client(
        service,
        region_name=REGION,
        endpoint_url=moto,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="secret-of-the-test",
    )


@pytest.fixture
def send(dispatch: Dispatch, attempt: Attempt) -> Callable[..., Awaitable[Outcome]]:
    async def make(settings: Channel, item: Item, address: str) -> Outcome:
        return await attempt(await dispatch({"aws": settings}), item, "aws", address)

    return make


async def test_an_email(moto: str, send: Any, message: Message) -> None:
    settings = Ses(url=moto, sender="Shop <shop@example.com>", **NAMED)
    unverified = await send(settings, message(b'"hello"'), "ann@example.net")
    assert (unverified.kind, unverified.code, unverified.status) == ("refused", "MessageRejected", 400)
    await asyncio.to_thread(client("sesv2", moto).create_email_identity, EmailIdentity="example.com")
    accepted = await send(settings, message(b'{"text": "hello", "title": "Hi"}'), "ann@example.net")
    assert (accepted.kind, accepted.status, accepted.receipt) == ("accepted", 200, False)
    async with aiohttp.ClientSession() as session, session.get(f"{moto}/moto-api/data.json") as answer:
        (seen,) = (await answer.json(content_type=None))["ses"]["Message"]
    assert accepted.provider_id == seen["id"]
    assert seen["source"] == "Shop <shop@example.com>"
    assert seen["destinations"]["ToAddresses"] == ["ann@example.net"]
    assert (seen["subject"], seen["body"]) == ("Hi", "hello")


async def test_an_sms_and_a_push_message(moto: str, send: Any, message: Message) -> None:
    settings = Sns(url=moto, sender_id="Shop", **NAMED)
    outcome = await send(settings, message('"naïve & ☃"'.encode()), "+4915123456789")
    assert outcome.kind == "accepted"
    sns = client("sns", moto)
    made = await asyncio.to_thread(
        sns.create_platform_application, Name="shop", Platform="GCM", Attributes={"PlatformCredential": "k"}
    )
    arn = made["PlatformApplicationArn"]
    found = await asyncio.to_thread(sns.create_platform_endpoint, PlatformApplicationArn=arn, Token="t")
    endpoint = found["EndpointArn"]
    pushed = await send(settings, message(b'"hello"'), endpoint)
    assert (pushed.kind, bool(pushed.provider_id)) == ("accepted", True)
    await asyncio.to_thread(
        sns.set_endpoint_attributes, EndpointArn=endpoint, Attributes={"Enabled": "false"}
    )
    disabled = await send(settings, message(b'"hello"'), endpoint)
    assert (disabled.kind, disabled.blame, disabled.code, disabled.learnt) == (
        "refused",
        "recipient",
        "EndpointDisabled",
        "",
    )
    await asyncio.to_thread(sns.delete_endpoint, EndpointArn=endpoint)
    gone = await send(settings, message(b'"hello"'), endpoint)
    assert (gone.kind, gone.blame) == ("refused", "recipient")


@pytest.mark.parametrize(
    ("make", "address", "service"),
    [
        (lambda url: Ses(url=url, sender="shop@example.com", **NAMED), "ann@example.net", "ses"),
        (lambda url: Sns(url=url, **NAMED), "+4915123456789", "sns"),
    ],
)
async def test_what_is_sent_is_what_was_signed(
    serve: Callable[..., Awaitable[str]],
    send: Any,
    message: Message,
    make: Callable[[str], Channel],
    address: str,
    service: str,
) -> None:
    """The signature, made again by botocore out of what came in."""
    seen: list[tuple[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        given = request.headers["authorization"]
        names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
        again = AWSRequest(
            "POST",
            f"http://{request.headers['host']}{request.path_qs}",
            headers={name: request.headers[name] for name in names},
            data=await request.read(),
        )
        again.context["timestamp"] = request.headers["x-amz-date"]
        auth = SigV4Auth(Credentials("AKIDEXAMPLE", "secret-of-the-test"), service, REGION)
        text = auth.string_to_sign(again, auth.canonical_request(again))
        seen.append((given.partition("Signature=")[2], auth.signature(text, again)))
        return web.json_response({"MessageId": "m"})

    await send(make((await serve(handler)).removesuffix("/hook")), message('"naïve ☃"'.encode()), address)
    ((given, right),) = seen
    assert given == right


async def test_a_notification_that_moto_signs(
    moto: str, serve: Callable[..., Awaitable[str]], message: Message
) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(request: web.Request) -> web.Response:
        got.put_nowait(await request.read())
        return web.Response()

    sns = client("sns", moto)
    topic = (await asyncio.to_thread(sns.create_topic, Name="ses-events"))["TopicArn"]
    url = await serve(handler)
    await asyncio.to_thread(sns.subscribe, TopicArn=topic, Protocol="http", Endpoint=url)
    item = message(b'"hello"')
    ref = f"{encode_id(item.id)}-1"
    event = (
        '{"eventType": "Delivery", "delivery": {"timestamp": "2026-09-21T14:13:25.000Z"}, "mail": {"tags": '
        f'{{"gateway-ref": ["{ref}"]}}}}}}'
    )
    await asyncio.to_thread(sns.publish, TopicArn=topic, Message=event)
    body = await got.get()
    while b"Notification" not in body:
        body = await got.get()
    provider = ses.Ses(
        "mail", Ses(sender="shop@example.com", topic_arn=topic, **NAMED), "https://gw.example/"
    )
    call = Call("POST", "https://gw.example/", {}, {}, body)
    with pytest.raises(Needs) as needs:
        provider.callback(call, time.time())
    host, _, path = needs.value.url.removeprefix("https://").partition("/")
    assert host == f"sns.{REGION}.amazonaws.com"
    scope = f"AWS4-HMAC-SHA256 Credential=AKID/20260101/{REGION}/sns/aws4_request, SignedHeaders=host, Signature=0"
    async with (
        aiohttp.ClientSession() as session,
        # moto finds the service by the key's scope
        session.get(f"{moto}/{path}", headers={"authorization": scope}) as answer,
    ):
        fetched = {needs.value.url: Answer(answer.status, {}, await answer.read())}
    whole = Call("POST", "https://gw.example/", {}, {}, body, fetched)
    (receipt,) = provider.callback(whole, time.time()).receipts
    assert receipt == Receipt(
        ref=f"{encode_id(item.id)}.1",
        status="delivered",
        at=1_790_000_005_000,
        reason="Delivery",
        key=receipt.key,
    )
    assert receipt.key
    forged = Call("POST", "https://gw.example/", {}, {}, body.replace(b"Delivery", b"Complain"), fetched)
    with pytest.raises(Forged, match="signature"):
        provider.callback(forged, time.time())
