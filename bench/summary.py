"""What the runs say together: medians, beside the peer's of the same run and the design's targets."""

import statistics
from typing import Any

# what was driven, in the order in which each round drives it
LEGS = {
    "websocket": "gateway, WebSocket",
    "mqtt": "gateway, MQTT",
    "mosquitto": "Mosquitto, MQTT",
}
PEER = "mosquitto"
# DESIGN's targets: CPU of a message, as a share of the peer's
TARGETS = {
    "websocket": {10: 1.0, 100: 1.0, 1000: 1.1},
    "mqtt": {10: 0.5, 100: 1.0, 1000: 1.0},
}
FIGURES = ("rate", "cpu_us", "server_busy", "load_us", "load_busy", "p50_ms", "p99_ms")


def medians(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each number of clients and leg: the figures above, and

    clean    every run's ledger is
    ratio    CPU of a message as a share of the peer's; None where that was not driven
    target   what `ratio` must not be above, or None
    """
    rows = []
    for clients in dict.fromkeys(run["clients"] for run in result["runs"]):
        legs: dict[str, dict[str, Any]] = {}
        for leg in LEGS:
            runs = [run for run in result["runs"] if run["clients"] == clients and run["leg"] == leg]
            if runs:
                legs[leg] = {key: statistics.median(run[key] for run in runs) for key in FIGURES}
                legs[leg] |= {"clients": clients, "leg": leg}
                legs[leg]["clean"] = all(run["ledger"]["clean"] for run in runs)
        peer = legs.get(PEER, {"cpu_us": 0})["cpu_us"]
        for leg, row in legs.items():
            row["ratio"] = row["cpu_us"] / peer if peer and leg != PEER else None
            row["target"] = TARGETS.get(leg, {}).get(clients)
            rows.append(row)
    return rows


def missed(row: dict[str, Any]) -> bool:
    """Whether its target is known to be missed."""
    return row["ratio"] is not None and row["target"] is not None and row["ratio"] > row["target"]
