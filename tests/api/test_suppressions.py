"""Suppressions and the audit log over HTTP, against a real store."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.process import GatewayProcess

CONFIG = """
[channels.mail]
kind = "sendgrid"
api_key = "SG.0123456789"
sender = "ops@example.org"
"""


class Api:
    def __init__(self, gateway: GatewayProcess, http: aiohttp.ClientSession) -> None:
        self._gateway = gateway
        self._http = http

    async def __call__(
        self, method: str, path: str, body: Any = None, *, csv: str | None = None
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self._gateway.key}"}
        data: dict[str, Any] = {"json": body} if body is not None else {}
        if csv is not None:
            headers["Content-Type"] = "text/csv"
            data = {"data": csv.encode()}
        async with self._http.request(method, self._gateway.api + path, headers=headers, **data) as reply:
            text = await reply.text()
            return reply.status, await reply.json(content_type=None) if text[:1] in {"{", "["} else text


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with GatewayProcess(tmp_path, CONFIG) as gateway, aiohttp.ClientSession() as http:
        yield Api(gateway, http)


async def test_written_read_and_taken_back(api: Api) -> None:
    one = {"address": "Ada@Example.org", "channel": "mail", "why": "bounced"}
    assert await api("PUT", "/v1/suppressions", one) == (200, {"written": 1})
    many = [{"address": "+49 1511 2345678"}, {"address": "bob@example.org", "category": "news"}]
    assert await api("PUT", "/v1/suppressions", many) == (200, {"written": 2})
    _, page = await api("GET", "/v1/suppressions?limit=2")
    assert [(s["address"], s["channel"], s["category"], s["why"]) for s in page["suppressions"]] == [
        ("+4915112345678", "*", "*", "manual"),
        ("Ada@example.org", "mail", "*", "bounced"),
    ]
    _, rest = await api("GET", f"/v1/suppressions?limit=2&after={page['after'].replace('|', '%7C')}")
    assert [s["address"] for s in rest["suppressions"]] == ["bob@example.org"]
    assert "after" not in rest
    _, found = await api("GET", "/v1/suppressions?address=Ada@example.org")
    assert [s["by"] for s in found["suppressions"]] == ["api:backend"]
    assert await api("DELETE", "/v1/suppressions?address=Ada@example.org&channel=sms") == (
        200,
        {"deleted": 0},
    )
    assert await api("DELETE", "/v1/suppressions?address=Ada@example.org&channel=mail") == (
        200,
        {"deleted": 1},
    )
    _, log = await api("GET", "/v1/audit?limit=2")
    assert [e["act"] for e in log["entries"]] == ["suppressions.delete", "suppressions.delete"]
    _, log = await api("GET", f"/v1/audit?before={log['before']}")
    assert [(e["act"], e["data"]["count"]) for e in log["entries"]] == [
        ("suppressions.put", 2),
        ("suppressions.put", 1),
    ]


async def test_what_is_exported_can_be_imported(api: Api) -> None:
    lines = "address,channel,category,why\r\nada@example.org,mail,*,complaint\r\n+4915112345678,*,news,opted_out\r\n"
    assert await api("PUT", "/v1/suppressions", csv=lines) == (200, {"written": 2})
    status, text = await api("GET", "/v1/suppressions?format=csv")
    assert status == 200
    head, *rows = text.splitlines()
    assert head == "address,channel,category,why,at,by"
    assert [row.split(",")[:4] for row in rows] == [
        ["+4915112345678", "*", "news", "opted_out"],
        ["ada@example.org", "mail", "*", "complaint"],
    ]
    assert await api("DELETE", "/v1/suppressions?address=ada@example.org") == (200, {"deleted": 1})
    assert await api("PUT", "/v1/suppressions", csv="\ufeff" + text) == (200, {"written": 2})
    assert len((await api("GET", "/v1/suppressions"))[1]["suppressions"]) == 2


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"address": "ada", "channel": "mail"}, "address_invalid", "$.address"),
        ([{"address": "a@b.cd"}, {"address": "+1"}], "address_invalid", "$[1].address"),
        ({"address": "a@b.cd", "channel": "fax"}, "channel_unknown", "$.channel"),
        ({"address": "a@b.cd", "why": "tired"}, "invalid", "$.why"),
        ("address,why\na@b.cd,tired\n", "invalid", "$[1].why"),
        ("address,why\na@b.cd\n", "invalid", "$[1]"),
        ("address,x\na@b.cd,1\n", "invalid", "$[0]"),
        ("", "invalid", "$[0]"),
        ('address\n"a@b.cd\n', "invalid", "$[1]"),
    ],
)
async def test_what_is_refused_names_its_place_and_writes_nothing(
    api: Api, body: Any, code: str, field: str
) -> None:
    given: dict[str, Any] = {"csv": body} if isinstance(body, str) else {"body": body}
    status, problem = await api("PUT", "/v1/suppressions", **given)
    assert (status, problem["code"], problem.get("field")) == (422, code, field)
    assert (await api("GET", "/v1/suppressions"))[1] == {"suppressions": []}


async def test_what_a_spreadsheet_would_take_for_a_formula_comes_back_as_it_was(api: Api) -> None:
    assert await api("PUT", "/v1/suppressions", {"address": "@ada"}) == (200, {"written": 1})
    _, text = await api("GET", "/v1/suppressions?format=csv")
    assert text.splitlines()[1].startswith("'@ada,")
    assert (await api("PUT", "/v1/suppressions", csv=text))[0] == 200
    assert [s["address"] for s in (await api("GET", "/v1/suppressions"))[1]["suppressions"]] == ["@ada"]


async def test_an_address_is_found_in_whatever_form_it_is_asked_for(api: Api) -> None:
    await api("PUT", "/v1/suppressions", [{"address": "+4915112345678"}, {"address": "Ada@Example.org"}])
    for asked in ("+4915112345678", "%2B49%20(0)%201511%202345678", "Ada@EXAMPLE.org"):
        assert len((await api("GET", f"/v1/suppressions?address={asked}"))[1]["suppressions"]) == 1
    assert await api("DELETE", "/v1/suppressions?address=+4915112345678") == (200, {"deleted": 1})


async def test_too_many_rows_at_once(api: Api) -> None:
    body = [{"address": "a@b.cd"}] * 10_001
    status, problem = await api("PUT", "/v1/suppressions", body)
    assert (status, problem["code"]) == (413, "batch_too_large")
