"""`python -m bench`: start servers, drive them, print what a message cost, and prove that nothing was lost.

The server runs on core 0, the load on the others. Each round drives each leg once, with a server and a folder of its
own: WebSocket and MQTT at the gateway, the same MQTT devices at Mosquitto. Figures are of this machine and this run;
the exit status is 1 where a ledger is not clean.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import mosquitto, mqttload, wsload
from bench.pipeline import Pipeline, idle
from bench.server import Gateway, Server
from bench.summary import LEGS, medians, missed

COLUMNS = {
    "rate": "messages/s", "cpu_us": "CPU µs/message", "server_busy": "busy", "p50_ms": "p50 ms", "p99_ms": "p99 ms",
    "load_us": "load µs/message", "load_busy": "load busy",
}  # fmt: skip
# of the table, where there is no terminal to ask
WIDTH = 140
# the default of limits.max_window
MAX_WINDOW = 1024

Moved = Callable[[int, int], None]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--legs", nargs="+", choices=LEGS, default=list(LEGS), help="what to drive")
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[10, 100, 1000], help="receiving clients, a run each"
    )
    parser.add_argument("--publishers", type=int, default=2)
    parser.add_argument("--messages", type=int, default=50_000, help="messages of a run")
    parser.add_argument(
        "--window",
        type=int,
        default=500,
        help=f"unanswered publishes of a publisher, unacked messages of a device; at most {MAX_WINDOW}",
    )
    parser.add_argument("--size", type=int, default=64, help="bytes of padding in a body")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; the median is shown")
    parser.add_argument("--mqtt", choices=["3.1.1", "5"], default="3.1.1", help="the devices' version")
    parser.add_argument(
        "--idle", type=int, default=2000, help="idle sessions to measure memory with; 0 = none"
    )
    parser.add_argument("--json", type=Path, help="write the result here")
    args = parser.parse_args()
    if not 0 < args.window <= MAX_WINDOW:
        parser.error(f"--window: 1 to {MAX_WINDOW}")
    return args


class Bench:
    """All runs of one call."""

    def __init__(self, args: argparse.Namespace, progress: Progress) -> None:
        self.args = args
        self.progress = progress
        self.mqtt = mqttload.Mqtt5Pipeline if args.mqtt == "5" else mqttload.MqttPipeline

    async def measure(self) -> dict[str, Any]:
        """Every run with a server of its own, the legs in turn, so that what else the machine does meets all."""
        args = self.args
        runs = [
            await self._run(leg, clients, run)
            for clients in args.clients
            for run in range(args.runs)
            for leg in args.legs
        ]
        found = {leg: await self._idle(leg) for leg in args.legs} if args.idle else {}
        settings = vars(args) | {"json": None}
        return {"machine": machine(), "settings": settings, "runs": runs, "idle": found}

    def _server(self, leg: str) -> Server:
        return (mosquitto.Mosquitto if leg == "mosquitto" else Gateway)(self.args.window)

    async def _run(self, leg: str, clients: int, run: int) -> dict[str, Any]:
        args = self.args
        kind: type[Pipeline] = wsload.WebSocketPipeline if leg == "websocket" else self.mqtt
        bar, moved = self._bar(f"{LEGS[leg]}, {clients} clients, run {run + 1}", args.messages)
        async with self._server(leg) as server:
            figures = await kind(server, args.publishers, clients, args.messages, args.size, moved).run()
        self.progress.update(bar, completed=args.messages)
        return {"leg": leg, "clients": clients, "run": run, **figures}

    async def _idle(self, leg: str) -> dict[str, Any]:
        sessions = self.args.idle
        bar, moved = self._bar(f"{LEGS[leg]}, {sessions} idle sessions", sessions)
        async with self._server(leg) as server:

            async def connect(name: str) -> asyncio.BaseTransport:
                if isinstance(server, Gateway) and leg == "websocket":
                    return await wsload.connect_idle(server, name)
                return await mqttload.connect_idle(self.mqtt.version, server, name)

            found = await idle(server, connect, sessions, moved)
        self.progress.update(bar, completed=sessions)
        return found

    def _bar(self, what: str, total: int) -> tuple[Any, Moved]:
        bar = self.progress.add_task(what, total=total)
        return bar, lambda done, total: self.progress.update(bar, completed=done, total=total)


def machine() -> dict[str, Any]:
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("websockets", "msgspec", "uvloop", "aiohttp")}
        | {"mosquitto": mosquitto.version() or "none"},
    }


def show(console: Console, out: dict[str, Any]) -> bool:
    """Print medians; whether every ledger is clean."""
    table = Table(title=f"published → durable → delivered → acked; MQTT {out['settings']['mqtt']} at QoS 1")
    for title in ("clients", "server"):
        table.add_column(title, no_wrap=True)
    for title in (*COLUMNS.values(), "of Mosquitto's", "target"):
        table.add_column(title, justify="right")
    rows = medians(out)
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        table.add_row(
            str(row["clients"]),
            LEGS[row["leg"]],
            *(f"{row[key]:g}" for key in COLUMNS),
            f"[red]{ratio}" if missed(row) else ratio,
            "" if row["target"] is None else f"≤ {row['target']:g}",
        )
    console.print(table)
    for leg, found in out["idle"].items():
        console.print(
            f"{LEGS[leg]}: {found['rss_per_session']} bytes of RSS an idle session "
            f"({found['sessions']} sessions)"
        )
    for run in out["runs"]:
        if not run["ledger"]["clean"]:
            console.print(f"[red]{LEGS[run['leg']]}, {run['clients']} clients: {run['ledger']}")
    clean = all(row["clean"] for row in rows)
    console.print("ledger: clean" if clean else "[red]ledger: NOT clean: this run has failed")
    return clean


def main() -> int:
    args = arguments()
    cores = os.cpu_count() or 1
    if cores > 1:
        os.sched_setaffinity(0, set(range(1, cores)))
    # a socket for each client here, and as many in a server
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        out = uvloop.run(Bench(args, progress).measure())
    output = Console()
    clean = show(output if output.is_terminal else Console(width=WIDTH), out)
    if args.json:
        args.json.write_text(json.dumps(out, indent=1) + "\n")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
