"""Every choice of the system as frozen dataclasses: the paper's values are the defaults.

A preset (`paper`, `gpu`, `cpu`, `smoke`) and an algorithm (`lsp`, `no_mi`, ...) are rows of overrides over the same
fields; `make_config` applies preset, then algorithm, then what the caller names. [P] is stated in the paper, [D] comes
from Dreamer, [O] is left open by both: docs/configuration.md lists those, and what the `cpu` preset changes and why.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from lsp_fast.config.hiro import HiroConfig
from lsp_fast.config.names import method_name
from lsp_fast.config.observation import ObservationConfig
from lsp_fast.config.transfer import TransferConfig

AlgorithmName = Literal["lsp", "no_mi", "random_skills", "rand_skills_init", "dreamer", "planet", "hiro", "hiro_mi"]
PresetName = Literal["paper", "gpu", "cpu", "smoke"]


@dataclass(frozen=True)
class CollectConfig:
    """How experience is gathered (SPEC section 1)."""

    action_repeat: int = 2
    """Environment steps per agent step, rewards summed [D]."""
    num_envs: int = 1
    """Environments stepped together; `paper` uses one."""
    workers: int = 0
    """Processes that step these environments and the evaluation's, each an equal share; 0: the run's own. For slow
    ones: the numbers are the same."""
    prefill: int = 5000
    """Environment steps of uniformly random actions before learning [D]; lasts until one episode is complete."""
    exploration_noise: float = 0.3
    """Standard deviation of the normal noise added to the sampled action while collecting, then clipped [D]."""
    exploration_noise_final: float = 0.1
    """What that falls to where `exploration_steps` is not 0 [O]."""
    exploration_steps: int = 0
    """Environment steps, from the run's beginning, over which the noise falls linearly to its final value, where it
    stays; 0 leaves it as it is at first [O]."""
    commit: float = 0.0
    """Share of the segments of K steps that are collected under a skill from N(0, I), held to the segment's end,
    instead of a planned one [O]."""
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
    """Sequences in a batch, B [D]."""
    batch_length: int = 50
    """Agent steps in a sequence, L [D]."""
    eval_every: int = 10_000
    """Environment steps between evaluations [D]; 0: none is made, not even at the end."""
    eval_episodes: int = 5
    """Episodes of an evaluation; their mean return is the score [D]."""
    log_every: int = 1000
    """Environment steps between rows of metrics."""
    health_every: int = 250
    """Updates between checks of the planner's health (they cost about two more plans)."""
    checkpoint_every: int = 10_000
    """Environment steps between checkpoints; one is always written at the end."""
    video_every: int = 0
    """Environment steps between videos of an evaluation episode, of dm_control's tasks and with OpenGL; 0: none."""
    overlap: bool = False
    """Step the environments on a thread of their own while learning goes on: updates that are due are made after the
    next actions have been chosen, which therefore come from weights up to `train_every` environment steps older."""
    cuda_graph: bool = True
    """On a GPU, replay plans and updates as CUDA graphs; where that fails, say why once and go on without."""
    matmul: Literal["fp32", "tf32"] = "fp32"
    """What matrix products in fp32 multiply on a GPU: fp32, or its upper 19 bits (tf32)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What matrix products of learning multiply in C++ on a processor that has an instruction for it; sums, weights and
    Adam stay in fp32. Plans have a precision of their own."""
    autocast: bool = False
    """Small-budget option: learn under PyTorch's bf16 autocast (weights, gradients' sums and Adam stay in fp32)."""
    observe: Literal["auto", "steps", "scan"] = "auto"
    """How replayed sequences are filtered: as the backend does it; by PyTorch step by step; or with what no step waits
    for taken once for all steps, and the gradient by hand: fewer and larger kernels, rounded otherwise, in fp32 also
    under autocast."""
    compile: bool = False
    """Compile the losses and their gradients with torch.compile, which rounds otherwise. The first update of every
    start then takes minutes; best together with `observe` = scan."""


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
    discount_head: Literal["auto", "on", "off"] = "auto"
    """Predict terminations. auto: on for `gym:` tasks, which can end by failing, and off for all others, as in [D].
    When off, every imagined step is discounted by gamma, and nothing tells that an episode ended."""
    reward_scale: float = 1.0
    """Weight of the reward's log-likelihood [D]. PlaNet: 10."""
    discount_scale: float = 10.0
    """Weight of the discount head's log-likelihood [D]."""
    learning_rate: float = 6e-4
    normalize_observations: bool = False
    """Small-budget option: standardise observations by the prefill's mean and standard deviation. Frames, which lie in
    one range anyway, are left alone."""
    normaliser: Literal["prefill", "symlog", "replay"] = "prefill"
    """How observations are standardised where `normalize_observations` is on [O]: by the prefill's statistics alone;
    with sign(x) log(1 + |x|) after that, so that what the prefill hardly showed stays within bounds; or by those of
    the whole replay, fitted anew as it grows. What was learned then sees its inputs shift, less each time."""
    normaliser_every: int = 1000
    """Environment steps between two fits of `normaliser` = replay. Each goes through the whole replay once."""
    norm: bool = False
    """LayerNorm before the ELU in the hidden layers of feature encoder and decoder [O]; RSSM and heads, which plans are
    made of, have none. PyTorch then computes these two, whatever the backend."""
    kl_balance: float = 0.0
    """Share a of the KL's gradient that goes to the prior: a KL(sg(q) || p) + (1 - a) KL(q || sg(p)), whose value is
    the KL's [O]. 0 is off: both get the whole gradient. DreamerV2 takes 0.8: the prior learns to predict rather than
    that the posterior, which sees, is pulled towards one that cannot yet."""


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
    entropy_kind: Literal["fixed", "range"] = "fixed"
    """What `entropy` is a weight of: the entropy as it is, or times the spread of the imagined returns (their 95th
    percentile less their 5th, in the update's own rollouts), so that it does not fade as returns grow [O]."""
    saturation: float = 0.0
    """Weight of mean max(0, |m| - 1.5)^2 in the actor's loss, m the policy's mean before the tanh: what keeps it where
    tanh is not flat [O]."""
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
    slow: float = 0.0
    """Rate at which a slow copy follows each value head after every update, a share of the way; its predictions then
    bootstrap the lambda-returns that actor and value learn from [O]. 0: no copy; 1: the copy is the value. DreamerV3:
    0.02. Plans are scored by the value itself."""
    clip_targets: bool = False
    """Learn from no more than can be earned: targets are clipped to +-max |r| / (1 - gamma), of the largest reward that
    was imagined so far. The actor's returns are not [O]."""
    replay: float = 0.0
    """Weight of a second loss of the value, on replayed sequences: its targets are lambda-returns of the real rewards,
    bootstrapped by imagination's value at the replayed states [O]. DreamerV3: 0.3. The replay knows R alone: with an
    intrinsic reward it needs `planner.value` = task, and that head then learns from it."""
    learning_rate: float = 8e-5


