"""Every choice of the system as frozen dataclasses: the paper's values are the defaults.

A preset (`paper`, `gpu`, `cpu`, `smoke`) and an algorithm (`lsp`, `no_mi`, ...) are rows of overrides over the same
fields; `make_config` applies preset, then algorithm, then what the caller names. [P] is stated in the paper, [D] comes
from Dreamer, [O] is left open by both: docs/configuration.md lists those, and what the `cpu` preset changes and why.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lsp_fast.errors import ConfigError

AlgorithmName = Literal["lsp", "no_mi", "random_skills", "rand_skills_init", "dreamer", "planet", "hiro", "hiro_mi"]
PresetName = Literal["paper", "gpu", "cpu", "smoke"]


@dataclass(frozen=True)
class CollectConfig:
    """How experience is gathered (SPEC section 1)."""

    action_repeat: int = 2
    """Environment steps per agent step, rewards summed [D]."""
    num_envs: int = 1
    """Environments stepped together in one process; `paper` uses one."""
    prefill: int = 5000
    """Environment steps of uniformly random actions before learning [P]; lasts until one episode is complete."""
    exploration_noise: float = 0.3
    """Standard deviation of the normal noise added to the sampled action while collecting, then clipped [D]."""
    replay_capacity: int = 1_000_000
    """Agent steps kept; the oldest whole episodes are dropped beyond that."""


@dataclass(frozen=True)
class TrainConfig:
    """Cadences of learning, evaluation and logging (SPEC section 1)."""

    train_every: int = 5
    """Environment steps per training update of all modules [P]."""
    pretrain: int = 100
    """Updates made right after the prefill [D]."""
    pretrain_world_model_only: bool = False
    """Small-budget option: the pretrain updates train the world model alone."""
    batch_size: int = 50
    """Sequences in a batch, B [P]."""
    batch_length: int = 50
    """Agent steps in a sequence, L [P]."""
    eval_every: int = 10_000
    """Environment steps between evaluations [P]."""
    eval_episodes: int = 5
    """Episodes of an evaluation; their mean return is the score [P]."""
    log_every: int = 1000
    """Environment steps between rows of metrics."""
    health_every: int = 250
    """Updates between checks of the planner's health (they cost about two more plans)."""
    checkpoint_every: int = 10_000
    """Environment steps between checkpoints; one is always written at the end."""
    overlap: bool = False
    """Step the environments on a thread of their own while learning goes on: updates that are due are made after the
    next actions have been chosen, which therefore come from weights up to `train_every` environment steps older."""
    cuda_graph: bool = True
    """On a GPU, replay plans and updates as CUDA graphs; where that fails, say why once and go on without."""
    matmul: Literal["fp32", "tf32"] = "fp32"
    """What matrix products in fp32 multiply on a GPU: fp32, or its upper 19 bits (tf32)."""
    autocast: bool = False
    """Small-budget option: learn under PyTorch's bf16 autocast (weights, gradients' sums and Adam stay in fp32)."""


@dataclass(frozen=True)
class ModelConfig:
    """World model (SPEC section 2): Dreamer's RSSM [D] with LSP's feature encoder and decoder [P]."""

    stoch: int = 30
    deter: int = 200
    hidden: int = 200
    encoder_units: int = 256
    encoder_layers: int = 2
    """The embedding is the last layer."""
    decoder_units: int = 256
    decoder_layers: int = 2
    reward_units: int = 400
    reward_layers: int = 2
    min_std: float = 0.1
    """Added to the softplus of the latent's standard deviation."""
    decoder_min_std: float = 0.1
    decoder_max_std: float = 1.5
    """Fixed bounds of the decoder's soft-clamped standard deviation, as in PETS."""
    free_nats: float = 3.0
    discount_head: bool = False
    """Predict termination; off as in [D]. When off, every imagined step is discounted by gamma."""
    discount_scale: float = 10.0
    """Weight of the discount head's log-likelihood [D]."""
    learning_rate: float = 6e-4
    normalize_observations: bool = False
    """Small-budget option: standardise observations by the prefill's mean and standard deviation. Frames, which lie in
    one range anyway, are left alone."""


