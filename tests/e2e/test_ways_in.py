"""Every way in takes many messages at once: those that are a body and nothing else among others, and bad ones among
both. Each has its own answer, and what is accepted arrives once, in the order in which it was published.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.process import GatewayProcess
from tests.support.raw import RawClient

COUNT = 700
ENCODE = msgspec.json.encode


def message(n: int) -> tuple[dict[str, Any], str]:
    """A message, and the code with which it is refused; "" for a good one. Runs of bare ones of every length."""
    if n % 41 == 40:
        return {"to": "pool:x", "body": n}, "address_kind_unsupported"
    if n % 53 == 52:
        return {"to": "bob", "body": n, "colour": "red"}, "invalid"
    if n % 67 == 66:
        return {"to": "x" * 81, "body": n}, "invalid"
    if n % 71 == 70:
        return {"to": "bob", "body": 10**400}, "body_invalid"
    if n % 7 == 6 or n % 29 > 25:
        return {"to": "bob", "body": n, "type": "t", "key": f"k{n}"}, ""
    return {"to": "bob", "body": n}, ""


MESSAGES = [message(n) for n in range(COUNT)]


def parts() -> Iterator[range]:
    """Of every length: those whose messages are all bare, and others."""
    at, size = 0, 1
    while at < COUNT:
        part = range(at, min(at + size, COUNT))
        yield part
        at, size = part.stop, size % 9 + 1


async def by_array(gateway: GatewayProcess) -> list[str]:
    codes: list[str] = []
    async with gateway.http() as http:
        for part in parts():
            async with http.post("/v1/messages", json=[MESSAGES[n][0] for n in part]) as answer:
                assert answer.status == 202
                codes += [result.get("code", "") for result in await answer.json()]
    return codes


async def by_lines(gateway: GatewayProcess) -> list[str]:
    lines = b"".join(
        ENCODE(m) + b"\n" if n % 100 else b"\n" + ENCODE(m) + b"\r\n" for n, (m, _) in enumerate(MESSAGES)
    )
    numbers = [n + 2 + n // 100 for n in range(COUNT)]
    headers = {"Content-Type": "application/x-ndjson"}
    async with gateway.http() as http, http.post("/v1/messages", data=lines, headers=headers) as answer:
        found = [msgspec.json.decode(line) for line in (await answer.read()).splitlines()]
    assert sorted(a["line"] for a in found) == numbers
    return [a.get("code", "") for a in sorted(found, key=lambda a: a["line"])]


async def by_frame(gateway: GatewayProcess) -> list[str]:
    alice = RawClient("alice")
    await alice.connect(gateway.ws, gateway.token("alice"))
    codes: dict[int, str] = {}
    for part in parts():
        await alice.send({"t": "pub", "m": [MESSAGES[n][0] | {"ref": n} for n in part]})
    while len(codes) < COUNT:
        frame = await alice.frame()
        if frame["t"] == "ok":
            codes |= dict.fromkeys((entry["ref"] for entry in frame["m"]), "")
        else:
            codes[frame["ref"]] = frame["code"]
    await alice.drop()
    return [codes[n] for n in range(COUNT)]


@pytest.mark.parametrize("publish", [by_array, by_lines, by_frame])
async def test_each_has_its_answer_and_arrives_in_its_place(tmp_path: Path, publish: Any) -> None:
    async with GatewayProcess(tmp_path) as gateway:
        bob = RawClient("bob")
        await bob.connect(gateway.ws, gateway.token("bob"), window=1024)
        codes = await publish(gateway)
        assert codes == [code for _, code in MESSAGES]
        good = [n for n, (_, code) in enumerate(MESSAGES) if not code]
        while len(bob.processed) < len(good):
            await bob.step()
        assert [m["body"] for m in bob.sights] == good
        assert [m.get("type") for m in bob.sights] == [MESSAGES[n][0].get("type") for n in good]
        await bob.drop()
