"""Runs the scenarios: each case as often as asked for, the legs in turn, a server of its own for every run."""

import asyncio
import itertools
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from rich.progress import Progress as Bars

from bench.figures import fdatasync_p99_ms
from bench.legs import LEGS, Leg
from bench.scenarios import SCENARIOS
from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep
from bench.server import KINDS, Remote, Server

# figures of a server process: of one that runs elsewhere nothing is known
OF_SERVER = frozenset(
    {"cpu_us", "half_cpu_us", "connect_cpu_us", "server_busy", "idle_busy", "rss_mib", "rss_per_session"}
)
PACKAGES = ("websockets", "msgspec", "uvloop", "aiohttp")


class Deployment(msgspec.Struct):
    """A gateway that runs elsewhere, and how much it may be asked.

    secret, key  to sign tokens with; to publish over HTTP with, and to ask for tokens where there is no secret
    """

    urls: list[str]
    secret: str = ""
    key: str = ""
    max_clients: int = 100
    max_rate: float = 1000.0

    def kinds(self) -> set[str]:
        """Which of `ws`, `mqtt`, `api` it has a URL for."""
        return {KINDS[url.partition("://")[0]] for url in self.urls}

    def bounded(self, scenario: Scenario, parameters: Parameters) -> Parameters:
        """The parameters, cut to what is allowed; what would go as fast as it goes gets the highest rate."""
        fields = msgspec.structs.asdict(parameters)
        bounds: dict[str, float] = {"clients": self.max_clients, "sessions": self.max_clients}
        cut = {name: min(fields[name] or bound, bound) for name, bound in bounds.items() if name in fields}
        if "publishers" in fields:
            cut["publishers"] = min(fields["publishers"], self.max_clients)
        if "connections" in fields:
            cut["connections"] = min(fields["connections"], self.max_clients)
        if "rate" in fields:
            cut["rate"] = min(fields["rate"] or self.max_rate, self.max_rate)
        if "half" in fields:
            cut["half"] = 0.0
        # a deployment has its own `session.window` and MQTT receive maximum: these are the defaults
        cut["window"] = min(fields["window"], 64)
        return msgspec.structs.replace(parameters, **cut)


class Plan(msgspec.Struct):
    """What is to be run.

    mode     `full`, `quick` or `smoke`: which sweep of each scenario
    legs     only these; empty: all that the scenario has
    options  scenario -> field -> values, which take the place of the sweep's
    runs     of each; 0: as often as the scenario says
    """

    scenarios: list[str]
    mode: str = "full"
    legs: list[str] = []
    options: dict[str, Sweep] = {}
    runs: int = 0
    deployment: Deployment | None = None

    def cases(self, scenario: Scenario) -> list[Parameters]:
        """The parameters of each case."""
        sweep = scenario.sweeps[self.mode] | self.options.get(scenario.name, {})
        found = [
            scenario.Parameters(**dict(zip(sweep, values, strict=True)))
            for values in itertools.product(*sweep.values())
        ]
        if self.deployment is not None:
            found = [self.deployment.bounded(scenario, case) for case in found]
        return list(dict.fromkeys(found))

    def legs_of(self, scenario: Scenario) -> list[Leg]:
        """What is driven: with a deployment, what it has URLs for; without, what is installed."""
        legs = [LEGS[name] for name in LEGS if name in scenario.legs and (not self.legs or name in self.legs)]
        if self.deployment is not None:
            kinds = self.deployment.kinds()
            return [leg for leg in legs if scenario.remote and leg.needs and kinds.issuperset(leg.needs)]
        if self.mode == "smoke" and not self.legs:
            legs = [leg for leg in legs if not leg.peer]
        return [leg for leg in legs if not leg.missing()]

    def left_out(self) -> dict[str, str]:
        """Legs that cannot be driven here, and why."""
        return {} if self.deployment else {leg.name: why for leg in LEGS.values() if (why := leg.missing())}

    def runs_of(self, scenario: Scenario) -> int:
        return self.runs or (scenario.runs if self.mode == "full" else 1)

    def steps(self) -> Iterator[tuple[Scenario, Parameters, int, Leg]]:
        """All runs in their order."""
        for name in self.scenarios:
            scenario = SCENARIOS[name]
            # the cases in turn, too: growth from one to the next is told by what was run in the same minutes
            for index in range(self.runs_of(scenario)):
                for case in self.cases(scenario):
                    for leg in self.legs_of(scenario):
                        yield scenario, case, index, leg


