"""`python -m bench`: start servers, drive them, print what it cost, and prove that nothing was lost.

A server runs on core 0, the load on the others. Each run has a server and a folder of its own; the legs are driven in
turn. Figures are of this machine and this call; the exit status is 1 where a ledger is not clean. bench/README.md tells
what each scenario is for, and how to drive a deployment of one's own (`--url`).
"""

import argparse
import json
import os
import resource
import shlex
import sys
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.harness import Deployment, Harness, Plan
from bench.legs import LEGS
from bench.scenarios import SCENARIOS
from bench.server import KINDS
from bench.summary import BUSY, Row, rows, shown, varied

# of the table, where there is no terminal to ask
WIDTH = 170


def parser() -> argparse.ArgumentParser:
    """All options; those of a scenario's parameters take several values, separated by commas, a case each."""
    out = argparse.ArgumentParser(
        prog="python -m bench", usage="%(prog)s [options] [SCENARIO ...]", description=__doc__
    )
    out.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; none: all")
    out.add_argument("--legs", nargs="+", choices=LEGS, default=[], help="what to drive; else all")
    out.add_argument("--runs", type=int, default=0, help="of each case; the median is shown")
    mode = out.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="smaller numbers, one run each: a few minutes")
    mode.add_argument("--smoke", action="store_true", help="tiny, for the ledgers only, without peers")
    out.add_argument("--rate", type=float, help="messages a second for pipeline and trickle, on a schedule")
    out.add_argument("--json", type=Path, help="write the result here")
    own = out.add_argument_group("one's own deployment")
    own.add_argument(
        "--url", action="append", default=[], help="wss://…, mqtts://…, https://…; may be repeated"
    )
    own.add_argument("--jwt-secret-file", type=Path, help="signs the clients' tokens")
    own.add_argument("--api-key-file", type=Path, help="publishes over HTTP; makes the tokens, with `admin`")
    own.add_argument("--max-clients", type=int, default=100, help="never more clients than this")
    own.add_argument("--max-rate", type=float, default=1000.0, help="never more messages a second than this")
    for scenario in SCENARIOS.values():
        group = out.add_argument_group(scenario.name, scenario.about)
        for field in msgspec.structs.fields(scenario.Parameters):
            name = f"--{scenario.name}.{field.name}"
            group.add_argument(name, metavar="N[,N…]", help=f"default {field.default}")
    return out


def plan_of(args: argparse.Namespace, fail: Any) -> Plan:
    """What the options ask for; `fail(why)` ends where they ask for nothing that there is."""
    for name in args.scenarios:
        if name not in SCENARIOS:
            fail(f"{name}: no such scenario; there are {', '.join(SCENARIOS)}")
    plan = Plan(
        args.scenarios or list(SCENARIOS),
        "smoke" if args.smoke else "quick" if args.quick else "full",
        args.legs,
        {},
        args.runs,
        deployment(args, fail),
    )
    for name, scenario in SCENARIOS.items():
        kinds = get_type_hints(scenario.Parameters)
        given = {field: getattr(args, f"{name}.{field}") for field in kinds}
        if args.rate is not None and name in {"pipeline", "trickle"}:
            given["rate"] = given["rate"] or str(args.rate)
        sweep = {}
        for field, text in given.items():
            if text is not None:
                try:
                    sweep[field] = tuple(kinds[field](one) for one in text.split(","))
                except ValueError:
                    fail(f"--{name}.{field}: {text!r} is no {kinds[field].__name__}")
        plan.options[name] = sweep
    if not any(True for _ in plan.steps()):
        fail("nothing to run: no scenario drives such a leg here")
    return plan


def deployment(args: argparse.Namespace, fail: Any) -> Deployment | None:
    """What `--url` and its companions say."""
    if not args.url:
        return None
    for url in args.url:
        if url.partition("://")[0] not in KINDS:
            fail(f"--url: {url}: must begin with one of {', '.join(KINDS)}")
    secret, key = (
        path.read_text().strip() if path is not None else ""
        for path in (args.jwt_secret_file, args.api_key_file)
    )
    found = Deployment(args.url, secret, key, args.max_clients, args.max_rate)
    if not secret and not (key and "api" in found.kinds()):
        fail("--url: tokens need --jwt-secret-file, or --api-key-file and an https:// URL")
    if "api" in found.kinds() and not key:
        fail("--url: publishing over HTTP needs --api-key-file")
    return found


