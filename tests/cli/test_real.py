"""The commands as processes, against a real gateway."""

import asyncio
import io
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.cli import main
from gateway.client import Client
from gateway.ids import decode_id
from tests.cli.support import blocks, certificate, text

BOT_GATEWAY = [sys.executable, "-m", "gateway"]
TIMEOUT = 60.0
FREE_PORTS = {
    "BOTGW_HTTP__LISTEN": "127.0.0.1:0",
    "BOTGW_WEBSOCKET__LISTEN": "127.0.0.1:0",
    "BOTGW_MQTT__LISTEN": "127.0.0.1:0",
}


def environment(more: dict[str, str]) -> dict[str, str]:
    own = ("BOTGW_", "BOT_GATEWAY_")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)} | more


@contextmanager
def process(argv: list[str], folder: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A command under way; its end is waited for, and forced at last."""
    with subprocess.Popen(
        argv, cwd=folder, env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.send_signal(signal.SIGTERM)
                try:
                    started.communicate(timeout=TIMEOUT)
                finally:
                    started.kill()


class Done(NamedTuple):
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


class Gateway:
    """A running gateway, and commands in its folder."""

    def __init__(self, folder: Path, told: dict[str, Any]) -> None:
        self.folder = folder
        self.api: str = told["api"]
        self.websocket: str = told["websocket"]
        self.env = {"BOT_GATEWAY_API": self.api, "BOT_GATEWAY_URL": self.websocket}

    def run(self, *argv: str, stdin: str = "") -> Done:
        """A command in this process, which spares the start of another."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setattr("os.environ", environment(self.env))
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            code = main(argv)
        return Done(code, out.getvalue(), err.getvalue())

    def json(self, *argv: str) -> Any:
        """The JSON line of a command that succeeds."""
        done = self.run(*argv, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def under_way(self, *argv: str) -> Any:
        """A command in a process of its own."""
        return process([*BOT_GATEWAY, *argv], self.folder, self.env)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with process([*BOT_GATEWAY, "serve", "--json"], folder, FREE_PORTS) as serving:
        assert serving.stdout is not None
        yield Gateway(folder, json.loads(serving.stdout.readline()))


def line(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline()


def note(started: subprocess.Popen[str]) -> str:
    assert started.stderr is not None
    return started.stderr.readline()


def test_what_serve_prints_can_be_pasted(tmp_path: Path) -> None:
    with process([*BOT_GATEWAY, "serve"], tmp_path, FREE_PORTS) as serving:
        printed: list[str] = []
        while not printed or " status last" not in printed[-1]:
            printed.append(line(serving).strip())
        listen, send, status = printed[-3:]

        def paste(command: str) -> str:
            done = subprocess.run(
                ["sh", "-c", command], cwd=tmp_path, env=environment({}), capture_output=True, text=True,
                timeout=TIMEOUT, check=True,
            )  # fmt: skip
            return done.stdout

        with process(shlex.split(listen), tmp_path, {}) as listening:
            assert note(listening).startswith("listening as alice")
            id = paste(send).strip()
            assert f'{id}  api:backend  {{"text":"hello"}}' in line(listening)
            listening.send_signal(signal.SIGINT)
            out, err = listening.communicate(timeout=TIMEOUT)
            assert (listening.returncode, out, err) == (130, "", "")
        assert f"{id}  delivered via ws" in paste(status)
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=TIMEOUT)
        assert serving.returncode == 0


def test_send_listen_status(gateway: Gateway) -> None:
    sent = gateway.json("send", "carol", '{"n": 1}', "--type", "count", "--priority", "high")
    assert (sent["status"], sent["dup"]) == ("queued", False)
    assert gateway.json("status", sent["id"])["status"] == "queued"
    got = gateway.json("listen", "carol", "--once", "1")
    assert (got["id"], got["body"], got["type"], got["from"]) == (
        sent["id"],
        {"n": 1},
        "count",
        "api:backend",
    )
    # the ack left before `listen` ended; it is on disk a moment later
    for _ in range(100):
        seen = gateway.json("status", sent["id"])
        if seen["status"] == "delivered":
            break
    assert (seen["status"], seen["via"]) == ("delivered", "ws")
    assert [step["event"] for step in seen["timeline"]] == ["queued", "sent", "delivered"]
    shown = gateway.run("status", sent["id"]).stdout
    assert f"{sent['id']}  delivered via ws" in shown
    assert 'body {"n":1}' in shown


def test_a_key_makes_repeating_safe(gateway: Gateway) -> None:
    first = gateway.json("send", "dan", "hi", "--key", "k1")
    assert gateway.json("send", "dan", "hi", "--key", "k1") == first | {"dup": True}
    other = gateway.run("send", "dan", "something else", "--key", "k1")
    assert (other.returncode, other.stdout) == (1, "")
    assert other.stderr == "bot-gateway: key: another message has this key (key_conflict)\n"


def test_wait_for(gateway: Gateway) -> None:
    with gateway.under_way("listen", "erin", "--json") as listening:
        done = gateway.run("send", "erin", "-", "--wait-for", "delivered", stdin="from a pipe\n")
        assert done.returncode == 0, done.stderr
        assert "delivered via ws after" in done.stderr
        got = json.loads(line(listening))
        assert (got["id"], got["body"]) == (done.stdout.strip(), "from a pipe")
        listening.send_signal(signal.SIGTERM)
        assert listening.wait(TIMEOUT) == 143
    late = gateway.run("send", "nobody-here", "hi", "--wait-for", "delivered", "--timeout", "0.2")
    assert late.returncode == 5
    assert "not delivered within 0.2 s: queued" in late.stderr


def test_what_nobody_reads_any_more_is_not_acked(gateway: Gateway) -> None:
    with gateway.under_way("listen", "frank", "--json") as listening:
        first = gateway.json("send", "frank", "1")
        assert json.loads(line(listening))["id"] == first["id"]
        assert listening.stdout is not None
        listening.stdout.close()
        second = gateway.json("send", "frank", "2")
        assert listening.wait(TIMEOUT) == 141
        assert listening.stderr is not None
        assert listening.stderr.read() == ""
    again = gateway.json("listen", "frank", "--once", "1")
    assert (again["id"], again["redelivered"]) == (second["id"], 1)


def test_a_session_over_two_runs(gateway: Gateway) -> None:
    for n in range(3):
        gateway.json("send", "gina", str(n))
    first = gateway.json("listen", "gina", "--once", "1", "--state", "gina.state")
    rest = gateway.run("listen", "gina", "--once", "2", "--state", "gina.state")
    assert "session resumed" in rest.stderr
    assert first["body"] == 0
    assert [row.rpartition(" ")[2] for row in rest.stdout.splitlines()] == ["1", "2"]


async def reject(url: str, token: str) -> None:
    async with Client(url, token) as client:
        async for message in client.messages():
            await message.reject(why="no use")
            return


def test_dead_letters(gateway: Gateway) -> None:
    token = gateway.run("token", "harry").stdout.strip()
    dead = gateway.json("send", "harry", '{"bad": true}')["id"]
    asyncio.run(reject(gateway.websocket, token))
    while gateway.json("status", dead)["status"] != "dead":
        pass
    listed = gateway.json("dead-letters", "list", "--to", "harry")
    assert (listed["id"], listed["why"], listed["body"]) == (dead, "rejected", {"bad": True})
    assert dead in gateway.run("dead-letters", "list").stdout
    assert "no use" in gateway.run("dead-letters", "show", dead).stdout
    replayed = gateway.json("dead-letters", "replay", dead)
    assert replayed["replay_of"] == dead
    assert gateway.json("status", replayed["id"])["status"] == "queued"
    again = gateway.run("dead-letters", "replay", dead)
    assert again.returncode == 1
    assert "already_replayed" in again.stderr
    assert gateway.json("dead-letters", "delete", dead) == {"deleted": 1}
    assert gateway.run("dead-letters", "show", dead).returncode == 3


def test_clients(gateway: Gateway) -> None:
    with gateway.under_way("listen", "iris") as listening:
        assert note(listening).startswith("listening as iris")
        shown = gateway.json("clients", "show", "iris")
        assert (shown["status"], shown["via"]) == ("online", "ws")
        assert "iris" in gateway.run("clients", "list").stdout
        done = gateway.run("clients", "disconnect", "iris", "--ban", "1m")
        assert done.stdout == "iris: disconnected, banned for 60 s\n"
        assert listening.wait(TIMEOUT) == 1
        assert listening.stderr is not None
        assert "4304" in listening.stderr.read()
    assert gateway.run("clients", "show", "never-seen").returncode == 3


def test_refusals_name_the_field(gateway: Gateway) -> None:
    done = gateway.run("send", "pool:support", "hi")
    assert done.returncode == 1
    assert done.stderr.startswith("bot-gateway: to: ")
    done = gateway.run("status", "0000000000001")
    assert done.returncode == 3
    gateway.env |= {"BOT_GATEWAY_API_KEY": "backend.wrong"}
    try:
        assert gateway.run("send", "alice", "hi").returncode == 1
    finally:
        del gateway.env["BOT_GATEWAY_API_KEY"]


def test_a_second_gateway_on_the_folder_is_refused(gateway: Gateway) -> None:
    with process([*BOT_GATEWAY, "serve"], gateway.folder, FREE_PORTS) as second:
        out, err = second.communicate(timeout=TIMEOUT)
    assert (second.returncode, out) == (2, "")
    assert err.splitlines()[-1].startswith("bot-gateway: another gateway is running on data")


def test_a_port_that_is_taken(gateway: Gateway, tmp_path: Path) -> None:
    taken = FREE_PORTS | {"BOTGW_HTTP__LISTEN": gateway.api.removeprefix("http://")}
    with process([*BOT_GATEWAY, "serve"], tmp_path, taken) as second:
        out, err = second.communicate(timeout=TIMEOUT)
    assert (second.returncode, out) == (2, "")
    assert err.splitlines()[-1].startswith("bot-gateway: http.listen: ")


# -- what the documentation says ---------------------------------------------------------------------------------------


def shell(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-ec", script], cwd=folder, env=environment({}), capture_output=True, text=True, timeout=TIMEOUT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_backup_of_the_documentation(gateway: Gateway) -> None:
    sent = gateway.json("send", "judy", "keep this")
    shell(blocks("docs/operations.md", "sh")[0], gateway.folder)
    copy = gateway.folder / "backup" / "gateway.db"
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT client FROM messages WHERE id=?", (decode_id(sent["id"]),)).fetchone() == (
            "judy",
        )
    kept = gateway.folder / "backup" / "secrets.toml"
    assert kept.read_bytes() == (gateway.folder / "data" / "secrets.toml").read_bytes()
    assert {copy.stat().st_mode & 0o777, kept.stat().st_mode & 0o777} == {0o600}


def test_the_metrics_of_the_documentation(gateway: Gateway) -> None:
    with urllib.request.urlopen(f"{gateway.api}/metrics", timeout=TIMEOUT) as response:  # noqa: S310 - http
        told = set(re.findall(r"^# TYPE (\w+)", response.read().decode(), re.MULTILINE))
    for page in ("docs/operations.md", "docs/limits.md"):
        named = set(re.findall(r"`(botgw_\w+)", text(page)))
        assert named
        assert not named - told


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example is for curl")
def test_the_backend_of_the_readme(gateway: Gateway) -> None:
    (example,) = (block for block in blocks("README.md", "sh") if "curl" in block)
    answer = json.loads(shell(example.replace("http://127.0.0.1:8081", gateway.api), gateway.folder))
    seen = gateway.json("status", answer["id"])
    assert (seen["to"], seen["body"], seen["priority"]) == ("bot-7", {"text": "hello"}, "high")
    assert gateway.json("listen", "bot-7", "--once", "1")["id"] == answer["id"]


def test_the_bot_of_the_readme(gateway: Gateway) -> None:
    (source,) = blocks("README.md", "python")
    (gateway.folder / "bot.py").write_text(source.replace("ws://127.0.0.1:8080/ws", gateway.websocket))
    token = gateway.run("token", "bot-8").stdout.strip()
    with process([sys.executable, "bot.py"], gateway.folder, {"TOKEN": token}):
        sent = gateway.json("send", "bot-8", '"ping"')
        echo = gateway.json("listen", "alice", "--once", "1")
        assert (echo["from"], echo["body"]) == ("bot-8", {"echo": "ping"})
        assert gateway.run("send", "bot-8", '"ping"', "--wait-for", "delivered").returncode == 0
        assert gateway.json("status", sent["id"])["status"] == "delivered"


def test_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "gateway.example")
    files = f'listen = "127.0.0.1:0"\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
    (tmp_path / "gateway.toml").write_text(f"[http]\n{files}[websocket]\n{files}")
    named = {"BOT_GATEWAY_CONFIG": "gateway.toml"}
    with process([*BOT_GATEWAY, "serve", "--json"], tmp_path, named) as serving:
        secure = Gateway(tmp_path, json.loads(line(serving)))
        assert secure.api.startswith("https://")
        assert secure.websocket.startswith("wss://")
        secure.env |= named
        sent = secure.json("send", "alice", "hi")
        assert secure.json("listen", "alice", "--once", "1")["id"] == sent["id"]
        # nobody else's certificate is trusted
        certificate(tmp_path, "gateway.example")
        refused = secure.run("send", "alice", "hi")
        assert refused.returncode == 4
        assert "certificate" in refused.stderr