@dataclass(frozen=True)
class ActorConfig:
    """Low-level policy q(a | features, skill) (SPEC section 3)."""

    units: int = 400
    layers: int = 4
    mean_scale: float = 5.0
    init_std: float = 5.0
    """Standard deviation before the tanh at a zero output [D]; 1 saturates less on small budgets."""
    min_std: float = 1e-4
    entropy: float = 0.0
    """Small-budget option: weight of the policy's entropy (nats, of the tanh-normal) in the actor's objective."""
    eval_action: Literal["mode_of_samples", "tanh_mean"] = "mode_of_samples"
    """Deterministic action: the densest of 100 samples [D], or tanh(mean), which plans in evaluation always take."""
    learning_rate: float = 8e-5


@dataclass(frozen=True)
class ValueConfig:
    """Value head v(features), or v(features, skill) (SPEC section 3)."""

    units: int = 400
    layers: int = 3
    skill: bool = False
    """See the skill held in the state that is judged; the paper's does not. Plans are then rolled out by the
    reference whatever the backend: native ones know values of features alone."""
    learning_rate: float = 8e-5


@dataclass(frozen=True)
class BehaviorConfig:
    """Learning in imagination (SPEC sections 3 and 4)."""

    horizon: int = 10
    """Imagined agent steps H, of a plan and of behaviour learning alike [P]; Dreamer: 15 [D]."""
    gamma: float = 0.99
    lam: float = 0.95
    plan_states: int = 0
    """Start states drawn from a batch's B x L posterior states; 0 takes all [O]."""


@dataclass(frozen=True)
class SkillConfig:
    """Skills, where they come from and how they are rewarded (SPEC section 4)."""

    source: Literal["none", "random", "planned"] = "planned"
    dim: int = 3
    """[P]"""
    length: int = 10
    """Agent steps K that a skill is held [P]."""
    intrinsic: bool = True
    """Add beta * r^i to the reward."""
    mi: Literal["predict", "compose"] = "predict"
    """What r^i is: log q of a backward predictor, which is learned; or, without one, how much likelier the world model
    finds the next state under the skill's own action than under those of skills from N(0, I) (paper A.6)."""
    compose_skills: int = 16
    """Skills whose actions `compose` compares, the own one among them: r^i is at most the logarithm of their number."""
    beta: float = 1.0
    intrinsic_form: Literal["spread", "end", "every"] = "spread"
    """Where a segment's log q goes [O]: an equal share on each of its K steps, all on the last, or all on each.
    `spread` and `end` imagine one step more, so that the lambda-return's last step does not drop a share; of `compose`,
    which rewards every step by itself, the form decides only that."""
    noise: float = 0.1
    """Spread of the noise added to the planned mean when skills are drawn, not in evaluation [P]."""
    noise_kind: Literal["std", "variance"] = "std"
    """Whether `noise` is a standard deviation or a variance [O]."""
    per_plan: int = 1
    """Small-budget option: skills drawn from each CEM result, each rolled out."""


@dataclass(frozen=True)
class PlannerConfig:
    """The cross-entropy method (SPEC sections 4 and 5)."""

    over: Literal["skills", "actions"] = "skills"
    """What is planned. Actions are planned anew at every step, bounded by 1, and scored by predicted rewards alone:
    there is no policy and no value then."""
    candidates: int = 16
    """G [P]"""
    elites: int = 4
    """M [P]"""
    iterations: int = 4
    """[P]"""
    objective: Literal["lambda_return", "sum"] = "lambda_return"
    """A candidate's score [O]: the lambda-return at the first imagined state, or sum gamma^t r + gamma^H v."""
    value: Literal["shared", "task"] = "shared"
    """Bootstrap by the value that the actor learns with (on R + beta r^i), or by a second head on R alone [O]."""
    std_floor: float = 1e-6
    """Added to the elites' variance under the root [O]."""
    warm_start: bool = False
    """While acting, begin from the mean that the episode's last plan was acted on with, moved on by one entry, the last
    one twice; the spread is 1 again. Plans in learning, and an episode's first, begin from N(0, I) [O]."""
    shared_noise: bool = False
    """A start state's candidates share the noise of their rollouts (common random numbers), so that what sets them
    apart is the plan alone; the paper's are independent."""
    noise: Literal["tensors", "philox"] = "tensors"
    """Where a plan's noise comes from: PyTorch's generator, as tensors; or a key of Philox4x32-10, whose numbers a
    native plan computes where it uses them (other numbers, and no memory for them)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What a plan's matrix products multiply; learning stays in fp32."""