def tables(found: list[Row]) -> list[Table]:
    """One for each scenario: medians, the spread of its first figure, how many targets are hit."""
    out = []
    for name in dict.fromkeys(row.scenario for row in found):
        scenario, mine = SCENARIOS[name], [row for row in found if row.scenario == name]
        keys = varied(mine)
        table = Table(title=f"{name}: {scenario.about}", title_justify="left")
        for key in keys:
            table.add_column(key, justify="right")
        table.add_column("server", no_wrap=True)
        for title in scenario.columns.values():
            table.add_column(title, justify="right")
        table.add_column("spread", justify="right")
        table.add_column("targets")
        table.add_column("ledger")
        first = next(iter(scenario.columns))
        for row in mine:
            low, high = row.spread.get(first, (0.0, 0.0))
            table.add_row(
                *(str(row.parameters[key]) for key in keys),
                LEGS[row.leg].title,
                *(_shown(key, row) for key in scenario.columns),
                f"{low:.4g}–{high:.4g}" if row.runs > 1 else "",
                _hits(row),
                "clean" if row.clean else "[red]NOT clean",
            )
        out.append(table)
    return out


def _shown(key: str, row: Row) -> str:
    text = shown(row.figures.get(key))
    return f"[yellow]{text}" if key == "load_busy" and row.figures.get(key, 0.0) > BUSY else text


def _hits(row: Row) -> str:
    known = [verdict.hit for verdict in row.targets if verdict.hit is not None]
    if not known:
        return ""
    return "[green]hit" if all(known) else f"[red]{known.count(False)} missed"


def targets(found: list[Row]) -> list[str]:
    """A line for each target of a row: what was reached, what it must be."""
    lines = []
    for row in found:
        for verdict in row.targets:
            named = verdict.target.where or [key for key in ("clients", "sessions") if key in row.parameters]
            where = " ".join(f"{key}={row.parameters[key]}" for key in named)
            said = {None: "[yellow]unknown", True: "[green]hit", False: "[red]missed"}[verdict.hit]
            lines.append(f"{said:18}[/] {row.scenario}, {LEGS[row.leg].title} {where}: {verdict.text()}")
    return lines


def show(console: Console, result: dict[str, Any]) -> bool:
    """Print the tables, what went wrong, and what to doubt; whether every ledger is clean."""
    found = rows(result)
    for table in tables(found):
        console.print(table)
    for line in targets(found):
        console.print(line, soft_wrap=True)
    for row in found:
        for fault in row.faults:
            console.print(
                f"[red]{row.scenario}, {LEGS[row.leg].title}, {row.parameters}: {fault}", soft_wrap=True
            )
        if row.figures.get("load_busy", 0.0) > BUSY:
            console.print(
                f"[yellow]{row.scenario}, {LEGS[row.leg].title}: the load generator was busy for "
                f"{row.figures['load_busy']:.0%} of the time; the server may be faster than this"
            )
    for server in result["servers"].values():
        console.print(f"{server['title']} {server['version']}: {server['promises']}", soft_wrap=True)
    for name, why in result["left_out"].items():
        console.print(f"{name} was left out: {why}")
    clean = all(row.clean for row in found)
    console.print("ledger: clean" if clean else "[red]ledger: NOT clean: this call has failed")
    return clean


def main(argv: list[str] | None = None) -> int:
    options = parser()
    args = options.parse_args(argv)
    plan = plan_of(args, options.error)
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
    ) as bars:

        def told(run: dict[str, Any]) -> None:
            if not run["ledger"]["clean"]:
                bars.console.print(f"[red]{run['scenario']}, {run['leg']}: {run['ledger']}")

        result = uvloop.run(Harness(plan, bars, told).measure())
    result["settings"]["command"] = shlex.join(["python", "-m", "bench", *(argv or sys.argv[1:])])
    output = Console()
    clean = show(output if output.is_terminal else Console(width=WIDTH), result)
    if args.json:
        args.json.write_text(json.dumps(result) + "\n")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
