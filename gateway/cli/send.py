"""`send`: one message, and on request what becomes of it."""

import argparse
import asyncio
import sys
from typing import Any

import msgspec
from msgspec import Raw

from gateway.cli.api import Api, run
from gateway.cli.exits import Exit, Failure
from gateway.cli.output import Output, span
from gateway.cli.serve import program
from gateway.cli.shapes import Accepted, Message
from gateway.cli.where import Where

# the most that any gateway can be configured to take
MAX_BODY = 16 * 1024 * 1024
# between two looks at a message that is waited for, in seconds
FIRST_LOOK, LAST_LOOK = 0.02, 0.5

# Steps that show that what is waited for has happened; `end` is any end
_REACHED = {
    "sent": {"sent", "delivered", "read"},
    "delivered": {"delivered", "read"},
    "read": {"read"},
    "handed_over": {"handed_over"},
    "provider_accepted": {"provider_accepted", "provider_delivered", "provider_read"},
    "provider_delivered": {"provider_delivered", "provider_read"},
}
_ARRIVED = frozenset(("delivered", "read", "provider_delivered", "provider_read"))
_ENDS = _ARRIVED | {"expired", "cancelled", "dead"}
# a delivered message can still be read
_LAST = {"read": _ENDS - {"delivered"}}


def send(options: argparse.Namespace) -> int:
    """Prints the id, the rest goes to stderr."""
    return run(_send(options, message(options)))


def message(options: argparse.Namespace) -> dict[str, Any]:
    """The message as the API takes it. Raises Failure for a body that cannot be one."""
    fields = {
        "priority": options.priority,
        "ttl": options.ttl,
        "deadline": options.deadline,
        "deliver_at": options.deliver_at,
        "type": options.type,
        "key": options.key,
        "collapse": options.collapse,
        "fallback": options.fallback,
        "meta": dict(options.meta) if options.meta else None,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return {"to": options.to, "body": body(options.body, text=options.text), **given}


def body(given: str, *, text: bool) -> Raw:
    """JSON where it is JSON, else text. What begins like JSON must be it, so that a slip does not travel as text."""
    if given == "-":
        given = _standard_input()
    if text:
        return Raw(_encoded(given))
    try:
        msgspec.json.decode(given)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        if given.lstrip().startswith(("{", "[", '"')):
            raise Failure(
                Exit.USAGE, f"begins like JSON, but {error}; --text sends it as text", field="BODY"
            ) from None
        return Raw(_encoded(given))
    return Raw(given.encode())


def _encoded(text: str) -> bytes:
    try:
        return msgspec.json.encode(text)
    except UnicodeEncodeError:
        raise Failure(Exit.USAGE, "is not UTF-8", field="BODY") from None


def _standard_input() -> str:
    data = sys.stdin.buffer.read(MAX_BODY + 1)
    if len(data) > MAX_BODY:
        raise Failure(Exit.USAGE, f"standard input has over {MAX_BODY} bytes", field="BODY")
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise Failure(Exit.USAGE, "standard input is not UTF-8", field="BODY") from None


async def _send(options: argparse.Namespace, what: dict[str, Any]) -> int:
    out = Output(json=options.json)
    where = Where(options)
    async with Api(where, "publish") as api:
        try:
            raw = await api.call("POST", "/v1/messages", body=what)
        except Failure as failure:
            if failure.uncertain:
                again = "the same --key" if options.key else "a --key, and then the same again,"
                failure.detail += f"; it may have been accepted: {again} makes repeating safe"
            raise
        accepted = api.read(raw, Accepted)
        if out.json:
            out.line(raw)
        else:
            out.plain(accepted.id)
            known = "known already, " if accepted.dup else ""
            out.note(
                f"{known}{accepted.status}; what becomes of it: {program()} status {accepted.id}{where.again}"
            )
        if options.wait_for is None:
            return Exit.OK
        return await _wait(api, out, accepted.id, options.wait_for, options.timeout)


async def _wait(api: Api, out: Output, id: str, wanted: str, timeout: float) -> int:
    """Look until it has happened, cannot happen any more, or the time is over. A gateway that is away may come back."""
    last = "queued"
    pause = FIRST_LOOK
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    raw, seen = await api.get(f"/v1/messages/{id}", Message)
                    last = seen.status
                    code = outcome(seen, wanted)
                    if code is not None:
                        return _told(out, raw, seen, wanted, code)
                except Failure as failure:
                    if failure.exit_code not in {Exit.UNREACHABLE, Exit.TIMED_OUT, Exit.LATER}:
                        raise
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, LAST_LOOK)
    except TimeoutError:
        raise Failure(Exit.TIMED_OUT, f"not {wanted} within {timeout:g} s: {last}", field=id) from None


def outcome(seen: Message, wanted: str) -> Exit | None:
    """OK: it has happened. FAILED: it cannot any more. None: look again."""
    if wanted == "end":
        # nothing more is tried, and nothing is proven
        unproven = seen.status == "provider_accepted" and seen.chain is None
        if seen.status not in _ENDS and not unproven:
            return None
        return Exit.OK if seen.status in _ARRIVED else Exit.FAILED
    if not _REACHED[wanted].isdisjoint({seen.status, *(step.event for step in seen.timeline)}):
        return Exit.OK
    return Exit.FAILED if seen.status in _LAST.get(wanted, _ENDS) else None


def _told(out: Output, raw: Raw, seen: Message, wanted: str, code: Exit) -> int:
    if out.json:
        out.line(raw)
        return code
    way = seen.status + (f" via {seen.via}" if seen.via else "")
    if code is Exit.OK:
        out.note(f"{way} after {span(seen.status_at - seen.at)}")
        return code
    raise Failure(code, f"not {wanted}: {way}" + (f", {seen.why}" if seen.why else ""), field=seen.id)
