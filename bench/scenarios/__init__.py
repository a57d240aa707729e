"""The scenarios, by name, in the order in which they are run: those with the design's targets first."""

from bench.scenarios.crash import CrashScenario
from bench.scenarios.crowd import CrowdScenario
from bench.scenarios.deadlines import DeadlinesScenario
from bench.scenarios.drain import DrainScenario
from bench.scenarios.fanout import FanoutScenario
from bench.scenarios.idle import IdleScenario
from bench.scenarios.pipeline import PipelineScenario
from bench.scenarios.restart import RestartScenario
from bench.scenarios.scenario import Scenario
from bench.scenarios.slow import SlowScenario
from bench.scenarios.stored import StoredScenario
from bench.scenarios.storm import StormScenario
from bench.scenarios.trickle import TrickleScenario

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        PipelineScenario(),
        IdleScenario(),
        StormScenario(),
        RestartScenario(),
        DeadlinesScenario(),
        StoredScenario(),
        CrowdScenario(),
        TrickleScenario(),
        FanoutScenario(),
        DrainScenario(),
        SlowScenario(),
        CrashScenario(),
    )
}