@dataclass(frozen=True)
class PredictorConfig:
    """Backward predictor q(z | s_1 .. s_K, s_0) (SPEC section 4)."""

    units: int = 256
    layers: int = 2
    inputs: Literal["segment", "ends", "per_step"] = "segment"
    """What it sees [O]: all (at most 10, evenly spaced) states of the segment, the last, or each on its own
    (log q is then the mean over the states); always beside the first state."""
    noise: float = 0.3
    """Standard deviation of the normal noise on its input [O], without which skills collapse (paper A.7)."""
    learning_rate: float = 8e-5


@dataclass(frozen=True)
class HiroConfig:
    """HIRO (SPEC section 5): TD3 on two levels, without a world model. A goal is held `skill.length` agent steps."""

    goals: Literal["none", "states", "skills"] = "none"
    """What the high level proposes: changes of the observed positions and velocities, or skills of `skill.dim` numbers,
    for which the low level earns the task's reward and `skill.beta` times what the backward predictor tells of them
    [P]. With none there is no HIRO."""
    units: int = 300
    layers: int = 2
    actor_learning_rate: float = 1e-4
    critic_learning_rate: float = 1e-3
    tau: float = 0.005
    """Share of the way that the slow copies go at every step of the actor."""
    delay: int = 2
    """Steps of the critics per step of the actor."""
    smoothing: float = 0.2
    """Standard deviation of the noise on the target's action; it and its bound are in units of the action's range."""
    smoothing_clip: float = 0.5
    candidates: int = 10
    """Goals that relabelling chooses among: draws around what was reached, that itself, and the goal that was set."""
    candidate_std: float = 0.5
    """Of the draws, in half-ranges of goals."""
    reward_scale: float = 0.1
    """The high level's reward per summed reward of the task."""
    goal_noise: float = 0.1
    """Standard deviation of the noise on goals while collecting, in half-ranges [O]."""
    goal_range: float = 2.0
    """Half-range of goals: so many standard deviations of how far the prefill gets in a goal's time [O]."""
    skill_range: float = 2.0
    """Half-range of skills [O]."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Shared by all optimisers (Adam) [D]."""

    eps: float = 1e-7
    grad_clip: float = 100.0


@dataclass(frozen=True)
class TransferConfig:
    """What a run takes over from another one before it begins (SPEC section 5); `lsp-fast transfer` fills it in."""

    source: str = ""
    """The other run's folder; empty: nothing."""
    source_env_steps: int = 0
    """Of the checkpoint there."""
    freeze_policy: bool = False
    """Actor and predictor stay as they were; everything else learns."""
    relabel: bool = False
    """Begin with the other run's replay, its rewards replaced by those of this task."""


