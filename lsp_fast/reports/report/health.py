"""What a run's metrics say of its health: which are shown, where they are good or bad, and in docs/metrics.md's words.

The thresholds are that page's rules of thumb as numbers. What a run's options decide by themselves is not judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lsp_fast.config import Config

LAST = 5
"""Newest rows that a judgement is the mean of: one row is one draw."""


class Band(NamedTuple):
    """Where a number is good and where it is bad."""

    good: float
    bad: float
    higher: bool
    """Whether more is better."""

    def verdict(self, value: float) -> str:
        """`good`, `bad`, or `between`; a bound itself is bad where it bounds both."""
        sign = 1 if self.higher else -1
        if sign * value <= sign * self.bad:
            return "bad"
        return "good" if sign * value >= sign * self.good else "between"


@dataclass(frozen=True)
class Measure:
    """One number over time."""

    name: str
    """Of the metric."""
    meaning: str
    good: str
    bad: str
    remedy: str
    shown: str = ""
    """What is drawn, where it is not the metric itself."""
    number: Callable[[Mapping[str, Any], Config | None], float | None] | None = None
    """What is drawn, of a row that has the metric; the metric itself by default."""
    band: Callable[[Config], Band | None] = lambda _: None
    """None: not judged."""
    log: bool = False
    """Whether it is drawn over powers of ten, as a few rows may be a thousand times the others."""

    @property
    def anchor(self) -> str:
        """Of its part of the page."""
        return self.name.replace("/", "-")

    def of(self, row: Mapping[str, Any], config: Config | None) -> float | None:
        """What is drawn of one row; None where it has no such finite number."""
        value = finite(row.get(self.name))
        return value if value is None or self.number is None else self.number(row, config)


class State(NamedTuple):
    """How a number stands at a run's end."""

    value: float
    text: str
    verdict: str | None
    """None: not judged."""


def judged(measure: Measure, rows: Iterable[Mapping[str, Any]], config: Config | None) -> State | None:
    """The mean over the newest rows that have the number; None where none has."""
    found = [(value, row) for row in rows if (value := measure.of(row, config)) is not None][-LAST:]
    if not found:
        return None
    value, text = sum(value for value, _ in found) / len(found), ""
    if measure.name == "planner/gain":
        # Of a mean the error is smaller than each row's.
        gains = [row["planner/gain"] for _, row in found]
        error = math.hypot(*(row["planner/gain_error"] for _, row in found)) / len(found)
        gain = sum(gains) / len(found)
        value, text = gain / error, f"{gain:.2g} ± {error:.1g} %"
    band = None if config is None else measure.band(config)
    return State(value, text or f"{value:.3g}", None if band is None else band.verdict(value))


def band_of(measure: Measure, configs: Iterable[Config | None]) -> Band | None:
    """The band that all of several runs share; None where there is none."""
    bands = {None if config is None else measure.band(config) for config in configs}
    return bands.pop() if len(bands) == 1 else None


def finite(value: Any) -> float | None:
    """A number of a row, which may hold anything; None where it is no finite one."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _ratio(name: str, other: str) -> Callable[[Mapping[str, Any], Config | None], float | None]:
    """A number over another one's size."""

    def number(row: Mapping[str, Any], _: Config | None) -> float | None:
        value, by = finite(row.get(name)), finite(row.get(other))
        return value / abs(by) if value is not None and by else None

    return number


def _earned(row: Mapping[str, Any], config: Config | None) -> float | None:
    """The largest value over what the largest reward could return for ever."""
    value, reward = (finite(row.get(f"behavior/{name}_abs_max")) for name in ("value", "reward"))
    if config is None or value is None or not reward or config.behavior.gamma >= 1:
        return None
    return value * (1 - config.behavior.gamma) / reward


def blind_std(elites: int, iterations: int) -> float:
    """The spread that CEM ends with where elites are chosen blindly: the mean standard deviation of so many normal
    draws, to the power of the iterations."""
    if elites < 2:
        return 0.0
    return (math.sqrt(2 / elites) * math.exp(math.lgamma(elites / 2) - math.lgamma((elites - 1) / 2))) ** iterations


def _std_band(config: Config) -> Band | None:
    blind = blind_std(config.planner.elites, config.planner.iterations)
    # A least spread near it leaves nothing to tell.
    return None if config.planner.std_min >= blind / 2 else Band(0.75 * blind, 0.95 * blind, higher=False)


def _overlap_band(config: Config) -> Band | None:
    if config.planner.rollouts == "mean":  # 1, whatever was learned
        return None
    chance = config.planner.elites / config.planner.candidates
    return Band(chance + (1 - chance) / 2, chance + (1 - chance) / 10, higher=True) if chance < 1 else None


def _beta_band(config: Config) -> Band | None:
    if config.skill.beta_kind != "gradient":
        return None
    return Band(0.9 * config.skill.beta_max, 0.99 * config.skill.beta_max, higher=False)


