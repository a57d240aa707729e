"""`python -m bench.report result.json > docs/performance.md`: the page is made from a run, never by hand."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

# DESIGN's targets: what a broker written in C needs for the same way without fsync, measured on a machine of this kind
REFERENCE = {10: 23, 100: 28, 1000: 28}
FACTOR = {10: 1.0, 100: 1.0, 1000: 1.1}
IDLE_TARGET = 8192

PAGE = """# Performance

Figures of one machine and one run, made by `python -m bench --json result.json` and written here by
`python -m bench.report result.json`. They say what a message costs the whole gateway process on its way
published → durable (`fdatasync`) → delivered → acked over WebSocket frames, with the defaults that a user has
(publish and handshake limits apart, which keep strangers out). Each run checks its ledger: nothing lost, nothing twice,
nothing out of order, or the run has failed.

Machine: {cpu}, {cores} cores (the server on one, the load on the other), Linux {kernel}, Python {python},
{versions}. Settings: {settings}. The median of {runs} runs.

| receiving clients | messages/s | CPU µs a message | target | p50 ms | p99 ms | load generator busy | ledger |
|---:|---:|---:|---:|---:|---:|---:|---|
{rows}

Latency is from the publisher's send to the arrival at the client, under full load with {window} unanswered publishes
for each of {publishers} publishers, so it is mostly time in queues; it is no latency at half load.

Targets are those of the design: at most what Mosquitto 2.0.11 needs without fsync on such a machine (23 / 28 / 28 µs a
message at QoS 1), 1.1 times that at 1000 clients, where every message is its own read and write.
{verdict}

| | here | target |
|---|---:|---:|
| resident memory of an idle session without TLS ({sessions} sessions) | {idle} bytes | ≤ {idle_target} bytes |

What these figures do not show yet: other peers in the same run, fixed rates with corrected latency, storms, restarts.
"""


def page(result: dict[str, Any]) -> str:
    machine, settings = result["machine"], result["settings"]
    rows, missed = [], []
    for clients in dict.fromkeys(r["clients"] for r in result["runs"]):
        runs = [r for r in result["runs"] if r["clients"] == clients]
        middle = {
            k: statistics.median(r[k] for r in runs)
            for k in ("rate", "cpu_us", "p50_ms", "p99_ms", "load_busy")
        }
        clean = all(r["ledger"]["clean"] for r in runs)
        target = REFERENCE[clients] * FACTOR[clients] if clients in REFERENCE else None
        if target is not None and middle["cpu_us"] > target:
            missed.append(f"{clients} clients: {middle['cpu_us']:.1f} µs against {target:.1f} µs")
        rows.append(
            f"| {clients} | {middle['rate']:.0f} | {middle['cpu_us']:.1f} | {f'{target:.1f}' if target else ''} "
            f"| {middle['p50_ms']:.1f} | {middle['p99_ms']:.1f} | {middle['load_busy']:.2f} "
            f"| {'clean' if clean else 'NOT CLEAN'} |"
        )
    idle = result.get("idle", {"sessions": 0, "rss_per_session": 0})
    return PAGE.format(
        cpu=machine["cpu"],
        cores=machine["cores"],
        kernel=machine["kernel"],
        python=machine["python"],
        versions=", ".join(f"{k} {v}" for k, v in machine["versions"].items()),
        settings=", ".join(f"{k} {settings[k]}" for k in ("publishers", "messages", "window", "size")),
        runs=settings["runs"],
        rows="\n".join(rows),
        window=settings["window"],
        publishers=settings["publishers"],
        verdict=f"Missed in this run: {'; '.join(missed)}." if missed else "All three are met in this run.",
        sessions=idle["sessions"],
        idle=idle["rss_per_session"],
        idle_target=IDLE_TARGET,
    )


if __name__ == "__main__":
    sys.stdout.write(page(json.loads(Path(sys.argv[1]).read_text())))
