"""What README.md says to type works, and prints what it shows: against a fresh gateway on free ports."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
TIMEOUT = 60.0
FREE_PORTS = {
    "BOTGW_HTTP__LISTEN": "127.0.0.1:0",
    "BOTGW_WEBSOCKET__LISTEN": "127.0.0.1:0",
    "BOTGW_MQTT__LISTEN": "127.0.0.1:0",
}

# what is another one in every run, and what stands for it
_VOLATILE = (
    (r"\b[0-9A-HJKMNP-TV-Z]{13}\b", "ID"),
    (r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", "TRACE"),
    (r"\d{4}-\d\d-\d\d ", "DATE "),
    (r"\d\d:\d\d:\d\d(\.\d+)?", "TIME"),
    (r"\+\d+\.\d+ s", "LATER"),
    (r"127\.0\.0\.1:\d+", "HOST"),
    (r"^bot-gateway [\d.]+$", "bot-gateway VERSION"),
    # serve names the addresses where the ports are not the configured ones
    (r" --(api|url) \S+", ""),
)


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order; "" for none."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return [content for name, content in fences if name == language]


def steady(text: str) -> list[str]:
    """The lines, without what is another one in every run."""
    lines = []
    for line in text.rstrip("\n").splitlines():
        for pattern, word in _VOLATILE:
            line = re.sub(pattern, word, line)  # noqa: PLW2901 - one replacement after another
        lines.append(line.rstrip())
    return lines


def console(block: str) -> list[tuple[str, list[str]]]:
    """The commands of a block with prompts, each with the output that is shown."""
    parts = re.split(r"^\$ (.+)\n", block, flags=re.MULTILINE)
    return [(parts[i], steady(parts[i + 1])) for i in range(1, len(parts), 2)]


@contextmanager
def started(command: str, folder: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A command line under way; both outputs in one. Its end is waited for, and forced at last."""
    own = ("BOTGW_", "BOT_GATEWAY_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    with subprocess.Popen(
        ["sh", "-c", command], cwd=folder, env=clean | {"PYTHONUNBUFFERED": "1"} | env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.communicate(timeout=TIMEOUT)
                finally:
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)


class Place(NamedTuple):
    """The folder in which all commands are typed, and how they find the gateway there."""

    folder: Path
    banner: str
    api: str
    websocket: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "BOT_GATEWAY_API": self.api,
            "BOT_GATEWAY_URL": self.websocket,
            # where MQTT clients have their options
            "XDG_CONFIG_HOME": str(self.folder),
        }

    def here(self, text: str) -> str:
        """Commands or a program with the addresses of this gateway in place of the usual ones."""
        text = text.replace("http://127.0.0.1:8081", self.api)
        return text.replace("ws://127.0.0.1:8080/ws", self.websocket)

    def run(self, command: str) -> str:
        """What a command line prints. It must succeed."""
        with started(self.here(command), self.folder, self.env) as process:
            out, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, f"{command}\n{out}"
        return out


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv").symlink_to(sys.prefix)
    with started("exec .venv/bin/bot-gateway serve", folder, FREE_PORTS) as serving:
        assert serving.stdout is not None
        banner = ""
        while "status last" not in banner:
            line = serving.stdout.readline()
            assert line, banner
            # the log stands between
            banner += "" if re.match(r"\d{4}-\d\d-\d\d", line) else line
        found = re.search(r"(ws://\S+)\n.*(mqtt://\S+)\n.*(http://\S+)\n", banner)
        assert found is not None, banner
        for program in ("mosquitto_sub", "mosquitto_pub"):
            (folder / program).write_text(f"-p {urlsplit(found[2]).port}\n")
        yield Place(folder, banner, found[3], found[1])


def test_make_run_is_what_is_tested_here() -> None:
    assert blocks("sh")[0] == "make run\n"
    assert re.search(r"^run:\n(\t.*\n)*\t@exec \.venv/bin/bot-gateway serve \$\(ARGS\)$",
                     (ROOT / "Makefile").read_text(), re.MULTILINE)  # fmt: skip


def test_the_first_screen(place: Place) -> None:
    assert steady(place.banner) == steady(blocks("")[0])


def test_listen_send_status(place: Place) -> None:
    listen, others, _, _ = (console(block) for block in blocks("") if block.startswith("$ "))
    ((command, heard),) = listen
    with started(f"exec {command}", place.folder, place.env) as listener:
        assert listener.stdout is not None
        lines = [listener.stdout.readline()]
        (send, sent), (status, told) = others
        # notes and results are two streams
        assert sorted(steady(place.run(send))) == sorted(sent)
        lines += [listener.stdout.readline() for _ in heard[1:]]
        assert steady("".join(lines)) == heard
        # the ack becomes durable a moment after it was printed
        until = time.monotonic() + TIMEOUT
        while (now := steady(place.run(status))) != told and time.monotonic() < until:
            time.sleep(0.1)  # there is no event to await over a command line
        assert now == told


def test_the_device(place: Place) -> None:
    _, _, ((subscribe, heard),), ((publish, nothing),) = (
        console(block) for block in blocks("") if block.startswith("$ ")
    )
    with started(f"exec {subscribe}", place.folder, place.env) as device:
        assert device.stdout is not None
        assert steady(place.run(publish)) == nothing == []
        assert [device.stdout.readline().rstrip("\n") for _ in heard] == heard


def test_the_bot(place: Place) -> None:
    (program,) = blocks("python")
    (place.folder / "bot.py").write_text(place.here(program))
    found = re.search(r"`(TOKEN=[^`]* bot\.py)`", TEXT)
    assert found is not None
    with started(found[1], place.folder, place.env) as bot:
        assert bot.stdout is not None
        place.run(""".venv/bin/bot-gateway send bot-7 '{"text": "hi"}'""")
        assert bot.stdout.readline() == "api:backend {'text': 'hi'}\n"
        answer = place.run(".venv/bin/bot-gateway listen alice --once 1 --timeout 30 --json")
    echo = json.loads(answer.splitlines()[-1])
    assert (echo["from"], echo["body"]) == ("bot-7", {"echo": {"text": "hi"}})


def test_the_backend(place: Place) -> None:
    assert shutil.which("curl") is not None, "the examples need curl; `make test` installs it"
    (script,) = (block for block in blocks("sh") if "curl " in block)
    answer = json.loads(place.run(script.replace("curl ", "curl -fsS ")))
    assert answer.keys() == {"id", "status", "dup"}
    again = json.loads(place.run(script.replace("curl ", "curl -fsS ")))
    assert (again["id"], again["dup"]) == (answer["id"], True)


def test_the_configuration(place: Place) -> None:
    content, _ = blocks("toml")  # the second one loads: test_links.py
    (place.folder / "gateway.toml").write_text(content)
    shown = place.run(".venv/bin/bot-gateway check --config gateway.toml")
    assert "https://example.com/messages" in shown
    assert 'make run ARGS="--config gateway.toml"' in TEXT
