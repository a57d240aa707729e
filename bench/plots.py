"""Plots for the report: SVG by matplotlib, the same file for the same result.

A plot has one line for each server. What the design wants stands in it as a broken line of the same colour. The
background is white, so that it can be read on a dark page, too; text stays text.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

# nothing is drawn to a screen
os.environ["MPLBACKEND"] = "svg"

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from bench.legs import LEGS
from bench.summary import Row, Verdict, ratio_to

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "bot-gateway",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}
# no date, no version: neither is about the result
METADATA = {"Date": None, "Creator": None}
# of the legs in their order; told apart by their marks, too
COLOURS = (
    "#0072b2", "#d55e00", "#56b4e9", "#009e73", "#cc79a7", "#000000",
    "#777777", "#8c564b", "#b8860b", "#7f3fbf", "#2ca02c",
)  # fmt: skip
MARKS = "osD^v*XPp<>"
HALF = {"half_p50_ms": "50 %", "half_p90_ms": "90 %", "half_p99_ms": "99 %", "half_p999_ms": "99.9 %"}
NEAR = 1.1


class Plot(msgspec.Struct, frozen=True):
    """A figure of a scenario against one of its parameters.

    file    its name, without the ending
    x, y    the parameter (or a figure, where the parameter does not say it), the figure; beside each its axis' label
    zero    y is linear, from 0; else logarithmic
    """

    file: str
    scenario: str
    title: str
    x: str
    along: str
    y: str
    up: str
    zero: bool = False

    def points(self, found: list[Row]) -> dict[str, dict[float, Row]]:
        """Of each leg: its row at each x; where several are there, the first."""
        out: dict[str, dict[float, Row]] = {}
        for row in found:
            if row.scenario == self.scenario and self.y in row.figures:
                x = row.figures.get(self.x) or row.parameters.get(self.x, 0)
                out.setdefault(row.leg, {}).setdefault(x, row)
        return {leg: dict(sorted(rows.items())) for leg, rows in out.items()}


PLOTS = (
    Plot("throughput", "pipeline", "Throughput", "clients", "devices", "rate", "messages/s"),
    Plot("cpu", "pipeline", "What a message costs the server", "clients", "devices", "cpu_us", "CPU µs/message"),
    Plot(
        "memory", "idle", "Memory of idle sessions", "sessions", "sessions",
        "rss_per_session", "resident bytes/session", zero=True,
    ),
    Plot(
        "stored", "stored", "Cost beside what is stored", "stored", "messages in the store",
        "cpu_us", "CPU µs/message", zero=True,
    ),
    Plot(
        "crowd", "crowd", "Cost beside idle sessions", "sessions", "idle sessions", "cpu_us", "CPU µs/message",
        zero=True,
    ),
    Plot(
        "backlog", "drain", "Memory of what waits for clients that are away", "backlog", "messages for each client",
        "rss_per_session", "resident bytes/session that it adds",
    ),
)  # fmt: skip


class Drawn(msgspec.Struct, frozen=True):
    """A plot that was written: the file, beside which scenario it belongs, what it shows."""

    file: Path
    scenario: str
    alt: str


def draw(found: list[Row], folder: Path) -> list[Drawn]:
    """Write every plot for which there are rows into `folder`, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    with mpl.rc_context(STYLE):
        for plot in PLOTS:
            points = plot.points(found)
            if points:
                path = folder / f"{plot.file}.svg"
                _save(_lines(plot, points, found), path)
                what = f"{plot.title}: {plot.up} against {plot.along}, a line for each server"
                out.append(Drawn(path, plot.scenario, what))
        panels = _by_clients(found)
        if panels:
            path = folder / "latency.svg"
            _save(_percentiles(panels), path)
            counts = ", ".join(f"{clients:g}" for clients in panels)
            what = f"Latency at half load: percentiles in ms for {counts} devices, a line for each server"
            out.append(Drawn(path, "pipeline", what))
    return out


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata=METADATA, bbox_inches="tight")


def _look(leg: str) -> dict[str, Any]:
    """The gateway's lines are the thick ones."""
    at = list(LEGS).index(leg)
    return {
        "color": COLOURS[at % len(COLOURS)],
        "marker": MARKS[at % len(MARKS)],
        "markersize": 5,
        "linewidth": 1.1 if LEGS[leg].peer else 2.2,
    }


