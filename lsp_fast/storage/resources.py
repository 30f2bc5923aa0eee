"""What a run will need of memory and disk, said before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from lsp_fast.config import Config
from lsp_fast.machine import process_memory, size_text
from lsp_fast.models.conv import ACTIVATIONS
from lsp_fast.storage.checkpoint import KEEP

FLOAT = 4  # bytes
ROW_OF_METRICS = 8_000
"""Bytes that a row takes in metrics.jsonl and TensorBoard's events together, generously."""


@dataclass(frozen=True)
class Needs:
    """Bytes, estimated."""

    memory: int
    """Of the process at its peak, the replay full."""
    disk: int
    """Of the run's folder at its end."""
    gpu: int | None = None
    """Of the GPU's own memory; None without one."""

    def __str__(self) -> str:
        gpu = "" if self.gpu is None else f", {size_text(self.gpu)} of the GPU's"
        return f"about {size_text(self.memory)} of memory{gpu} and {size_text(self.disk)} of disk"


VIDEO = 1_500_000
"""Bytes of an episode's video, in the run's folder and as TensorBoard's, generously: measured of 500 frames."""
LATER = 125_000_000
"""Bytes, measured: libraries that are loaded and functions that are compiled after a run has said what it needs, up to
the figure at its end."""
HELD = 130_000_000
"""Bytes, measured: at most so much malloc holds of what plans of changing numbers of states, and updates, give back.
Blocks of 32 MB and more go back to the system (`machine.keep_memory`)."""
CONTEXT = 1_000_000_000
"""Bytes of a GPU that CUDA, PyTorch's libraries and their workspaces take, roughly."""


def estimate(
    config: Config,
    backend: str,
    observation_dim: int,
    action_dim: int,
    parameters: int,
    gpu: bool = False,
    *,
    extras: int = 0,
    held: int = 0,
) -> Needs:
    """What the whole run needs.

    Args:
        config: checked.
        backend: the one in use; the C++ one keeps a rollout's activations in its threads' scratch.
        observation_dim: O; of frames all their numbers, of both all their bytes.
        action_dim: A.
        parameters: numbers in the weights of all modules.
        gpu: whether learning happens on one.
        extras: numbers that the replay keeps with a row.
        held: rows that the replay begins with.
    """
    m, b = config.model, config.behavior
    pixels = config.obs != "features"
    row = observation_dim * (1 if pixels else FLOAT) + FLOAT * (action_dim + 2 + extras) + 1
    made = 0 if config.offline else config.env_steps
    agent_steps = made // config.collect.action_repeat
    episodes = 1 + made // 1000  # an episode of n steps has n + 1 rows
    rows = agent_steps + episodes + held
    replay_memory = min(rows, config.collect.replay_capacity) * row * 3 // 2  # storage grows by copying
    model = 3 * FLOAT * parameters  # weights and Adam's two moments
    checkpoint = model + 200_000  # the streams of noise, the counters, the running episodes
    t = config.train
    log_rows = config.env_steps // t.log_every + (config.env_steps // t.eval_every if t.eval_every else 0)
    films = config.env_steps // max(t.video_every, t.eval_every) if t.video_every else 0
    disk = rows * row + (KEEP + 1) * checkpoint + log_rows * ROW_OF_METRICS + films * VIDEO + 1_000_000

    # What autograd keeps of a layer is its input and its output.
    batch = config.train.batch_size * config.train.batch_length
    recurrent = 4 * m.hidden + 12 * m.deter
    heads = 2 * (m.reward_units * m.reward_layers + config.value.units * config.value.layers)
    observing = 2 * (m.encoder_units * m.encoder_layers + m.decoder_units * m.decoder_layers + observation_dim)
    if pixels:
        beside = observing - 2 * observation_dim if config.obs == "both" else 0  # layers of the numbers
        observing = ACTIVATIONS + 4 * observation_dim + beside
    learning = FLOAT * batch * (observing + 2 * recurrent + heads)
    starts = min(batch, config.start_states or batch)
    each = 1 if config.skill.source == "none" else config.skill.per_plan
    imagining = 2 * config.actor.units * config.actor.layers + recurrent + heads
    if config.skill.intrinsic and config.skill.mi == "compose":
        # Every step is scored under each skill's action.
        imagining += config.skill.compose_skills * (2 * config.actor.units * config.actor.layers + recurrent)
    behaving = FLOAT * starts * each * config.imagined_steps * imagining
    planned = config.planned_states(starts) * config.planner.candidates
    widest = max(config.actor.units, config.value.units, m.reward_units, 3 * m.deter)
    kept = 3 * widest if backend == "cpp" else b.horizon * (m.stoch + m.deter + 3 * widest)
    if backend == "triton" and config.planner.precision != "fp32":
        kept //= 2
    tensors = config.planner.noise == "tensors" or (config.planner.noise == "auto" and backend == "reference")
    drawn = b.horizon * (m.stoch + action_dim) * (config.planner.iterations if tensors else 1)
    planning = FLOAT * planned * (drawn + kept)
    if config.hiro.goals != "none":  # nothing of the above: at most every goal that relabelling tries, in every state
        tried = config.train.batch_size * config.hiro.candidates * config.skill.length
        learning, behaving, planning = FLOAT * tried * 2 * config.hiro.units * config.hiro.layers, 0, 0
    working = max(learning, behaving, planning) * 3 // 2  # measured: what the allocator holds beyond it
    begun = process_memory() + LATER
    if not gpu:
        held = min(32 * planning, HELD)
        return Needs(begun + model + replay_memory + working + held, disk)
    # A graph keeps what it works with for itself, beside what is not replayed; gradients stay.
    return Needs(begun + replay_memory, disk, CONTEXT + model + FLOAT * parameters + 2 * working)