QUESTIONS: dict[str, list[Measure]] = {
    "Does the world model predict?": [
        Measure(
            "world_model/reward_error",
            "mean error of the predicted reward, per agent step",
            "far below the mean reward",
            "as large",
            "plans follow nothing yet: learn longer",
            shown="over the mean imagined reward",
            number=_ratio("world_model/reward_error", "behavior/task_reward"),
            band=lambda _: Band(0.2, 1.0, higher=False),
            log=True,
        ),
        Measure(
            "world_model/kl",
            "how far the state that saw the observation is from the one predicted",
            "above 3, steady",
            "below 3 for good",
            "it no longer counts there; the state may tell little",
            band=lambda config: Band(config.model.free_nats, config.model.free_nats, higher=True),
        ),
        Measure(
            "world_model/observation_nll",
            "minus log-likelihood of what is observed",
            "falls",
            "flat",
            "one fast coordinate drowns the rest: `--model.normalize-observations`",
        ),
    ],
    "Does behaviour learn?": [
        Measure(
            "behavior/value_abs_max",
            "the **value alarm**: largest value, largest reward; the progress bar warns once",
            "value below reward / (1 − γ)",
            "above it, and growing: it cannot be earned",
            "`--value.clip-targets` where it is off (the `cpu` preset has it on), else lower the learning rates. The "
            "row's reward may be less than the largest so far. A few such rows at the start are harmless",
            shown="over reward / (1 − γ)",
            number=_earned,
            band=lambda _: Band(1.0, 1.0, higher=False),
            log=True,
        ),
        Measure(
            "behavior/saturation",
            "share of policy means beyond ±2, where tanh is flat",
            "below 0.5",
            "near 1",
            "the policy can no longer move: `--actor.init-std 1`, `--actor.entropy 0.01`",
            band=lambda _: Band(0.5, 0.9, higher=False),
        ),
        Measure(
            "behavior/action_std",
            "of the policy; the spread is before the tanh",
            "falls slowly",
            "collapses at once",
            "raise `--actor.entropy`",
        ),
    ],
    "Do skills mean something?": [
        Measure(
            "skill/action_spread",
            "how far skills move the action, over how far the policy's own noise moves it",
            "above 0.3",
            "near 0: the policy is blind to its skill",
            "raise `--skill.beta`; see `behavior/saturation`",
            band=lambda _: Band(0.3, 0.1, higher=True),
        ),
        Measure(
            "skill/information",
            "what a segment tells of the skill that acted, among 16 from N(0, I)",
            "above 1, at most 2.77",
            "at or below 0",
            "the same. A predictor that always says N(0, I) reads about −0.4, and one that was trained on a narrow "
            "planner's skills alone may read less",
            band=lambda _: Band(1.0, 0.0, higher=True),
        ),
        Measure(
            "skill/beta",
            "with `--skill.beta-kind gradient`: the weight of r^i",
            "steady, below `skill.beta_max`",
            "at its bound for long",
            "r^i hardly moves the policy: skills are not heard; `--skill.input-scale 3`, `--actor.saturation`",
            band=_beta_band,
        ),
    ],
    "Does the planner choose?": [
        Measure(
            "planner/gain",
            "the **chance alarm**, said once after 5,000 environment steps: what choosing a skill in each state gains "
            "over the best one skill for all, in % of the mean value; its standard error",
            "above two errors",
            "within two errors of 0: chance. Below: one rollout's luck chooses worse than one skill for all",
            "as for `planner/elite_overlap`; look at `skill/action_spread` first",
            shown="in standard errors",
            number=_ratio("planner/gain", "planner/gain_error"),
            band=lambda _: Band(2.0, 2.0, higher=True),
        ),
        Measure(
            "planner/elite_overlap",
            "share of elites that two draws of the rollout noise agree on",
            "toward 1",
            "M / G = 0.25, which is chance",
            "learn longer; `--planner.rollouts shared`",
            band=_overlap_band,
        ),
        Measure(
            "planner/std",
            "spread of the planned distribution; it starts at 1",
            "well below 0.4",
            "about 0.4, which is chance",
            "read `planner/elite_overlap`",
            band=_std_band,
        ),
    ],
    "HIRO": [
        Measure(
            "hiro/goal_reward",
            "minus the distance to the goal, in the observation's units (`hiro`)",
            "toward 0",
            "falls",
            "goals are out of reach: lower `--hiro.goal-range`",
        ),
        Measure(
            "hiro/log_q",
            "log q(z given the real segment), of skills set or, in the prefill, taken for it (`hiro_mi`)",
            "rises",
            "flat",
            "learn longer",
        ),
        Measure(
            "hiro/relabelled",
            "share of goals replaced by one that explains the actions better",
            "falls",
            "near 1",
            "the low level does not do what it is told: learn longer",
        ),
    ],
}
"""What is shown, under docs/metrics.md's headings."""
