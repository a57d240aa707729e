"""The examples of docs/api.md run, in their order, and every call stands there."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from gateway.api import ApiServer
from gateway.api.routes import ROUTES
from tests.api.support import ADMIN

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples use curl")
async def test_the_examples_run(server: ApiServer) -> None:
    script = "set -euo pipefail\n" + "\necho\n".join(EXAMPLES).replace("timeout 2 ", "timeout 0.2 ")
    environment = {
        "URL": f"http://127.0.0.1:{server.port}",
        "KEY": ADMIN,
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }
    bash = await asyncio.create_subprocess_exec(
        "bash", "-c", script, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await bash.communicate()
    assert bash.returncode == 0, err
    # what each example shows
    for shown in (
        b'"dup":true',
        b'"$[1].to"',
        b'"line":3',
        b'"cursor"',
        b'"cancelled"',
        b'"no_callbacks"',
        b'"ready"',
    ):
        assert shown in out


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")
def test_every_call_has_its_place(route: object) -> None:
    path = re.sub(r"\{\w+\}", '[^/ "?`]+', str(getattr(route, "path", "")))
    assert re.search(path + r"[\"?`]", TEXT)