def _lines(plot: Plot, points: dict[str, dict[float, Row]], found: list[Row]) -> Figure:
    figure = Figure(figsize=(7.5, 4.2))
    axes = figure.add_subplot()
    for leg, rows in points.items():
        axes.plot(
            list(rows), [row.figures[plot.y] for row in rows.values()], label=LEGS[leg].title, **_look(leg)
        )
    wanted = [_wanted(plot, rows, found) for rows in points.values()]
    for leg, levels in zip(points, wanted, strict=True):
        if levels:
            # a line of one point is none
            mark = "" if len(levels) > 1 else "_"
            look = _look(leg) | {"marker": mark, "markersize": 20, "linewidth": 1.2, "linestyle": "--"}
            axes.plot(list(levels), list(levels.values()), **look)
    if any(wanted):
        axes.plot([], [], linestyle="--", color="#555555", label="target, same colour")
    _x_axis(axes, sorted({x for rows in points.values() for x in rows}))
    axes.set_xlabel(plot.along)
    axes.set_ylabel(plot.up)
    if plot.zero:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(_number))
    else:
        _log(axes, min(row.figures[plot.y] for rows in points.values() for row in rows.values()))
    axes.set_title(plot.title, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _wanted(plot: Plot, rows: dict[float, Row], found: list[Row]) -> dict[float, float]:
    """Where the targets of a leg lie: x -> y."""
    levels = {}
    for x, row in rows.items():
        for verdict in row.targets:
            if verdict.target.figure == plot.y:
                if verdict.target.along:
                    flat = verdict.bound * min(other.figures[plot.y] for other in rows.values())
                    return dict.fromkeys(rows, flat)
                level = _level(row, verdict, found)
                if level is not None:
                    levels[x] = level
    return levels


def _level(row: Row, verdict: Verdict, found: list[Row]) -> float | None:
    """A bound as a figure; None where it is a share of what was not driven."""
    target = verdict.target
    if not target.of:
        return verdict.bound
    ratio = ratio_to(row, found, target.of, target.figure)
    return None if not ratio else row.figures[target.figure] / ratio * verdict.bound


def _x_axis(axes: Axes, values: list[float]) -> None:
    """Logarithmic, with the values that there are; 0 has a place of its own. Of two that are near one is told."""
    if values[0] <= 0:
        axes.set_xscale("symlog", linthresh=min((value for value in values if value > 0), default=1))
    else:
        axes.set_xscale("log")
    told = [
        x
        for x, following in zip(values, [*values[1:], None], strict=True)
        if not following or following > x * NEAR
    ]
    axes.xaxis.set_major_locator(FixedLocator(told))
    axes.xaxis.set_major_formatter(FuncFormatter(_number))
    axes.xaxis.set_minor_locator(NullLocator())


def _log(axes: Axes, least: float) -> None:
    """Logarithmic, unless there are values that have no logarithm."""
    if least > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.set_yscale("symlog", linthresh=1000)
        axes.yaxis.set_major_locator(FixedLocator([0, *(10**n for n in range(3, 10))]))
    axes.yaxis.set_major_formatter(FuncFormatter(_number))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _number(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if abs(value) >= 1 else f"{value:g}"


def _by_clients(found: list[Row]) -> dict[float, list[Row]]:
    """Rows of `pipeline` that were measured at half load, by their number of clients."""
    out: dict[float, list[Row]] = {}
    for row in found:
        if row.scenario == "pipeline" and all(row.figures.get(key, 0) > 0 for key in HALF):
            rows = out.setdefault(row.parameters["clients"], [])
            if row.leg not in {other.leg for other in rows}:
                rows.append(row)
    return dict(sorted(out.items()))


def _percentiles(panels: dict[float, list[Row]]) -> Figure:
    """A panel for each number of clients."""
    figure = Figure(figsize=(3.2 * len(panels) + 1.2, 4.2))
    axes: Axes | None = None
    legs: dict[str, Line2D] = {}
    for at, (clients, rows) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), at, sharey=axes)
        for row in rows:
            [line] = axes.plot(range(len(HALF)), [row.figures[key] for key in HALF], **_look(row.leg))
            legs.setdefault(row.leg, line)
        bounds = list(_half_targets(rows))
        for bound in bounds:
            [line] = axes.plot([2], [bound], linestyle="", marker="_", markersize=24, mew=2, color="#555555")
            legs.setdefault("", line)
        _log(axes, min(row.figures[key] for row in rows for key in HALF))
        axes.xaxis.set_major_locator(FixedLocator(list(range(len(HALF)))))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: list(HALF.values())[int(value)]))
        axes.set_title(f"{clients:,.0f} devices", loc="left")
        axes.tick_params(labelleft=at == 1)
        if at == 1:
            axes.set_ylabel("ms, at half load")
    assert axes is not None
    names = [LEGS[leg].title if leg else "target of the gateway" for leg in legs]
    axes.legend(list(legs.values()), names, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _half_targets(rows: list[Row]) -> Iterator[float]:
    """What the design wants of the 99th percentile: one value, whoever has it."""
    yield from dict.fromkeys(
        verdict.bound for row in rows for verdict in row.targets if verdict.target.figure == "half_p99_ms"
    )
