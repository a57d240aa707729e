"""`python -m bench`: start a gateway, drive it, print what it cost, and prove that nothing was lost.

The server runs on core 0, the load on the others. Figures are of this machine and this run; the exit status is 1
where the ledger is not clean.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.pipeline import Pipeline, idle
from bench.server import Server

COLUMNS = {
    "clients": "clients", "rate": "messages/s", "cpu_us": "CPU µs/message", "server_busy": "server busy",
    "load_busy": "load busy", "p50_ms": "p50 ms", "p99_ms": "p99 ms",
}  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[10, 100, 1000], help="receiving clients, a run each"
    )
    parser.add_argument("--publishers", type=int, default=2)
    parser.add_argument("--messages", type=int, default=50_000, help="messages of a run")
    parser.add_argument("--window", type=int, default=500, help="unanswered publishes of a publisher")
    parser.add_argument("--size", type=int, default=64, help="bytes of padding in a body")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; the median is shown")
    parser.add_argument(
        "--idle", type=int, default=2000, help="idle sessions to measure memory with; 0 = none"
    )
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser.parse_args()


async def measure(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Every run with a gateway and a data folder of its own."""
    results: list[dict[str, Any]] = []
    for clients in args.clients:
        for run in range(args.runs):
            bar = progress.add_task(f"pipeline, {clients} clients, run {run + 1}", total=args.messages)
            async with Server() as server:
                pipeline = Pipeline(
                    server,
                    args.publishers,
                    clients,
                    args.messages,
                    args.window,
                    args.size,
                    _mover(progress, bar),
                )
                figures = await pipeline.run()
            progress.update(bar, completed=args.messages)
            results.append({"scenario": "pipeline", "clients": clients, "run": run, **figures})
    out: dict[str, Any] = {"machine": machine(), "settings": vars(args) | {"json": None}, "runs": results}
    if args.idle:
        bar = progress.add_task(f"idle, {args.idle} sessions", total=args.idle)
        async with Server() as server:
            out["idle"] = await idle(server, args.idle, _mover(progress, bar))
        progress.update(bar, completed=args.idle)
    return out


def _mover(progress: Progress, bar: Any) -> Callable[[int, int], None]:
    return lambda done, total: progress.update(bar, completed=done, total=total)


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
        "versions": {name: version(name) for name in ("websockets", "msgspec", "uvloop", "aiohttp")},
    }


def show(console: Console, out: dict[str, Any]) -> bool:
    """Print medians; whether every ledger is clean."""
    table = Table(title="pipeline over WebSocket frames: published → durable → delivered → acked")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    clean = True
    for clients in dict.fromkeys(r["clients"] for r in out["runs"]):
        runs = [r for r in out["runs"] if r["clients"] == clients]
        clean = clean and all(r["ledger"]["clean"] for r in runs)
        table.add_row(*(f"{statistics.median(r[key] for r in runs):g}" for key in COLUMNS))
    console.print(table)
    if "idle" in out:
        console.print(
            f"idle: {out['idle']['rss_per_session']} bytes of RSS a session ({out['idle']['sessions']} sessions)"
        )
    for run in out["runs"]:
        if not run["ledger"]["clean"]:
            console.print(f"[red]ledger: {run['ledger']}")
    console.print("ledger: clean" if clean else "[red]ledger: NOT clean: this run has failed")
    return clean


def main() -> int:
    args = arguments()
    cores = os.cpu_count() or 1
    if cores > 1:
        os.sched_setaffinity(0, set(range(1, cores)))
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        out = uvloop.run(measure(args, progress))
    clean = show(Console(), out)
    if args.json:
        args.json.write_text(json.dumps(out, indent=1) + "\n")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
