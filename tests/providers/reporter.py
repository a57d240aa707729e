"""A provider that reports, as the tests have it: nothing of it is anybody's real protocol.

A callback is signed by HMAC-SHA256 of its URL and its body, and holds `[{"ref":…,"status":…,"code":…}]`. A GET with a
`challenge` is answered by it.
"""

import hmac

import msgspec

from gateway.config.channels import Webhook as Settings
from gateway.ports import Outcome
from gateway.providers.provider import Answer, Call, Forged, Receipt, Reply, Request, Send

KEY = b"the key of the tests"


def sign(url: str, body: bytes) -> str:
    return hmac.new(KEY, url.encode() + body, "sha256").hexdigest()


class Reporter:
    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        self.url = settings.url
        self.callback_url = callback

    def request(self, send: Send) -> Request:
        body = msgspec.json.encode({"ref": send.ref, "callback": self.callback_url})
        return Request(url=self.url, headers={"content-type": "application/json"}, body=body)

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        return Outcome("accepted", f"HTTP {answer.status}", status=answer.status, receipt=True)

    def callback(self, call: Call, wall: float) -> Reply:
        if call.method == "GET":
            return Reply(body=call.query.get("challenge", "").encode())
        if not hmac.compare_digest(call.headers.get("x-signature", ""), sign(call.url, call.body)):
            raise Forged("the signature does not match")
        if b"bug" in call.body:
            raise KeyError("bug")
        return Reply(msgspec.json.decode(call.body, type=tuple[Receipt, ...]), body=b"ok")


PROVIDER = Reporter
