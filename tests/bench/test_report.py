"""The page and its plots: what they show of a result, and that they say what is missed."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench.legs import LEGS
from bench.plots import draw
from bench.report import Call, main, page
from bench.scenarios import SCENARIOS
from bench.summary import rows
from tests.bench.test_smoke import ROOT, bench

SVG = "{http://www.w3.org/2000/svg}"
LARGEST = 60_000
COMMAND = (
    "python -m bench pipeline idle stored crowd drain storm --legs websocket mosquitto nats --runs 2 "
    "--pipeline.clients 10,100 --idle.sessions 100,0 --json /somewhere/result.json"
)


def run(
    scenario: str, leg: str, figures: dict[str, Any], index: int = 0, **parameters: Any
) -> dict[str, Any]:
    """A run that was clean."""
    defaults = SCENARIOS[scenario].Parameters
    asked = {field: getattr(defaults(), field) for field in defaults.__struct_fields__} | parameters
    head = {"scenario": scenario, "leg": leg, "parameters": asked, "run": index}
    return head | figures | {"ledger": {"clean": True}}


def server(title: str, configuration: str, promises: str) -> dict[str, str]:
    return {"title": title, "version": "1.2", "configuration": configuration, "promises": promises}


def recorded() -> dict[str, Any]:
    """A result as `--json` writes it, with round figures."""
    runs = []
    for clients, index in itertools.product((10, 100), (0, 1)):
        for leg, cpu in (("websocket", 20.0), ("mosquitto", 25.0), ("nats", 50.0)):
            latency = {f"half_p{share}_ms": 4.0 * at for at, share in enumerate((50, 90, 99, 999), 1)}
            figures = {"cpu_us": cpu + index * clients / 10, "rate": 100_000 // clients, **latency}
            runs.append(run("pipeline", leg, figures, index, clients=clients))
    for sessions, held in ((100, 100), (0, 19_700)):
        figures = {"rss_per_session": 6000 + held / 10, "sessions": held}
        runs.append(run("idle", "websocket", figures, sessions=sessions))
    for stored, cpu in ((1000, 10.0), (10_000, 14.0), (100_000, 11.0)):
        runs.append(run("stored", "websocket", {"cpu_us": cpu}, stored=stored))
    runs += [run("crowd", "websocket", {"cpu_us": 9.0}, sessions=sessions) for sessions in (10, 100)]
    runs += [run("drain", "websocket", {"rss_per_session": n}, backlog=n) for n in (0, 10, 1000)]
    lost = run("storm", "websocket", {"back_s": 2.5, "lag_p99_ms": 50.0})
    lost["ledger"] = {"published": 9, "lost": 3, "faults": {"gap": 1}, "clean": False}
    runs.append(lost)
    return {
        "machine": {"cpu": "a CPU", "cores": 2, "kernel": "6.1", "python": "3.11.7", "fdatasync_p99_ms": 0.5},
        "versions": {"uvloop": "0.21"},
        "settings": {"mode": "full", "scenarios": [], "command": COMMAND},
        "runs": runs,
        "servers": {
            "websocket": server("gateway, WebSocket", "BOTGW_A=1", "synced"),
            "mosquitto": server(
                "mosquitto", "persistence_location /somewhere/botgw-bench-x_1/\n", "nothing synced"
            ),
        },
        "left_out": {"nats-sync": "too old"},
    }


def cells(text: str, *words: str) -> list[str]:
    """Of the one row of a table that begins with these cells."""
    head = f"| {' | '.join(words)} |"
    [line] = [line for line in text.splitlines() if line.startswith(head)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_shows_every_scenario_with_its_command(tmp_path: Path) -> None:
    text = page([recorded()], tmp_path / "page.md")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        "Targets", "How to read the tables", "pipeline", "idle", "storm", "stored", "crowd", "drain", "Configuration",
    ]  # fmt: skip
    assert "/somewhere" not in text
    assert "\n    python -m bench idle --legs websocket mosquitto --runs 2 --idle.sessions 100,0\n" in text
    assert "\n    python -m bench storm --legs websocket mosquitto --runs 2\n" in text
    assert cells(text, "100", "gateway, WebSocket", "25")[3:5] == ["0.83", "1000"]
    assert cells(text, "100", "gateway, WebSocket", "25")[-4:] == ["20–30", "2", "2 missed", "clean"]
    # as many as there are sockets
    assert cells(text, "19,700", "gateway, WebSocket")[2] == "7970"
    assert "<folder>/" in text
    for plot in ("throughput", "cpu", "latency", "memory", "stored", "crowd", "backlog"):
        assert f"](page/{plot}.svg)" in text
        assert (tmp_path / f"page/{plot}.svg").exists()


def test_what_is_missed_stands_first_and_what_failed_is_told(tmp_path: Path) -> None:
    text = page([recorded()], tmp_path / "page.md")
    verdicts = [
        line.split(" | ") for line in text.splitlines() if line.startswith(("| **missed** |", "| met |"))
    ]
    assert [verdict[0] for verdict in verdicts] == sorted(verdict[0] for verdict in verdicts)
    assert "8 of 12 are met, 4 missed." in text
    flat = [verdict[3:] for verdict in verdicts if verdict[1] == "stored"]
    assert flat == [["all stored", "CPU µs/message 1.4", "≤ 1.25 × the smallest |"]]
    assert "- gateway, WebSocket, its only case: published 9, lost 3, gap 1" in text
    assert cells(text, "gateway, WebSocket", "2.5")[-1] == "**NOT clean**"


def test_the_hand_written_page_is_named_where_there_is_one(tmp_path: Path) -> None:
    assert "performance-notes.md" not in page([recorded()], tmp_path / "page.md")
    (tmp_path / "performance-notes.md").touch()
    assert "[performance-notes.md](performance-notes.md)" in page([recorded()], tmp_path / "page.md")


def test_several_results_make_one_page(tmp_path: Path) -> None:
    first, second = recorded(), recorded()
    first["runs"] = [one for one in first["runs"] if one["scenario"] == "pipeline"]
    second["runs"] = [one for one in second["runs"] if one["scenario"] != "idle"]
    second["settings"]["command"] = "python -m bench --quick --json=b.json"
    second["machine"]["fdatasync_p99_ms"] = 0.75
    text = page([first, second], tmp_path / "page.md")
    assert "\n    python -m bench --quick\n" in text
    assert "0.5 / 0.75 ms" in text
    # each table has the command that made it
    pipeline = text[text.index("## pipeline") : text.index("## storm")]
    assert pipeline.count("| clients | server |") == 2
    assert "\n    python -m bench pipeline --quick\n" in pipeline
    assert "## idle" not in text


def test_a_command_of_an_earlier_version_is_shown_whole() -> None:
    result = recorded()
    result["settings"]["command"] = "python -m bench pipeline --no-longer-there 3 --json a.json"
    call = Call(result, rows(result))
    assert call.command_of("pipeline") == "python -m bench pipeline --no-longer-there 3"


def test_plots_are_the_same_for_the_same_result_and_small_and_white(tmp_path: Path) -> None:
    found = rows(recorded())
    drawn = draw(found, tmp_path / "a")
    assert {plot.scenario for plot in drawn} == {"pipeline", "idle", "stored", "crowd", "drain"}
    draw(found, tmp_path / "b")
    for plot in drawn:
        written = plot.file.read_bytes()
        assert written == (tmp_path / "b" / plot.file.name).read_bytes()
        assert len(written) < LARGEST
        assert b"dc:date" not in written
        tree = ET.fromstring(written)  # noqa: S314 - our own file
        [ground] = tree.findall(f".//{SVG}g[@id='patch_1']/{SVG}path")
        assert "fill: #ffffff" in ground.attrib["style"]
        texts = ["".join(text.itertext()) for text in tree.iter(f"{SVG}text")]
        assert "gateway, WebSocket" in texts, plot.file


@pytest.mark.parametrize(
    ("plot", "levels"),
    [("memory", 1), ("stored", 1), ("cpu", 1), ("throughput", 1), ("backlog", 1), ("crowd", 1)],
)
def test_targets_are_drawn(tmp_path: Path, plot: str, levels: int) -> None:
    draw(rows(recorded()), tmp_path)
    tree = ET.parse(tmp_path / f"{plot}.svg")  # noqa: S314 - our own file
    broken = [line for line in tree.iter(f"{SVG}path") if "stroke-dasharray" in line.attrib.get("style", "")]
    # and one in the legend
    assert len(broken) == levels + 1


def test_nothing_is_drawn_of_what_was_not_measured(tmp_path: Path) -> None:
    result = recorded()
    result["runs"] = [one for one in result["runs"] if one["scenario"] == "storm"]
    assert draw(rows(result), tmp_path) == []
    assert "![" not in page([result], tmp_path / "page.md")


def test_a_real_result_with_a_peer(tmp_path: Path) -> None:
    """Its configuration is known when it has started: noted before, it was empty."""
    if missing := LEGS["mosquitto"].missing():
        pytest.skip(missing)
    done = bench(tmp_path, "pipeline", "--smoke", "--legs", "mosquitto", "--json", "result.json")
    assert done.returncode == 0, done.stdout + done.stderr
    made = bench(tmp_path, "result.json", "--out", "page.md", module=("bench.report",))
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "page.md").read_text()
    promised, measured = [line for line in text.splitlines() if line.startswith("| mosquitto |")]
    assert "nothing is on disk" in promised
    assert measured.endswith("| clean |")
    assert "persistence true" in text
    assert str(tmp_path) not in text


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as asked:
        main(["--help"])
    assert asked.value.code == 0
    assert "--out" in capsys.readouterr().out
    with pytest.raises(SystemExit) as wrong:
        main([str(tmp_path / "result.json")])
    assert wrong.value.code == 2
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for field in ("--stored.pending", "--crowd.sessions", "--drain.warm"):
        assert field in done.stdout