class Harness:
    """Carries a plan out. `show(result of one run)` is called after each."""

    def __init__(self, plan: Plan, bars: Bars, show: Callable[[dict[str, Any]], None]) -> None:
        self.plan = plan
        self.bars = bars
        self.show = show
        self.servers: dict[str, dict[str, str]] = {}

    async def measure(self) -> dict[str, Any]:
        """The result, as it is written by `--json`."""
        steps = list(self.plan.steps())
        whole = self.bars.add_task(f"{len(steps)} runs", total=len(steps))
        runs = []
        for scenario, case, index, leg in steps:
            found = await self._one(scenario, case, index, leg)
            runs.append(found)
            self.show(found)
            self.bars.advance(whole)
        return {
            "machine": machine(),
            "versions": {name: version(name) for name in PACKAGES},
            "settings": {"mode": self.plan.mode, "scenarios": self.plan.scenarios, "command": ""},
            "runs": runs,
            "servers": self.servers,
            "left_out": self.plan.left_out(),
        }

    async def _one(self, scenario: Scenario, case: Parameters, index: int, leg: Leg) -> dict[str, Any]:
        bar = self.bars.add_task(f"{scenario.name}, {leg.title}, {_changed(case)} #{index + 1}", total=None)
        started: list[Server] = []

        def serve(window: int, env: dict[str, str] | None) -> Server:
            started.append(self._server(leg, case, window, env))
            return started[-1]

        run = Run(
            leg, lambda done, total: self.bars.update(bar, completed=min(done, total), total=total), serve
        )
        head = {
            "scenario": scenario.name,
            "leg": leg.name,
            "parameters": msgspec.structs.asdict(case),
            "run": index,
        }
        try:
            async with asyncio.timeout(scenario.timeout):
                start = time.perf_counter()
                found = await scenario.run(case, run)
                # with the start of the server, connecting, warming up
                found["took_s"] = round(time.perf_counter() - start, 2)
        except (OSError, RuntimeError, TimeoutError, ExceptionGroup, aiohttp.ClientError) as error:
            # what could not be measured has not been shown to lose nothing
            why = f"{type(error).__name__}: {_reason(error)}"
            return head | {"error": why, "ledger": {"clean": False, "faults": {why: 1}}}
        finally:
            self.bars.remove_task(bar)
            for server in started:
                self._note(leg, server)
        if self.plan.deployment is not None:
            found = {key: value for key, value in found.items() if key not in OF_SERVER}
        return head | found

    def _server(self, leg: Leg, case: Parameters, window: int, env: dict[str, str] | None) -> Server:
        at = self.plan.deployment
        if at is None:
            return leg.serve(window, env)
        fields = msgspec.structs.asdict(case)
        most = max(int(fields.get(name, 0)) for name in ("clients", "publishers", "connections", "sessions"))
        kinds = ("client", "publisher", "idle")
        # other ones each time: who was deleted has no valid token for a second
        prefix = f"bench-{secrets.token_hex(4)}-"
        names = [f"{prefix}{kind}-{i}" for kind in kinds for i in range(most)]
        return Remote(window, at.urls, prefix, names, at.secret, at.key)

    def _note(self, leg: Leg, server: Server) -> None:
        """What the leg's first server was; a peer knows its configuration when it was started."""
        self.servers.setdefault(
            leg.name,
            {
                "title": leg.title,
                "version": leg.version() if self.plan.deployment is None else "",
                "configuration": server.configuration,
                "promises": server.promises,
            },
        )


def _changed(case: Parameters) -> str:
    """The parameters that are not at their defaults."""
    default = type(case)()
    changed = {
        name: value for name, value in msgspec.structs.asdict(case).items() if value != getattr(default, name)
    }
    return " ".join(f"{name}={value}" for name, value in changed.items())


def _reason(error: BaseException) -> str:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


def machine() -> dict[str, Any]:
    """Where this runs."""
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
        "fdatasync_p99_ms": fdatasync_p99_ms(Path.cwd()),
    }
