"""`python -m bench.report result.json > docs/performance.md`: the page is made from a run, never by hand."""

import json
import sys
from pathlib import Path
from typing import Any

from bench.summary import LEGS, medians, missed

# DESIGN's target for a WebSocket session
IDLE_TARGET = 8192

PAGE = """# Performance

Figures of one machine and one run, made by `python -m bench --json result.json` and written here by
`python -m bench.report result.json`. They say what a message costs the whole server process (user and system time of
all threads) on its way published → durable → delivered → acked. Each run checks its ledger: nothing lost, nothing
twice, nothing out of order by the publishers' own numbers, nothing marked as a redelivery, or the run has failed.

- **gateway, WebSocket**: JSON frames.
- **gateway, MQTT**: its own endpoint, plain MQTT {mqtt} at QoS 1. PUBACK comes after `fdatasync`.
- **Mosquitto, MQTT**: the same devices, the same code, the same run; persistent sessions, `persistence true`. Nothing
  is on disk when it answers: it writes its messages every half hour and at its end.

{publishers} publishers keep {window} messages unanswered each and send to the receiving clients in turn, each of which
may have {window} unacked. The gateway has the defaults that a user has, except for these windows and for the limits
that keep strangers out (rates of publishes and connects). So has Mosquitto, except for the same windows, its limit on
queued messages, which is lifted, so that it drops none, and its log, which is silent.

Machine: {cpu}, {cores} cores (the server on one, the load on the other), Linux {kernel}, Python {python},
{versions}. Settings: {settings}. The median of {runs} runs, the servers in turn.

| clients | server | messages/s | CPU µs a message | of Mosquitto's | target | p50 ms | p99 ms | load µs | busy | ok |
|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---|
{rows}

Latency is from the publisher's send to the arrival at the client, under full load, so it is mostly time in queues; it
is no latency at half load. The load generator is one process on a core of its own; the table says what a message costs
it, and for which share of the time it was busy: below 1.00 it is not what held the server back. `ok`: the ledger is
clean.

Targets are those of the design, as shares of what Mosquitto needs in the same run: over MQTT no more than it, half of
it at 10 clients; over WebSocket no more than it, 1.1 times that at 1000 clients, where every message is its own read
and write.
{verdict}

| resident memory of an idle session without TLS | bytes | target |
|---|---:|---:|
{idle}

What these figures do not show yet: fixed rates with corrected latency, storms, restarts.
"""


def page(result: dict[str, Any]) -> str:
    """The whole page, from what `--json` wrote."""
    machine, settings = result["machine"], result["settings"]
    rows = medians(result)
    return PAGE.format(
        mqtt=settings["mqtt"],
        cpu=machine["cpu"],
        cores=machine["cores"],
        kernel=machine["kernel"],
        python=machine["python"],
        versions=", ".join(f"{k} {v}" for k, v in machine["versions"].items()),
        settings=", ".join(f"{k} {settings[k]}" for k in ("messages", "size")),
        runs=settings["runs"],
        rows="\n".join(_row(row) for row in rows),
        window=settings["window"],
        publishers=settings["publishers"],
        verdict=_verdict(rows),
        idle="\n".join(
            f"| {LEGS[leg]} ({found['sessions']} sessions) | {found['rss_per_session']} "
            f"| {f'≤ {IDLE_TARGET}' if leg == 'websocket' else ''} |"
            for leg, found in result["idle"].items()
        ),
    )


def _row(row: dict[str, Any]) -> str:
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    target = "" if row["target"] is None else f"≤ {row['target']:g}"
    return (
        f"| {row['clients']} | {LEGS[row['leg']]} | {row['rate']:.0f} | {row['cpu_us']:.1f} | {ratio} | {target} "
        f"| {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['load_us']:.1f} | {row['load_busy']:.2f} "
        f"| {'yes' if row['clean'] else 'NO'} |"
    )


def _verdict(rows: list[dict[str, Any]]) -> str:
    if not any(row["ratio"] is not None and row["target"] is not None for row in rows):
        return "Mosquitto was not driven in this run, or at no number of clients that has a target."
    late = [
        f"{LEGS[row['leg']]}, {row['clients']} clients: {row['ratio']:.2f} against {row['target']:g}"
        for row in rows
        if missed(row)
    ]
    return f"Missed in this run: {'; '.join(late)}." if late else "All are met in this run."


if __name__ == "__main__":
    sys.stdout.write(page(json.loads(Path(sys.argv[1]).read_text())))
