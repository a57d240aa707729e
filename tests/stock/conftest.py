"""One gateway for all tests of a process that leave it alone; each has clients of its own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.stock.door import Endpoint
from tests.stock.programs import Program
from tests.stock.steps import PROGRAMS, VERSIONS
from tests.support.process import GatewayProcess

# no retry of a test's own: what is not acked is not sent again while a connection stands
CONFIG = """
[session]
ack_wait = 60
"""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def endpoint(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoint]:
    async with GatewayProcess(tmp_path_factory.mktemp("stock"), CONFIG) as gateway, gateway.http() as http:
        yield Endpoint(gateway, http)


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Program:
    found: Program = request.param
    return found


@pytest.fixture(params=VERSIONS, ids=["3.1.1", "5"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)