@dataclass(frozen=True)
class Config:
    """One run. `task`, `algorithm` and `seed` name it; the rest says how."""

    task: str = "cheetah_run"
    """A dm_control suite task as domain_task, one of the arena's, or `gym:` and a gymnasium environment's name."""
    obs: Literal["features", "pixels"] = "features"
    """What is observed: the task's own numbers, or frames of 64x64 pixels, which need OpenGL."""
    fast_render: bool = False
    """Draw frames with small shadows and without smoothing edges: several times faster, and a little different."""
    algorithm: AlgorithmName = "lsp"
    preset: PresetName = "paper"
    seed: int = 0
    label: str = ""
    """What curves of this run are called; empty: its algorithm."""
    env_steps: int = 1_000_000
    """Environment steps of the whole run, prefill included."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU if PyTorch sees one."""
    backend: Literal["auto", "reference", "cpp", "triton"] = "auto"
    """Implementation of the hot operations; auto falls back and says so."""
    threads: int = 0
    """Processor threads of PyTorch; 0 leaves its own choice."""
    max_minutes: float = 0.0
    """End the run with a checkpoint after so many minutes of this start; the same command goes on. 0: no limit."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    skill: SkillConfig = field(default_factory=SkillConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    hiro: HiroConfig = field(default_factory=HiroConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)

    @property
    def skill_dim(self) -> int:
        """Width of the skill that the actor sees; 0 without skills."""
        return 0 if self.skill.source == "none" else self.skill.dim

    @property
    def method(self) -> str:
        """What curves of this run are called."""
        return method_name(to_dict(self))

    def plan_shape(self, action_dim: int) -> tuple[int, int]:
        """Length and width of a plan: n skills, or H actions."""
        if self.planner.over == "actions":
            return self.behavior.horizon, action_dim
        return self.skills_per_rollout, self.skill.dim

    @property
    def skills_per_rollout(self) -> int:
        """Skills n = ceil(H / K) that one plan holds."""
        return math.ceil(self.behavior.horizon / self.skill.length)

    @property
    def imagined_steps(self) -> int:
        """States imagined in behaviour learning: H, or H + 1 where the intrinsic reward is laid on a segment's steps.

        It depends on the form and not on whether the reward is on, nor on what it is, so that beta = 0 equals `no_mi`
        to the bit.
        """
        extra = self.skill.source != "none" and self.skill.intrinsic_form != "every"
        return self.behavior.horizon + int(extra)


Overrides = Mapping[str, Any]

_HIRO: Overrides = {
    "skill.source": "none",
    "skill.intrinsic": False,
    "train.train_every": 2,  # an update of the low level per agent step [O]
    "train.pretrain": 0,
    "train.batch_size": 100,
    "collect.replay_capacity": 200_000,
    "collect.exploration_noise": 0.1,
}

ALGORITHMS: dict[str, Overrides] = {
    "lsp": {},
    "no_mi": {"skill.intrinsic": False},
    "random_skills": {"skill.source": "random"},
    "rand_skills_init": {"skill.source": "random", "skill.intrinsic": False},
    "dreamer": {"skill.source": "none", "skill.intrinsic": False, "behavior.horizon": 15},
    "planet": {
        "skill.source": "none",
        "skill.intrinsic": False,
        "planner.over": "actions",
        "planner.candidates": 1000,
        "planner.elites": 100,
        "planner.iterations": 10,
        "planner.objective": "sum",
        "planner.std_floor": 0.0,
        "behavior.horizon": 12,
        "behavior.gamma": 1.0,
    },
    "hiro": {"hiro.goals": "states", **_HIRO},
    "hiro_mi": {"hiro.goals": "skills", **_HIRO},
}

# What two processor cores learn with in minutes; docs/configuration.md gives the reason of each departure.
_CPU: Overrides = {
    "env_steps": 16_000,
    "collect.prefill": 2500,
    "train.batch_size": 32,
    "train.batch_length": 24,
    "train.eval_every": 2500,
    "train.eval_episodes": 4,
    "train.pretrain_world_model_only": True,
    "train.checkpoint_every": 5000,
    "model.deter": 128,
    "model.hidden": 128,
    "model.encoder_units": 128,
    "model.decoder_units": 128,
    "model.reward_units": 128,
    "model.learning_rate": 1e-3,
    "model.normalize_observations": True,
    "actor.units": 128,
    "actor.layers": 3,
    "actor.init_std": 1.0,
    "actor.entropy": 1e-2,
    "actor.learning_rate": 1e-4,
    "value.units": 128,
    "value.learning_rate": 3e-4,
    "behavior.plan_states": 32,
    "skill.beta": 0.1,
    "skill.per_plan": 4,
    "predictor.units": 128,
    "predictor.learning_rate": 3e-4,
}

PRESETS: dict[str, Overrides] = {
    "paper": {},
    # The paper's sizes and schedule with what makes a GPU fast; learning stays in fp32 numbers.
    "gpu": {"planner.precision": "bf16", "planner.noise": "philox", "train.matmul": "tf32", "train.overlap": True},
    "cpu": _CPU,
    # Seconds, for tests: everything happens once or twice, nothing is learned.
    "smoke": {
        **_CPU,
        "threads": 1,
        "env_steps": 1200,
        "collect.prefill": 1000,
        "train.pretrain": 2,
        "train.train_every": 20,
        "train.batch_size": 4,
        "train.batch_length": 8,
        "train.eval_every": 600,
        "train.eval_episodes": 1,
        "train.log_every": 100,
        "train.health_every": 4,
        "train.checkpoint_every": 1100,
        "model.deter": 16,
        "model.hidden": 16,
        "model.stoch": 6,
        "model.encoder_units": 16,
        "model.decoder_units": 16,
        "model.reward_units": 16,
        "actor.units": 16,
        "actor.layers": 2,
        "value.units": 16,
        "value.layers": 2,
        "predictor.units": 16,
        "behavior.plan_states": 4,
        "skill.per_plan": 2,
        "planner.candidates": 6,
        "planner.elites": 2,
        "planner.iterations": 2,
    },
}


def replace(config: Config, overrides: Overrides) -> Config:
    """Return `config` with dotted fields replaced, e.g. `{"model.deter": 128}`; an unknown name raises ConfigError."""
    result: Any = config
    for name, value in overrides.items():
        result = _replace_one(result, name.split("."), name, value)
    return result


def _replace_one(node: Any, path: list[str], name: str, value: Any) -> Any:
    names = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    if path[0] not in names:
        near = difflib.get_close_matches(path[0], names, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"unknown configuration value {name!r}{hint}")
    child = value if len(path) == 1 else _replace_one(getattr(node, path[0]), path[1:], name, value)
    return dataclasses.replace(node, **{path[0]: child})  # pyright: ignore[reportArgumentType]


def base_config(preset: str = "paper", algorithm: str = "lsp") -> Config:
    """The preset's and then the algorithm's row applied to the defaults, unchecked (a parser's starting point)."""
    for kind, name, table in (("preset", preset, PRESETS), ("algorithm", algorithm, ALGORITHMS)):
        if name not in table:
            raise ConfigError(f"unknown {kind} {name!r}; there are {', '.join(table)}")
    rows = {**PRESETS[preset], **ALGORITHMS[algorithm], "preset": preset, "algorithm": algorithm}
    return replace(Config(), rows)


def make_config(preset: str = "paper", algorithm: str = "lsp", **overrides: Any) -> Config:
    """Build and check a configuration: preset, then algorithm, then `overrides`.

    Nested fields are named with a double underscore for the dot: `make_config("cpu", task="walker_walk",
    skill__beta=0.3)`. Raises ConfigError naming the value and the remedy.
    """
    config = replace(base_config(preset, algorithm), {k.replace("__", "."): v for k, v in overrides.items()})
    check(config)
    return config


def check(config: Config) -> None:
    """Raise ConfigError, with every problem on a line of its own, unless the configuration can run."""
    problems: list[str] = []

    def need(ok: bool, text: str) -> None:
        if not ok:
            problems.append(text)

    def walk(node: Any, prefix: str = "") -> None:
        hints = get_type_hints(type(node))
        for f in dataclasses.fields(node):
            value, name, hint = getattr(node, f.name), prefix + f.name, hints[f.name]
            if get_origin(hint) is Literal:
                need(value in get_args(hint), f"{name} = {value!r}: must be one of {', '.join(get_args(hint))}")
            elif not (type(value) is hint or (hint is float and type(value) is int)):
                problems.append(f"{name} = {value!r}: must be of type {hint.__name__}")
            elif dataclasses.is_dataclass(value):
                walk(value, name + ".")
            elif isinstance(value, float) and not math.isfinite(value):
                problems.append(f"{name} = {value}: must be finite")
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                low = 0 if name in _MAY_BE_ZERO else (1 if isinstance(value, int) else None)
                if low is not None:
                    need(value >= low, f"{name} = {value}: must be at least {low}")
                else:
                    need(value > 0, f"{name} = {value}: must be positive")

    walk(config)
    if problems:  # what follows compares values
        raise ConfigError("\n".join(problems))
    need(config.seed < 2**31, f"seed = {config.seed}: must lie in 0 .. 2**31 - 1")
    p, b = config.planner, config.behavior
    need(p.elites <= p.candidates, f"planner.elites = {p.elites}: must not exceed planner.candidates = {p.candidates}")
    need(b.gamma <= 1, f"behavior.gamma = {b.gamma}: must not exceed 1")
    need(b.lam <= 1, f"behavior.lam = {b.lam}: must not exceed 1")
    need(b.horizon >= 2, f"behavior.horizon = {b.horizon}: a lambda-return needs at least 2 imagined steps")
    m = config.model
    need(
        m.decoder_min_std < m.decoder_max_std,
        f"model.decoder_min_std = {m.decoder_min_std}: must be below model.decoder_max_std = {m.decoder_max_std}",
    )
    need(
        not (config.skill.intrinsic and config.skill.source == "none"),
        "skill.intrinsic = True needs skills: set skill.source to planned or random",
    )
    need(
        p.over == "skills" or (config.skill.source == "none" and p.objective == "sum"),
        "planner.over = 'actions' plans without skills and scores by rewards: set skill.source to none and "
        "planner.objective to sum",
    )
    need(
        not p.warm_start or p.over == "actions" or config.skill.source == "planned",
        "planner.warm_start = True: there are no plans; set skill.source to planned or planner.over to actions",
    )
    need(
        bool(config.transfer.source) or not (config.transfer.freeze_policy or config.transfer.relabel),
        "transfer.freeze_policy and transfer.relabel need a run to take over: use lsp-fast transfer",
    )
    hiro = config.hiro.goals != "none"
    need(
        not hiro or (config.skill.source == "none" and p.over == "skills"),
        f"hiro.goals = {config.hiro.goals!r}: HIRO has no plans; set skill.source to none and planner.over to skills",
    )
    need(not (hiro and config.obs == "pixels"), "obs = 'pixels': HIRO learns from features only")
    need(config.hiro.candidates >= 2, f"hiro.candidates = {config.hiro.candidates}: must be at least 2")
    need(
        not (hiro and (config.transfer.freeze_policy or config.transfer.relabel)),
        "transfer.freeze_policy and transfer.relabel are not for HIRO: both its levels learn, and from experience of "
        "their own",
    )
    need(
        not (config.value.skill and config.skill.source == "none"),
        "value.skill = True needs skills: set skill.source to planned or random",
    )
    need(
        config.skill.compose_skills >= 2,
        f"skill.compose_skills = {config.skill.compose_skills}: must be at least 2, the own skill and one to compare",
    )
    need(
        not (config.skill.intrinsic and config.skill.mi == "predict" and config.skill.length > b.horizon),
        f"skill.length = {config.skill.length}: no segment fits into behavior.horizon = {b.horizon}, so that the "
        "intrinsic reward would never be paid; shorten it, set skill.mi to compose or skill.intrinsic to False",
    )
    if problems:
        raise ConfigError("\n".join(problems))


_MAY_BE_ZERO = {
    "seed", "threads", "collect.exploration_noise", "train.pretrain", "model.free_nats", "actor.entropy",
    "behavior.plan_states", "behavior.lam", "behavior.gamma", "skill.beta", "skill.noise", "planner.std_floor",
    "predictor.noise", "actor.min_std", "model.min_std", "max_minutes",
    "transfer.source_env_steps",
}  # fmt: skip


def method_name(values: Mapping[str, Any]) -> str:
    """What curves of a run are called, from its `config.json`: its label or algorithm, and how it was transferred."""
    transfer = values.get("transfer", {})
    fixed, relabelled = bool(transfer.get("freeze_policy")), bool(transfer.get("relabel"))
    return (values.get("label") or values["algorithm"]) + ", fixed policy" * fixed + ", relabelled" * relabelled


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain nested dictionaries, for JSON."""
    return dataclasses.asdict(config)


def from_dict(data: Mapping[str, Any]) -> Config:
    """The inverse of `to_dict`. An unknown or mistyped value, or none of `task`, `algorithm` and `seed`, raises
    ConfigError.

    Any other value that is missing was added after the configuration was written, and gets its default: what a value
    added later stands for by default is how things were done before.
    """
    if isinstance(data, Mapping) and (missing := [name for name in ("task", "algorithm", "seed") if name not in data]):
        raise ConfigError(f"not a configuration of a run: {', '.join(missing)} missing")
    config = _from_dict(Config, data, "")
    check(config)
    return config


def _from_dict(cls: Any, data: Any, prefix: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{prefix or 'the configuration'} must be a table, not {type(data).__name__}")
    default = cls()
    names = {f.name for f in dataclasses.fields(cls)}
    if wrong := sorted(set(data) - names):
        raise ConfigError(f"the configuration was written by another version: {', '.join(prefix + n for n in wrong)}")
    values: dict[str, Any] = {}
    for name in names & set(data):
        value, old = data[name], getattr(default, name)
        if dataclasses.is_dataclass(old):
            value = _from_dict(type(old), value, f"{prefix}{name}.")
        elif isinstance(old, float) and type(value) is int:
            value = float(value)
        elif type(value) is not type(old):
            raise ConfigError(f"{prefix}{name} = {value!r}: must be of type {type(old).__name__}")
        values[name] = value
    return cls(**values)


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted names of the fields in which two configurations differ, with both values."""

    def flat(node: Any, prefix: str = "") -> dict[str, Any]:
        out: dict[str, Any] = {}
        for f in dataclasses.fields(node):
            value = getattr(node, f.name)
            nested = dataclasses.is_dataclass(value)
            out |= flat(value, f"{prefix}{f.name}.") if nested else {prefix + f.name: value}
        return out

    left, right = flat(a), flat(b)
    return {name: (left[name], right[name]) for name in left if left[name] != right[name]}
