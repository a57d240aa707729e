"""schemathesis over /openapi.json, from a process of its own, against a server that really listens."""

import asyncio
import subprocess
import sys
from pathlib import Path

from gateway.api import ApiServer
from tests.api.double import HubDouble
from tests.api.support import ADMIN

# whether valid data is accepted also depends on what the description cannot know: which channels and keys there are
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,"
    "allow_header_conformance,ignored_auth"
)


async def test_the_server_keeps_to_its_description(server: ApiServer, hub: HubDouble, tmp_path: Path) -> None:
    # /v1/events has no end, which no client of this kind can read; its tests are in test_events.py
    arguments = [
        "run", f"http://127.0.0.1:{server.port}/openapi.json",
        "--phases", "examples,coverage,fuzzing", "--checks", CHECKS, "--max-examples", "20",
        "--generation-deterministic", "--exclude-path", "/v1/events", "--header", f"Authorization: Bearer {ADMIN}",
        "--request-timeout", "30", "--no-color",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("st"), *arguments,
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(240):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, out.decode()
    # it came through to the calls themselves
    assert len(hub.published) > 20
