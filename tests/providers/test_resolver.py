import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.providers.resolver import AddressRefused, CheckedResolver, system_lookup

PUBLIC, PUBLIC_6, PRIVATE = "93.184.215.14", "2606:4700::1111", "10.1.2.3"


def knowing(*addresses: str, allow_private: bool = False) -> CheckedResolver:
    async def lookup(host: str, port: int) -> list[str]:
        return list(addresses)

    return CheckedResolver(lookup, allow_private)


async def test_public_addresses_come_back_in_order_to_be_connected_to() -> None:
    found = await knowing(PUBLIC_6, PUBLIC).resolve("hook.example", 443)
    assert [(entry["hostname"], entry["host"], entry["port"]) for entry in found] == [
        ("hook.example", PUBLIC_6, 443),
        ("hook.example", PUBLIC, 443),
    ]
    assert all(entry["flags"] & socket.AI_NUMERICHOST for entry in found)


@pytest.mark.parametrize(
    "addresses", [(PRIVATE,), (PUBLIC, PRIVATE), (PRIVATE, PUBLIC_6), (PUBLIC, "::ffff:10.1.2.3")]
)
async def test_one_address_that_is_not_public_refuses_the_name(addresses: tuple[str, ...]) -> None:
    with pytest.raises(AddressRefused):
        await knowing(*addresses).resolve("hook.example", 443)
    found = await knowing(*addresses, allow_private=True).resolve("hook.example", 443)
    assert [entry["host"] for entry in found] == list(addresses)


@pytest.mark.parametrize("allow_private", [False, True])
async def test_a_name_without_addresses(allow_private: bool) -> None:
    with pytest.raises(OSError, match="no address"):
        await knowing(allow_private=allow_private).resolve("hook.example", 443)


async def test_this_machine_by_its_name() -> None:
    assert "127.0.0.1" in await system_lookup("localhost", 80)


async def test_each_address_once_and_link_local_ones_with_their_scope(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        v4: tuple[Any, ...] = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))
        v6: tuple[Any, ...] = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 80, 0, 3))
        return [v6, v4, v4, (*v6[:4], ("::1", 80, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await system_lookup("hook.example", 80) == ["fe80::1%3", "127.0.0.1", "::1"]


async def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(socket.gaierror):
        await system_lookup("hook.example", 80)


async def test_what_cannot_be_a_name() -> None:
    with pytest.raises(OSError, match="not a name"):
        await system_lookup("a" * 64 + ".example", 80)


class Stuck:
    """A name server that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.release = threading.Event()

    def __call__(self, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        self.asked.set()
        self.release.wait()
        return []


def lookups() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lookup of")]


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    name_server = Stuck()
    monkeypatch.setattr(socket, "getaddrinfo", name_server)
    yield name_server
    name_server.release.set()


async def test_a_lookup_nobody_waits_for_any_more(stuck: Stuck, reported: list[dict[str, Any]]) -> None:
    lookup = asyncio.ensure_future(system_lookup("hook.example", 80))
    await asyncio.to_thread(stuck.asked.wait)
    lookup.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lookup
    (thread,) = lookups()
    stuck.release.set()
    await asyncio.to_thread(thread.join)
    assert reported == []


def test_a_lookup_that_outlives_its_loop(stuck: Stuck) -> None:
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await system_lookup("hook.example", 80)

    asyncio.run(give_up())
    (thread,) = lookups()
    assert thread.daemon
    stuck.release.set()
    thread.join()
