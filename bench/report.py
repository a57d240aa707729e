"""`python -m bench.report result.json > docs/performance.md`: the page is made from a run, never by hand."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from bench.legs import LEGS
from bench.summary import PEER, Row, ratio_to, rows

# DESIGN's target for a WebSocket session
IDLE_TARGET = 8192
# legs that are the gateway's: their versions are those of its libraries
OWN = ("websocket", "mqtt", "mqtt-broker", "http", "ndjson")

PAGE = """# Performance

Figures of one machine and one call, written by `python -m bench.report result.json`. The call was

    {command} --json result.json

They say what a message costs all processes of a server (user and system time) on its way published → durable →
delivered → acked; [bench/README.md](../bench/README.md) tells how that is measured. Each run checks its ledger: nothing
lost, nothing twice, nothing out of order by the publishers' own numbers, nothing marked as a redelivery, or the run has
failed.

{publishers} publishers keep {window} messages unanswered each and send to the receiving clients in turn, each of which
may have {window} unacked. The gateway has the defaults that a user has, except for these windows and for the limits
that keep strangers out (rates of publishes and connects). The peers have theirs, except for the same windows and for
limits at which they would drop messages. MQTT is {mqtt} at QoS 1, with persistent sessions.

| server | what is on disk when it acknowledges a publish |
|---|---|
{promises}

Machine: {cpu}, {cores} cores (the server on one, the load on the other), Linux {kernel}, Python {python},
{versions}; 99 % of its `fdatasync` take up to {disk} ms. Settings: {settings}. The median of {runs} runs, the servers
in turn.

| clients | server | messages/s | CPU µs | of Mosquitto's | target | p50 ms | p99 ms | half load | load busy | ok |
|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---|
{rows}

`CPU µs` is that of a message. Latency is from the publisher's send to the arrival at the client: under full load it is
mostly time in queues; `half load` is its p99 in ms at half the rate that was reached, on a schedule, from the moment at
which a message was due. `load busy`: the share of the time for which the load generator was busy; at 0.9 the server may
be faster than this. `ok`: the ledger is clean. NATS has one stream for all clients here, with a subject and a durable
consumer for each; a stream for each client would cost it less where there are many.

Targets are those of the design, as shares of what Mosquitto needs in the same call: over MQTT no more than it, half of
it at 10 clients; over WebSocket no more than it, 1.1 times that at 1000 clients, where every message is its own read
and write.
{verdict}

| an idle session without TLS | resident bytes | target |
|---|---:|---:|
{idle}
{others}"""

# of other scenarios: their titles, and what of a run is shown
OTHERS: dict[str, tuple[str, dict[str, str]]] = {
    "restart": (
        "a start with so many pending messages",
        {"pending": "", "ready_s": "s until ready", "peak_mib": "MiB at most"},
    ),
    "storm": (
        "so many clients cut at once, and back",
        {
            "clients": "",
            "back_s": "s until the last",
            "redelivered": "redelivered",
            "lag_p99_ms": "ms of loop lag, p99",
        },
    ),
}


def page(result: dict[str, Any]) -> str:
    """The whole page, from what `--json` wrote."""
    machine = result["machine"]
    found = rows(result)
    pipeline = [row for row in found if row.scenario == "pipeline"]
    if not pipeline:
        raise ValueError("the result has no run of `pipeline`")
    settings = pipeline[0].parameters
    return PAGE.format(
        command=_command(result),
        promises="\n".join(
            f"| {LEGS[leg].title} | {server['promises']} |" for leg, server in result["servers"].items()
        ),
        disk=machine["fdatasync_p99_ms"],
        others="".join(_other(name, found) for name in OTHERS),
        mqtt=settings["mqtt"],
        cpu=machine["cpu"],
        cores=machine["cores"],
        kernel=machine["kernel"],
        python=machine["python"],
        versions=", ".join(f"{k} {v}" for k, v in _versions(result).items()),
        settings=", ".join(f"{k} {settings[k]}" for k in ("messages", "size")),
        runs=pipeline[0].runs,
        rows="\n".join(_row(row, found) for row in pipeline if "rate" in row.figures),
        window=settings["window"],
        publishers=settings["publishers"],
        verdict=_verdict(pipeline),
        idle="\n".join(_idle(row) for row in found if row.scenario == "idle"),
    )


def _command(result: dict[str, Any]) -> str:
    """What was typed, but for where the result was to go."""
    return re.sub(r" --json \S+", "", result["settings"]["command"])


def _other(name: str, found: list[Row]) -> str:
    """The table of another scenario, where it was run."""
    of = [row for row in found if row.scenario == name]
    if not of:
        return ""
    title, columns = OTHERS[name]
    (first, _), *shown = columns.items()
    lines = [
        f"| {title} | server | {' | '.join(text for _, text in shown)} | ok |",
        "|---:|---" + "|---:" * len(shown) + "|---|",
    ]
    for row in of:
        figures = [f"{row.figures[key]:g}" if key in row.figures else "" for key, _ in shown]
        told = [f"{row.parameters[first]:,}", LEGS[row.leg].title, *figures, "yes" if row.clean else "NO"]
        lines.append(f"| {' | '.join(told)} |")
    missed = [verdict.text() for row in of for verdict in row.targets if verdict.hit is False]
    verdict = f"Missed: {'; '.join(missed)}." if missed else "The design's targets are met."
    return "\n" + "\n".join(lines) + f"\n\n{verdict}\n"


def _versions(result: dict[str, Any]) -> dict[str, str]:
    servers: dict[str, dict[str, str]] = result["servers"]
    peers = {name: server["version"] for name, server in servers.items() if name not in OWN}
    return {**result["versions"], **peers}


def _row(row: Row, found: list[Row]) -> str:
    figures = row.figures
    peer = ratio_to(row, found, PEER) if row.leg != PEER else None
    ratio = "" if peer is None else f"{peer:.2f}"
    target = next((f"≤ {verdict.bound:g}" for verdict in row.targets if verdict.target.of == PEER), "")
    return (
        f"| {row.parameters['clients']} | {LEGS[row.leg].title} | {figures['rate']:.0f} | {figures['cpu_us']:.1f} "
        f"| {ratio} | {target} | {figures['p50_ms']:.1f} | {figures['p99_ms']:.1f} | {figures['half_p99_ms']:.1f} "
        f"| {figures['load_busy']:.2f} | {'yes' if row.clean else 'NO'} |"
    )


def _idle(row: Row) -> str:
    target = f"≤ {IDLE_TARGET}" if row.leg == "websocket" else ""
    sessions, each = row.figures.get("sessions", 0), row.figures.get("rss_per_session", 0)
    return f"| {LEGS[row.leg].title} ({sessions:.0f} sessions) | {each:.0f} | {target} |"


def _verdict(pipeline: list[Row]) -> str:
    verdicts = [
        (row, verdict)
        for row in pipeline
        for verdict in row.targets
        if verdict.target.of and verdict.hit is not None
    ]
    if not verdicts:
        return "Mosquitto was not driven in this run, or at no number of clients that has a target."
    late = [
        f"{LEGS[row.leg].title}, {row.parameters['clients']} clients: {verdict.value:.2f} against {verdict.bound:g}"
        for row, verdict in verdicts
        if not verdict.hit
    ]
    return f"Missed in this run: {'; '.join(late)}." if late else "All are met in this run."


if __name__ == "__main__":
    sys.stdout.write(page(json.loads(Path(sys.argv[1]).read_text())))
