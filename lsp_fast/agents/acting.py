"""What an episode's policy remembers, and when it plans (SPEC sections 4 and 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lsp_fast.config import Config
from lsp_fast.noise import Noise
from lsp_fast.ops.types import State
from lsp_fast.planning.planner import moved_on

HOLD, PLAN, BEGIN = range(3)
"""What a row does at a step: go on with its skill; plan another one; plan and begin a segment of K steps, or the next
action's step."""

WORDS = 2**32


@dataclass(frozen=True)
class Carry:
    """What an episode's policy remembers from step to step, and the randomness it draws on.

    Rows are environments. `explore` acts as while collecting: sampled skills and actions, exploration noise.
    """

    state: State  # [N, ...]
    action: Tensor  # [N, A], the last one
    skill: Tensor | None  # [N, Z], held; None without skills
    step: Tensor  # [N] int64, agent steps since the episode began; on the CPU, it decides what is planned
    noise: Noise
    explore: bool
    hold: bool = False
    """Keep `skill` to the end, instead of planning another one every K steps."""
    plan: Tensor | None = None  # [N, P, Z], mean of the last plan; None unless plans begin from it
    committed: Tensor | None = None  # [N] bool, whether `skill` is kept to its segment's end; None without such ones

    def kept(self) -> dict[str, Tensor]:
        """What there is of that which not every policy remembers, by name."""
        names = ("skill", "plan", "committed")
        return {name: x for name in names if (x := getattr(self, name)) is not None}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "state": tuple(self.state),
            "action": self.action,
            "skill": self.skill,
            "step": self.step,
            "noise": self.noise.state_dict(),
            "plan": self.plan,
            "committed": self.committed,
        }

    def loaded(self, state: dict[str, Any], env_steps: int = 0) -> Carry:
        """This one as `state_dict` found it, after so many environment steps."""
        self.noise.load_state_dict(state["noise"], env_steps)
        device = self.action.device
        return replace(
            self,
            state=State(*(x.to(device) for x in state["state"])),
            action=state["action"].to(device),
            skill=None if state["skill"] is None else state["skill"].to(device),
            step=state["step"],
            plan=None if state.get("plan") is None else state["plan"].to(device),
            committed=None if state.get("committed") is None else state["committed"].to(device),
        )


def now(config: Config, carry: Carry) -> Tensor:
    """[N] int64, on the CPU: HOLD, PLAN or BEGIN for every row. A segment always begins with a plan."""
    if config.planner.over == "actions":
        return torch.full_like(carry.step, BEGIN)
    if carry.skill is None or carry.hold:
        return torch.full_like(carry.step, HOLD)
    length = config.skill.length
    passed = carry.step % length
    return torch.where(passed == 0, BEGIN, torch.where(passed % (config.planner.replan or length) == 0, PLAN, HOLD))


def rows_of(mask: Tensor, upload: Callable[[Tensor], Tensor]) -> Tensor | None:
    """A mask [N] on the CPU as one on the device, to choose by; None where all rows are true."""
    return None if mask.all() else upload(mask)


def at_hand(last: Tensor | None, what: Tensor, upload: Callable[[Tensor], Tensor]) -> Tensor | None:
    """What plans begin from [N, P, Z]: the last plans, moved on where their first entry has passed."""
    begins = what == BEGIN
    if last is None or not begins.any():
        return last
    mask = rows_of(begins, upload)
    return moved_on(last) if mask is None else torch.where(mask[:, None, None], moved_on(last), last)


def committed(
    share: float, carry: Carry, skill: Tensor, what: Tensor, upload: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Some segments under a skill from N(0, I) instead of the planned one (`collect.commit`).

    Whose turn it is nobody reads: those rows, too, have planned, and nothing comes of it.

    Args:
        share: of the segments.
        carry: before this step.
        skill: [N, Z], as it was planned or held.
        what: [N], from `now`.

    Returns:
        the skills that are acted on [N, Z], and which of them are kept to their segment's end [N].
    """
    assert carry.skill is not None and carry.committed is not None
    begins, chosen, own = what == BEGIN, carry.committed, carry.skill
    if begins.any():
        mask = rows_of(begins, upload)
        drawn = carry.noise.words("act/commit", len(what)) < round(share * WORDS)
        random = carry.noise.normal("act/committed_skill", *skill.shape)
        chosen = drawn if mask is None else torch.where(mask, drawn, chosen)
        own = random if mask is None else torch.where(mask[:, None], random, own)
    return torch.where(chosen[:, None], own, skill), chosen
