"""The short way of a publish over HTTP: from the bytes of a request to those of its answer, without a task of its own.

For one message in a request as most are (head.py), admitted at once and good JSON. Anything else goes the long way,
through aiohttp and the dispatcher, with nothing done yet; so does whatever is refused before the hub was asked. What
came in one turn of the loop from one publisher goes to the hub together (hub/bare.py).
"""

import asyncio
from typing import Protocol

import msgspec
from msgspec import Raw

from gateway.api.base import JSON, Api, Route
from gateway.api.dispatch import Dispatcher, admit, fault
from gateway.api.head import Request
from gateway.api.messages import take_key
from gateway.api.taken import accepted, whole, whole_problem
from gateway.auth import Principal
from gateway.commit import BareMessage
from gateway.errors import GatewayError
from gateway.model import Item, Publish
from gateway.wire import Bare

METHOD, PATH = "POST", "/v1/messages"
_TARGET = f"{METHOD} {PATH}".encode()
_JSON = JSON.encode()

_bare = msgspec.json.Decoder(Bare)
_single = msgspec.json.Decoder(Publish)


class Asker(Protocol):
    """The connection of a request under way; it has one at a time."""

    request_id: str

    def answer(self, data: bytes) -> None:
        """Write the answer, if anybody is there; the next request may come."""


class Short:
    """Takes requests, and is the sink of their messages: `ref` is the Asker."""

    __slots__ = ("_api", "_dispatcher", "_loop", "_most", "_route", "_turn")

    def __init__(self, api: Api, dispatcher: Dispatcher, route: Route) -> None:
        self._api = api
        self._dispatcher = dispatcher
        self._route = route
        self._loop = asyncio.get_running_loop()
        self._most = api.config.http.max_body_bytes
        self._turn: list[tuple[Principal, BareMessage]] = []  # what came in this turn of the loop

    def take(self, asker: Asker, request: Request, data: bytes) -> bool:
        """Publish the message of a request that is all of `data`. False: it goes the long way."""
        fields, size = request.fields, request.size
        if (
            request.target != _TARGET
            or not 0 < size <= self._most
            or request.end + size != len(data)
            or fields.get(b"content-type") != _JSON
        ):
            return False
        try:
            principal = self._api.authenticator.try_bearer(fields[b"authorization"].decode())
            if principal is None:
                return False
            admit(self._api, principal, self._route)
            message = self._message(fields, data[request.end :])
        except (KeyError, GatewayError, msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return False
        given = fields.get(b"x-request-id")
        asker.request_id = self._dispatcher.request_id(None if given is None else given.decode())
        if isinstance(message, Publish):
            self._publish(principal, message, asker)
        else:
            if not self._turn:
                self._loop.call_soon(self._publish_turn)
            self._turn.append((principal, (message.to, bytes(message.body), 0, asker)))
        return True

    def _message(self, fields: dict[bytes, bytes], body: bytes) -> Bare | Publish:
        """Raises what msgspec raises; GatewayError."""
        key = fields.get(b"idempotency-key")
        if key is None:
            try:
                return _bare.decode(body)
            except msgspec.ValidationError:
                # it has more, or is bad
                pass
        message = _single.decode(body)
        if key is not None:
            take_key(message, [key.decode()])
        return message

    def _publish_turn(self) -> None:
        turn, self._turn = self._turn, []
        at = 0
        while at < len(turn):
            principal = turn[at][0]
            messages = []
            for other, message in turn[at:]:
                if other is not principal:
                    break
                messages.append(message)
            self._publish_bare(principal, messages)
            at += len(messages)

    def _publish_bare(self, principal: Principal, messages: list[BareMessage]) -> None:
        """The short way in, and the long way for what that leaves."""
        at = 0
        while at < len(messages):
            try:
                at += self._api.hub.publish_bare(principal, messages[at:], self)
            except Exception as error:  # noqa: BLE001 - `fault` logs it
                for _, _, _, asker in messages[at:]:
                    self.refused(asker, fault(error, asker.request_id, METHOD))
                return
            if at < len(messages):
                to, body, _, asker = messages[at]
                self._publish(principal, Publish(to=to, body=Raw(body)), asker)
                at += 1

    def _publish(self, principal: Principal, message: Publish, asker: Asker) -> None:
        try:
            self._api.hub.publish(principal, message, self, asker)
        except Exception as error:  # noqa: BLE001 - `fault` logs what is none of ours
            self.refused(asker, fault(error, asker.request_id, METHOD))

    def stored(self, ref: Asker, id: int, dup: bool, status: int) -> None:
        ref.answer(whole(accepted(id, dup, status), ref.request_id))

    def stored_run(self, refs: list[Asker], items: list[Item]) -> None:
        """The same for many."""
        for ref, item in zip(refs, items, strict=True):
            ref.answer(whole(accepted(item.id, False, item.status), ref.request_id))

    def refused(self, ref: Asker, error: GatewayError) -> None:
        ref.answer(whole_problem(error, ref.request_id))
