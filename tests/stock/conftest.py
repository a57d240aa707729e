"""One gateway for all tests of a process that leave it alone, and one behind a broker; each has devices of its own."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.mosquitto.rig import Broker, running
from tests.stock.door import Behind, Door, Endpoint, link_to
from tests.stock.process import SPARES
from tests.stock.programs import Program
from tests.stock.steps import PROGRAMS, VERSIONS
from tests.support.hook import SECRET, Receiver
from tests.support.process import GatewayProcess

# no retry of a test's own: what is not acked is not sent again while a connection stands
CONFIG = """
[session]
ack_wait = 60
[channels.hook]
kind = "webhook"
url = "{url}"
secret = "{secret}"
allow_private = true
"""


@pytest_asyncio.fixture(scope="session", loop_scope="session", autouse=True)
async def _spares() -> AsyncIterator[None]:
    yield
    await SPARES.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    """Of the channel `hook`, which no message takes that does not name it."""
    async with Receiver(lambda _data, _n: 204) as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def endpoint(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> AsyncIterator[Endpoint]:
    config = CONFIG.format(url=receiver.url, secret=SECRET)
    async with GatewayProcess(tmp_path_factory.mktemp("stock"), config) as gateway, gateway.http() as http:
        yield Endpoint(gateway, http)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(tmp_path_factory.mktemp("broker") / "mosquitto") as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def behind(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, broker: Broker
) -> AsyncIterator[Behind]:
    config = CONFIG.format(url=receiver.url, secret=SECRET) + link_to(broker)
    async with (
        GatewayProcess(tmp_path_factory.mktemp("behind"), config) as gateway,
        gateway.http() as http,
    ):
        door = Behind(gateway, http, broker)
        await door.ready()
        yield door


@pytest.fixture(params=["endpoint", "broker"])
def door(request: pytest.FixtureRequest) -> Door:
    found: Door = request.getfixturevalue("endpoint" if request.param == "endpoint" else "behind")
    return found


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Program:
    found: Program = request.param
    return found


@pytest.fixture(params=VERSIONS, ids=["3.1.1", "5"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)