@dataclass(frozen=True)
class BehaviorConfig:
    """Learning in imagination (SPEC sections 3 and 4)."""

    horizon: int = 10
    """Imagined agent steps H, of a plan [P] and of behaviour learning alike. The latter is inferred [O]: the paper
    gives it no number of its own, and Dreamer's 15 [D] would fit, too."""
    gamma: float = 0.99
    lam: float = 0.95
    plan_states: int = 0
    """Start states drawn from a batch's B x L posterior states; 0 takes all [O]. Each has a plan of its own [O].
    Without skills it is `skill.per_plan` times as many, so that every algorithm learns from as many rollouts."""
    starts: int = 0
    """Start states drawn where that is to be more than `plan_states`, of which then only so many are planned for: the
    others' skills come from N(0, I), without CEM. 0: `plan_states` [O]."""


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
    """Weight of r^i beside R; with `beta_kind` = gradient the share of its gradient, about 0.3."""
    beta_kind: Literal["fixed", "gradient"] = "fixed"
    """What `beta` is: the weight of r^i; or r^i's gradient of the actor, as a share of R's: then the weight follows
    exponential means of both gradients' norms [O]. A policy that is frozen is not measured."""
    beta_max: float = 0.5
    """With `beta_kind` = gradient the weight's bound."""
    beta_every: int = 10
    """With `beta_kind` = gradient updates between two measures of both gradients, each of which costs two more passes
    back through the rollouts."""
    offset: Literal["auto", "on", "off"] = "auto"
    """Add dim / 2 * log(2 pi e) nats to log q, 4.257 for 3 numbers, so that r^i is 0 where nothing is known of a skill
    from N(0, I), and an early end does not pay. auto: where terminations are predicted [O]. `compose` has none, nor has
    HIRO."""
    random_share: float = 0.0
    """Share of behaviour's start states whose skills come from N(0, I), without CEM. r^i is then paid on these alone;
    R is on all, and the predictor learns from all [O]. Nothing where no skills are planned."""
    input_scale: float = 1.0
    """The policy sees so many times its skill, wherever it acts [O]."""
    intrinsic_form: Literal["spread", "end", "every"] = "spread"
    """Where a segment's log q goes [O]: an equal share on each of its K steps, all on the last, or all on each, which
    is as literal a reading of the paper as a share and pays K times as much.
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
    std_min: float = 0.0
    """Least standard deviation that an iteration ends with, at most the first one's 1; 0 sets none [O]."""
    warm_start: bool = False
    """While acting, begin from the mean that the episode's last plan was acted on with, moved on by one entry when that
    has passed, the last one twice; the spread is 1 again. Plans in learning, and an episode's first, begin from
    N(0, I) [O]."""
    replan: int = 0
    """While acting, plan every so many agent steps, at most K, of each skill's time, warm-started as `warm_start` says;
    0 plans once, every K. Plans in learning stay as they are [O]."""
    rollouts: Literal["sampled", "mean", "shared"] = "sampled"
    """How a candidate's rollout goes [O]: with latents sampled, and actions as well but in evaluation; without noise,
    with the prior's means and tanh(mean), so that what sets candidates apart is the plan alone; or sampled with noise
    that the candidates of one start state share (common random numbers)."""
    noise: Literal["auto", "tensors", "philox"] = "auto"
    """Where a plan's noise comes from: PyTorch's generator, as tensors; or a key of Philox4x32-10, whose numbers a
    native plan computes where it uses them (other numbers, and no memory for them). `auto`: a key where the backend
    computes them natively. The noise on the predictor's input, which is as long, goes the same way."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """What a plan's matrix products multiply; learning's: `train.precision`. `auto`: bf16 where backend and processor
    have an instruction for it."""


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
    normalise: bool = False
    """See every feature by its running mean and standard deviation over imagined states, before the noise [O]."""
    learning_rate: float = 8e-5


@dataclass(frozen=True)
class OptimizerConfig:
    """Shared by all optimisers (Adam) [D]."""

    eps: float = 1e-7
    grad_clip: float = 100.0


@dataclass(frozen=True)
class Config:
    """One run. `task`, `algorithm` and `seed` name it; the rest says how."""

    task: str = "cheetah_run"
    """A dm_control suite task as domain_task, one of the arena's, or `gym:` and a gymnasium environment's name."""
    obs: Literal["features", "pixels", "both"] = "features"
    """What is observed: the task's own numbers, or frames of 64x64 pixels, or both. Frames of dm_control's tasks need
    OpenGL."""
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
    processes: int = 1
    """That train the agent together, each with its share of environments, batch and start states; they are started on
    this machine, unless torchrun started them. One run has the same number from beginning to end."""
    process_timeout: float = 600.0
    """Seconds that a process waits for the others, also while the first one evaluates or writes a checkpoint."""
    data: str = ""
    """What the replay begins with in place of the prefill: a folder of `lsp-fast data import`, or a recording."""
    offline: bool = False
    """Learn from `data` alone: environments are stepped to evaluate only, and `env_steps` counts as if they were."""
    log: tuple[str, ...] = ("tensorboard",)
    """Where numbers, pictures and videos go beside the run's own files: tensorboard, wandb, mlflow, a package's own."""
    max_minutes: float = 0.0
    """End the run with a checkpoint after so many minutes of this start; the same command goes on. 0: no limit."""
    observation: ObservationConfig = field(default_factory=ObservationConfig)
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
    def predicts_terminations(self) -> bool:
        """Whether the world model has a discount head."""
        head = self.model.discount_head
        return self.task.startswith("gym:") if head == "auto" else head == "on"

    @property
    def skill_offset(self) -> float:
        """Nats added to log q: the entropy of N(0, I) over skills, or 0."""
        on = self.predicts_terminations if self.skill.offset == "auto" else self.skill.offset == "on"
        return self.skill.dim / 2 * math.log(2 * math.pi * math.e) if on else 0.0

    @property
    def start_states(self) -> int:
        """Start states of behaviour learning; 0: all of the batch.

        With skills `skill.per_plan` rollouts begin in each of them; without, one, in as many more states.
        """
        states = self.behavior.starts or self.behavior.plan_states
        return states * (self.skill.per_plan if self.skill.source == "none" else 1)

    def planned_states(self, starts: int) -> int:
        """How many of so many start states are planned for: none of `skill.random_share`, and of those that
        `behavior.starts` draws at most `behavior.plan_states`."""
        if self.skill.source != "planned":
            return 0
        planned = starts - round(self.skill.random_share * starts)
        return (
            min(planned, self.behavior.plan_states) if 0 < self.behavior.plan_states < self.behavior.starts else planned
        )

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
    def plans_from_last(self) -> bool:
        """Whether plans begin from the episode's last one while acting."""
        return self.planner.warm_start or self.planner.replan > 0

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


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain nested dictionaries, for JSON."""
    return dataclasses.asdict(config)
