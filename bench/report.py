"""`python -m bench.report result.json … --out docs/performance.md`: the page and its plots, made from results, never by
hand.

The plots go into a folder beside the page that has its name. Several results make one page: each table says which
command makes it. Targets that are shares of a peer's figure are told within one result only.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.__main__ import parser
from bench.legs import GATEWAY, LEGS
from bench.plots import Drawn, draw
from bench.scenarios import SCENARIOS
from bench.summary import PEER, Row, ratio_to, rows, shown, varied

# beside the page, where somebody has written it: why a target is missed, by profiles
NOTES = "performance-notes.md"
# a folder of a server: another one at each start
FOLDER = re.compile(r"[^\s\"']*botgw-bench-\w+")

PAGE = """# Performance

Figures of one machine, written by `python -m bench.report` from the results of these calls:

{calls}

They say what a message costs all processes of a server (user and system time) on its way published → durable →
delivered → acked; [bench/README.md](../bench/README.md) tells how that is measured, and what each scenario does. Each
run checks its ledger: nothing lost, nothing twice without a mark, nothing out of order by the publishers' own numbers,
or the run has failed.

The gateway has the defaults that a user has, except for the windows and for the limits that keep strangers out (rates
of publishes and connects). The peers have theirs, except for the same windows and for limits at which they would drop
messages. Each is shown [below](#configuration), as it was started.

Machine: {machine}; the server on one core, the load on the others. Libraries: {versions}. 99 % of the disk's
`fdatasync` take up to {disk} ms.

| server | version | what is on disk when it acknowledges a publish |
|---|---|---|
{promises}

## Targets

{targets}

## How to read the tables

A row is the median of its runs; `spread` is the lowest and the highest value of the first figure. `CPU µs` is that of
a message, of all processes and threads of the server. Latency is from the publisher's send to the arrival at the
client; on a schedule it counts from the moment at which the message was due. `busy` is the share of the time in which
the server's core was busy; `load busy` that of the load generator: at 0.9 the server may be faster than this. `ledger`:
`clean` says that nothing was lost.

{sections}## Configuration

What each server was started with, as the bench wrote it for its first run; the windows are those of the scenario.

{configuration}"""


class Call(msgspec.Struct):
    """A result, what it says, and how it was made."""

    result: dict[str, Any]
    rows: list[Row]

    @property
    def command(self) -> str:
        """What was typed, but for where the result was to go."""
        return re.sub(r" --json(=|\s+)\S+", "", self.result["settings"]["command"])

    def command_of(self, scenario: str) -> str:
        """What makes the table of this scenario and no other one."""
        typed = shlex.split(self.command)
        try:
            args = parser().parse_args(typed[3:])
        except SystemExit:
            # of an earlier version, with options that there are no more
            return self.command
        out = [*typed[:3], scenario]
        legs = [leg for leg in args.legs if leg in SCENARIOS[scenario].legs]
        out += ["--legs", *legs] if legs else []
        out += [f"--{mode}" for mode in ("quick", "smoke") if getattr(args, mode)]
        out += ["--runs", str(args.runs)] if args.runs else []
        if args.rate is not None and "rate" in SCENARIOS[scenario].Parameters.__struct_fields__:
            out += ["--rate", f"{args.rate:g}"]
        for name in ("url", "jwt_secret_file", "api_key_file"):
            given = getattr(args, name)
            for value in given if isinstance(given, list) else [given] if given else []:
                out += [f"--{name.replace('_', '-')}", str(value)]
        for name in ("max_clients", "max_rate"):
            if args.url and getattr(args, name) != parser().get_default(name):
                out += [f"--{name.replace('_', '-')}", f"{getattr(args, name):g}"]
        for field in SCENARIOS[scenario].Parameters.__struct_fields__:
            value = getattr(args, f"{scenario}.{field}")
            out += [f"--{scenario}.{field}", value] if value is not None else []
        return shlex.join(out)


def page(results: list[dict[str, Any]], out: Path) -> str:
    """The whole page, from what `--json` wrote; draws its plots into the folder of its name, beside it."""
    calls = [Call(result, rows(result)) for result in results]
    drawn = draw([row for call in calls for row in call.rows], out.with_suffix(""))
    servers = {leg: server for result in reversed(results) for leg, server in result["servers"].items()}
    servers = {leg: servers[leg] for leg in LEGS if leg in servers}
    return PAGE.format(
        calls="\n".join(f"    {call.command}" for call in calls),
        machine="; ".join(dict.fromkeys(_machine(result["machine"]) for result in results)),
        versions=", ".join(_versions(results)),
        disk=" / ".join(f"{result['machine']['fdatasync_p99_ms']:g}" for result in results),
        promises="\n".join(
            f"| {LEGS[leg].title} | {server['version']} | {server['promises']} |"
            for leg, server in servers.items()
        ),
        targets=_targets(calls, out),
        sections="".join(
            _section(name, calls, [plot for plot in drawn if plot.scenario == name], out)
            for name in SCENARIOS
        ),
        configuration="\n".join(_configuration(servers)),
    )


def _machine(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}"
    )


def _versions(results: list[dict[str, Any]]) -> list[str]:
    """Of the libraries that the gateway runs on."""
    return list(
        dict.fromkeys(f"{name} {one}" for result in results for name, one in result["versions"].items())
    )


def _targets(calls: list[Call], out: Path) -> str:
    """All that the design wants, what is missed first."""
    verdicts = [(row, verdict) for call in calls for row in call.rows for verdict in row.targets]
    told = [pair for pair in verdicts if pair[1].hit is not None]
    if not told:
        return "None can be told from these results."
    missed = sum(not verdict.hit for _, verdict in told)
    lines = [f"{len(told) - missed} of {len(told)} are met, {missed} missed."]
    if (out.parent / NOTES).exists():
        lines[0] += f" What stands between is told, with profiles, in [{NOTES}]({NOTES})."
    lines += ["", "| | scenario | server | case | reached | target |", "|---|---|---|---|---:|---:|"]
    for row, verdict in sorted(told, key=lambda pair: bool(pair[1].hit)):
        target = verdict.target
        sign = "≥" if target.least else "≤"
        of = f" × {target.of}'s" if target.of else " × the smallest" if target.along else ""
        figure = SCENARIOS[row.scenario].columns.get(target.figure, target.figure).removesuffix(" ≤")
        lines.append(
            f"| {'met' if verdict.hit else '**missed**'} | {row.scenario} | {LEGS[row.leg].title} "
            f"| {_case(row, target)} | {figure} {_number(verdict.value)} | {sign} {_number(verdict.bound)}{of} |"
        )
    unknown = [row.scenario for row, verdict in verdicts if verdict.hit is None]
    if unknown:
        names = ", ".join(dict.fromkeys(unknown))
        lines += ["", f"Not told ({names}): what they compare with is not in the same result."]
    return "\n".join(lines)


def _case(row: Row, target: Any) -> str:
    """Which of its scenario's cases a target is about."""
    if target.along:
        return f"all {target.along}"
    named = list(target.where) or [key for key in ("clients", "sessions") if key in row.parameters]
    return ", ".join(f"{key} {_number(_value(row, key))}" for key in named)


def _value(row: Row, key: str) -> Any:
    """A parameter, or what came of it: `sessions` 0 is as many as there are sockets."""
    return row.parameters[key] or row.figures.get(key, row.parameters[key])


def _section(name: str, calls: list[Call], drawn: list[Drawn], out: Path) -> str:
    """A scenario: its plots, then a table and its command for each call that ran it."""
    of = [(call, [row for row in call.rows if row.scenario == name]) for call in calls]
    of = [(call, found) for call, found in of if found]
    if not of:
        return ""
    scenario = SCENARIOS[name]
    lines = [f"## {name}", "", f"{scenario.about[0].upper()}{scenario.about[1:]}.", ""]
    for plot in drawn:
        lines += [f"![{plot.alt}]({plot.file.relative_to(out.parent).as_posix()})", ""]
    for call, found in of:
        lines += [
            f"    {call.command_of(name)}",
            "",
            *_table(found),
            "",
            f"Of each case: {_settings(found)}.",
            "",
        ]
        for row in found:
            lines += [
                f"- {LEGS[row.leg].title}, {_changed(row, found)}: {_faults(fault)}" for fault in row.faults
            ]
        lines += [""] if any(row.faults for row in found) else []
    if scenario.notes:
        lines += [scenario.notes, ""]
    return "\n".join(lines) + "\n"


def _table(found: list[Row]) -> list[str]:
    """The scenario's columns, and before them the parameters that differ between its rows."""
    scenario = SCENARIOS[found[0].scenario]
    keys = varied(found)
    columns = {
        key: title for key, title in scenario.columns.items() if any(key in row.figures for row in found)
    }
    beside = "cpu_us" in columns and any(row.leg == PEER for row in found)
    heads = [*keys, "server", *columns.values(), "spread", "runs", "targets", "ledger"]
    marks = ["---:"] * len(keys) + ["---"] + ["---:"] * (len(columns) + 2) + ["---"] * 2
    if beside:
        at = heads.index(columns["cpu_us"]) + 1
        heads.insert(at, "of Mosquitto's")
        marks.insert(at, "---:")
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join(marks)}|"]
    for row in found:
        cells = [_number(_value(row, key)) for key in keys] + [LEGS[row.leg].title]
        cells += [shown(row.figures.get(key)) for key in columns]
        low, high = row.spread.get(next(iter(columns), ""), (0.0, 0.0))
        cells += [f"{low:.4g}–{high:.4g}" if row.runs > 1 else "", str(row.runs)]
        known = [verdict.hit for verdict in row.targets if verdict.hit is not None]
        cells += ["" if not known else "met" if all(known) else f"{known.count(False)} missed"]
        cells += ["clean" if row.clean else "**NOT clean**"]
        if beside:
            ratio = ratio_to(row, found, PEER) if row.leg != PEER else None
            cells.insert(heads.index("of Mosquitto's"), "" if ratio is None else f"{ratio:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _settings(found: list[Row]) -> str:
    """The parameters that all rows share."""
    differ = varied(found)
    return ", ".join(f"{key} {value}" for key, value in found[0].parameters.items() if key not in differ)


def _changed(row: Row, found: list[Row]) -> str:
    return ", ".join(f"{key} {_number(_value(row, key))}" for key in varied(found)) or "its only case"


def _faults(ledger: dict[str, Any]) -> str:
    """What a ledger that is not clean says."""
    wrong = {key: value for key, value in ledger.items() if value and key not in {"clean", "faults"}}
    return ", ".join(f"{key} {value}" for key, value in (wrong | ledger.get("faults", {})).items())


def _configuration(servers: dict[str, dict[str, str]]) -> Iterator[str]:
    """The legs of the gateway that were started alike share one."""
    by_text: dict[str, list[str]] = {}
    for leg, server in servers.items():
        if server["configuration"]:
            by_text.setdefault(FOLDER.sub("<folder>", server["configuration"]).rstrip(), []).append(leg)
    for text, legs in by_text.items():
        names = (
            "the gateway"
            if len(legs) > 1 and set(legs) <= set(GATEWAY)
            else ", ".join(LEGS[leg].title for leg in legs)
        )
        yield f"<details><summary>{names}</summary>\n\n```text\n{text}\n```\n\n</details>\n"


def _number(value: Any) -> str:
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return f"{value:,.0f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def main(argv: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    options.add_argument(
        "results", nargs="+", type=Path, metavar="RESULT", help="what `python -m bench --json` wrote"
    )
    options.add_argument(
        "--out", type=Path, required=True, metavar="PAGE.md", help="the page; plots go beside it"
    )
    args = options.parse_args(argv)
    results = [json.loads(path.read_text()) for path in args.results]
    args.out.write_text(page(results, args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
