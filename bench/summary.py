"""What the runs say together: medians and spreads, beside the peers' of the same call and the design's targets."""

import json
import statistics
from typing import Any

import msgspec

from bench.legs import LEGS
from bench.scenarios import SCENARIOS
from bench.scenarios.scenario import Target

# of `pipeline`, whose CPU the gateway's is compared with
PEER = "mosquitto"
BUSY = 0.9


class Verdict(msgspec.Struct, frozen=True):
    """A target and what was reached. `hit` is None where it cannot be told: the leg that it refers to was not driven.

    `value` and `bound` are shares of that leg's figure where the target names one, and of the smallest figure where it
    is along a parameter; then the row with the largest value of that parameter has the verdict.
    """

    target: Target
    value: float
    bound: float
    hit: bool | None

    def text(self) -> str:
        """Such as `cpu_us 0.83 ≤ 1 × mosquitto's`."""
        if self.target.along:
            said = f"of largest to smallest {self.value:g}" if self.hit is not None else "of one case only"
            return f"{self.target.figure} along {self.target.along}: {said} ≤ {self.bound:g}"
        if self.hit is None:
            return f"{self.target.figure} ≤ {self.bound:g} × {self.target.of}'s, which was not driven"
        sign = "≥" if self.target.least else "≤"
        of = f" × {self.target.of}'s" if self.target.of else ""
        return f"{self.target.figure} {self.value:g} {sign} {self.bound:g}{of}"


class Row(msgspec.Struct):
    """The runs of one case over one leg.

    figures  medians of what the runs have in common
    spread   the lowest and the highest of each
    clean    every ledger is
    faults   what the ledgers say where they are not
    """

    scenario: str
    leg: str
    parameters: dict[str, Any]
    runs: int
    figures: dict[str, float]
    spread: dict[str, tuple[float, float]]
    clean: bool
    faults: list[dict[str, Any]]
    targets: list[Verdict]


def rows(result: dict[str, Any]) -> list[Row]:
    """One for each scenario, case and leg, in the order in which they were run."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in result["runs"]:
        case = json.dumps(run["parameters"], sort_keys=True)
        groups.setdefault((run["scenario"], case, run["leg"]), []).append(run)
    found = [_row(runs) for runs in groups.values()]
    found.sort(key=lambda row: list(LEGS).index(row.leg))
    cases = {(scenario, case): at for at, (scenario, case, _) in enumerate(groups)}
    found.sort(key=lambda row: cases[row.scenario, json.dumps(row.parameters, sort_keys=True)])
    for row in found:
        row.targets = _verdicts(row, found, result["machine"].get("fdatasync_p99_ms", 0.0))
    return found


def varied(found: list[Row]) -> list[str]:
    """The parameters that differ between these rows of one scenario."""
    return [key for key in found[0].parameters if len({str(row.parameters[key]) for row in found}) > 1]


def shown(value: float | None) -> str:
    """A figure as tables have it; empty where there is none."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _row(runs: list[dict[str, Any]]) -> Row:
    first = runs[0]
    numbers = {
        key: [run[key] for run in runs]
        for key in first
        if key != "run" and all(isinstance(run.get(key), int | float) for run in runs)
    }
    return Row(
        first["scenario"],
        first["leg"],
        first["parameters"],
        len(runs),
        {key: statistics.median(values) for key, values in numbers.items()},
        {key: (min(values), max(values)) for key, values in numbers.items()},
        all(run["ledger"]["clean"] for run in runs),
        [run["ledger"] for run in runs if not run["ledger"]["clean"]],
        [],
    )


def _verdicts(row: Row, found: list[Row], disk: float) -> list[Verdict]:
    """Of the scenario's targets those that are about this row."""
    verdicts = []
    for target in SCENARIOS[row.scenario].targets:
        about = all(row.parameters.get(key) == value for key, value in target.where.items())
        if target.leg != row.leg or not about or target.figure not in row.figures:
            continue
        if target.along:
            verdicts += _along(row, target, found)
            continue
        value, bound = row.figures[target.figure], max(target.bound, target.disk * disk)
        if target.of:
            ratio = ratio_to(row, found, target.of, target.figure)
            hit = None if ratio is None else ratio <= bound
            verdicts.append(Verdict(target, round(ratio or 0.0, 3), bound, hit))
        else:
            hit = value >= bound if target.least else value <= bound
            verdicts.append(Verdict(target, value, round(bound, 3), hit))
    return verdicts


def _along(row: Row, target: Target, found: list[Row]) -> list[Verdict]:
    """Of the row that is furthest along the parameter: how much the figure differs over all of them."""
    key = target.along

    def others(of: Row) -> tuple[str, str, dict[str, Any]]:
        return of.scenario, of.leg, {name: value for name, value in of.parameters.items() if name != key}

    line = [of for of in found if others(of) == others(row) and target.figure in of.figures]
    if row is not max(line, key=lambda of: of.parameters[key]):
        return []
    figures = [of.figures[target.figure] for of in line]
    known = len(line) > 1 and min(figures) > 0
    value = round(max(figures) / min(figures), 3) if known else 0.0
    return [Verdict(target, value, target.bound, value <= target.bound if known else None)]


def ratio_to(row: Row, found: list[Row], leg: str, figure: str = "cpu_us") -> float | None:
    """A row's figure as a share of another leg's in the same case; None where that one was not driven."""
    for other in found:
        if (other.scenario, other.leg, other.parameters) == (row.scenario, leg, row.parameters):
            base = other.figures.get(figure, 0)
            return row.figures[figure] / base if base and figure in row.figures else None
    return None
