"""What a world model of frames predicts, as a picture."""

from __future__ import annotations

import numpy as np
import torch

from lsp_fast.agents import ImaginationAgent
from lsp_fast.experience.replay import Replay
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise

SEQUENCES, SHOWN, SEEN = 4, 20, 5
"""Of the pictures of what the model predicts: sequences, frames of each, and how many of them it has seen."""


def predicted_frames(agent: ImaginationAgent, replay: Replay, seed: int) -> np.ndarray:
    """Sequences of the replay beside what the model makes of them, uint8 [64 * 3 B, 64 L, 3].

    Of each sequence: the truth, the model (of the first SEEN frames reconstructions, then predictions), and their
    difference. Randomness comes from `seed` alone.
    """
    length = max(2, min(agent.config.train.batch_length, SHOWN))
    arrays = replay.sample(np.random.default_rng(seed), SEQUENCES, length)
    noise = Noise(seed, agent.device).normal("open_loop", length, SEQUENCES, agent.config.model.stoch)
    batch = SequenceBatch(*(torch.as_tensor(array, device=agent.device) for array in arrays))
    predicted = agent.world_model.open_loop(batch, noise, min(SEEN, length - 1)).transpose(0, 1) + 0.5  # [B, L, ...]
    truth = agent.world_model.truth(batch.observation)
    rows = torch.stack([truth, predicted.clamp(0, 1), ((predicted - truth + 1) / 2).clamp(0, 1)], 1)
    side = truth.shape[2]
    picture = rows.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * length, 3)
    return (picture * 255).round().to(torch.uint8).cpu().numpy()
