"""Environments as people have them."""

from __future__ import annotations

from cases.table import Row

REFUSED = {
    "OldStep": ["cannot be stepped: ValueError", "(observation, reward, terminated, truncated, info)"],
    "OldReset": ["reset() gave", "return (observation, info)"],
    "NoInfo": ["step() gave an info None", "info being a dictionary"],
    "TwoRewards": ["reward is ndarray (2,)", "return one number"],
    "NoReward": ["reward is None", "return one number"],
    "Wide": ["an observation has shape (3,), its space (2,)"],
    "Later": ["an observation has shape (3,), its space (2,)"],
    "Ragged": ["an observation is no array of numbers", "observations of its observation_space"],
    "Missing": ["an observation has no entry 'b'", "observations of its observation_space"],
    "NeedsArgument": ["cannot make task", "goal"],
    "Broken": ["ConnectionRefusedError: no simulator at port 4242"],
}
TAKEN = ["Plain", "InPlace", "Int32", "Arrays", "Brief"]

ROWS = [
    *(
        Row(f"{name} does not fit", f"train {{short}} --logdir run --task gym:troubles:{name}-v0", 2,
            tells=["lsp-fast: ", name, *words], leaves=())
        for name, words in REFUSED.items()
    ),
    *(
        Row(f"{name} is odd", f"train {{short}} --logdir run --task gym:troubles:{name}-v0", 0, leaves=["run"])
        for name in TAKEN
    ),
]  # fmt: skip
