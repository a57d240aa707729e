"""Health, readiness, metrics."""

from collections.abc import Callable

import pytest

from gateway.api.channels import TEXT
from gateway.errors import StoreFailed
from tests.api.double import HubDouble
from tests.api.support import ADMIN, CHANNEL, READER, SENDER, Caller


@pytest.fixture
def nobody(as_key: Callable[[str | None], Caller]) -> Caller:
    """A caller without a credential."""
    return as_key(None)


async def test_health(nobody: Caller, hub: HubDouble) -> None:
    hub.ready = "starting"
    reply = await nobody("GET", "/healthz")
    assert (reply.status, reply.json) == (200, {"status": "ok"})


async def test_readiness(nobody: Caller, hub: HubDouble) -> None:
    reply = await nobody("GET", "/readyz")
    assert (reply.status, reply.json) == (200, {"status": "ready"})
    hub.ready = "store: read-only"
    reply = await nobody("GET", "/readyz")
    assert reply.problem == (503, "not_ready", None)
    assert reply.json["detail"] == "not ready: store: read-only"
    assert reply.headers["Retry-After"] == "1"


async def test_metrics(nobody: Caller) -> None:
    reply = await nobody("GET", "/metrics")
    assert reply.raw == b"up 1\n"
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_how_the_channels_are(as_key: Callable[[str | None], Caller], hub: HubDouble) -> None:
    reply = await as_key(READER)("GET", "/v1/channels")
    assert (reply.status, reply.json) == (200, {"channels": [{**CHANNEL, "waiting": 3}]})
    assert (await as_key(SENDER)("GET", "/v1/channels")).problem == (403, "scope_missing", None)
    hub.store.broken = StoreFailed("away", definite=True)
    assert (await as_key(READER)("GET", "/v1/channels")).problem == (503, "unavailable", None)


async def test_a_channel_can_be_tried(as_key: Callable[[str | None], Caller], hub: HubDouble) -> None:
    admin = as_key(ADMIN)
    reply = await admin("POST", "/v1/channels/hook/test", {"address": "a", "body": {"n": 1}})
    assert reply.json | {"ms": 0} == {
        "outcome": "refused", "reason": "HTTP 410", "ms": 0, "blame": "recipient", "status": 410
    }  # fmt: skip
    assert (await admin("POST", "/v1/channels/hook/test")).status == 200
    assert hub.tested == [("hook", "a", b'{"n": 1}', "api:backend"), ("hook", "", TEXT, "api:backend")]
    assert (await admin("POST", "/v1/channels/fax/test")).problem == (404, "not_found", None)
    assert (await as_key(READER)("POST", "/v1/channels/hook/test")).problem == (403, "scope_missing", None)


async def test_callbacks_have_a_listener_of_their_own(nobody: Caller) -> None:
    assert (await nobody("POST", "/v1/callbacks/hook", {"a": 1})).problem == (404, "no_such_path", None)
