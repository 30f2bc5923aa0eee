"""Environments as people have them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cases.table import SHORT, Row

REFUSED = {
    "OldStep": ["cannot be stepped: ValueError", "(observation, reward, terminated, truncated, info)"],
    "OldReset": ["reset() gave", "return (observation, info)"],
    "NoOptions": ["unexpected keyword argument 'options'", "reset(seed=None, options=None)"],
    "NoInfo": ["step() gave an info None", "info being a dictionary"],
    "TwoRewards": ["reward is ndarray (2,)", "return one number"],
    "TwoGoals": ['info["success"] is ndarray (2,)', "return one number"],
    "NoReward": ["reward is None", "return one number"],
    "Wide": ["an observation has shape (3,), its space (2,)"],
    "Later": ["an observation has shape (3,), its space (2,)"],
    "Ragged": ["an observation is no array of numbers", "observations of its observation_space"],
    "Missing": ["an observation has no entry 'b'", "observations of its observation_space"],
    "NeedsArgument": ["cannot make task", "goal"],
    "Broken": ["ConnectionRefusedError: no simulator at port 4242"],
}
TAKEN = ["Plain", "InPlace", "Int32", "Arrays", "Brief", "Reuses", "SuccessArray", "ClosesBadly", "Single", "Shared"]

UNSEEN = [
    ("has discrete actions", "Chooses-v0", ["discrete actions Discrete(3)", "ActionWrapper", "Box(-1, 1, (3,))"]),
    ("observes a frame of another size", "Camera-v0 --obs pixels", ["has 32x32 pixels", "set --observation.resize"]),
    ("observes a frame alone", "FrameAlone-v0", ["frames alone: set --obs pixels", "--observation.vectors all"]),
    ("observes no numbers", "FrameAlone-v0 --obs both", ["nothing beside its frame: set --obs pixels"]),
    ("has no entry of that name", "Camera-v0 --observation.vectors a,b", ["'b'", "observes a (2,), image (32, 32, 3)"]),
    ("has no frame of that name", "Camera-v0 --obs both --observation.frame cam", ["'cam'", "or auto, or render"]),
    ("observes no Dict", "Plain-v0 --observation.vectors a", ["observes no Dict", "leave it out"]),
    ("draws nothing", "DrawsNothing-v0 --obs pixels", ["render() raised NotImplementedError"]),
    ("cannot be asked to draw", "Plain-v0 --obs pixels", ['needs one that takes render_mode="rgb_array"']),
    ("is resized where none is seen", "Camera-v0 --observation.resize", ["features see no frame; set obs to pixels"]),
]  # fmt: skip
"""What is asked for and cannot be seen."""

TRAIN = "train {short} --logdir run --task gym:troubles:"
LEARN = "--collect.prefill 200 --train.eval-every 500"
"""Updates are made, and episodes of training lie between evaluations."""
KEPT = ["The checkpoint run/checkpoints/", "is from before it; the same command goes on"]


def _fresh(**variables: str) -> Callable[..., None]:
    """The counters of the process begin anew; a run lies in `run` where the command is none that trains."""

    def before(monkeypatch) -> None:
        import troubles

        for kind, name in ((troubles.Spoilt, "taken"), (troubles.Raises, "taken"), (troubles.Closes, "made")):
            setattr(kind, name, 0)
        troubles.Raises.failed = False
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return before


def _trained(task: str, **variables: str) -> Callable[..., None]:
    def before(monkeypatch) -> None:
        from lsp_fast.cli import main

        _fresh()(monkeypatch)
        assert main(f"{TRAIN}{task}".format(short=SHORT).split()) == 0
        _fresh(**variables)(monkeypatch)

    return before


def _whole() -> None:
    """There is a checkpoint that an agent can be had from."""
    from lsp_fast.evaluate import load

    load("run")


def _closed() -> None:
    import troubles

    assert troubles.Closes.made and not troubles.Closes.open


def _one_at_last() -> None:
    import troubles

    assert not troubles.Single.open


def _nothing_was_written() -> None:
    assert not Path("run").exists()
    _closed()


SPOILT = {
    # What is given, after how many steps, and the words for it: with its value, and the remedy.
    "reward nan 150": ["reward is nan", "rewards must be finite"],
    "reward inf 150": ["reward is inf", "scale the rewards"],
    "reward 1e39 150": ["reward is 2e+39", "scale the rewards"],
    "reward 1e30 150": ["reward is 2e+30", "scale the rewards"],
    "observation nan 150": ["observation[1] is nan", "observations must be finite"],
    "observation 1e39 150": ["observation[1] is inf", "too large for float32: scale the observations"],
    "observation -1e20 150": ["observation[1] is -1e+20", "scale the observations"],
}

ROWS = [
    *(
        Row(f"{name} does not fit", f"{TRAIN}{name}-v0", 2, tells=["lsp-fast: ", name, *words], leaves=())
        for name, words in REFUSED.items()
    ),
    *(Row(f"{name} is odd", f"{TRAIN}{name}-v0", 0, leaves=["run"]) for name in TAKEN),
    *(Row(f"{trouble}", f"{TRAIN}{command}", 2, tells=words, leaves=()) for trouble, command, words in UNSEEN),
    Row("observes a frame, too", f"{TRAIN}Camera-v0", 0, leaves=["run"],
        tells=["gym:troubles:Camera-v0: observed are a (2); left out: image"]),
    Row("observes a frame that is made larger", f"{TRAIN}Camera-v0 --obs both --observation.resize", 0, leaves=["run"],
        tells=["observed are the frame image (32x32x3, as 64x64), a (2)"]),
    *(
        Row(f"{spoil} steps into training", f"{TRAIN}Spoilt-v0", 2, before=_fresh(SPOIL=spoil), after=_whole,
            tells=["gym:troubles:Spoilt-v0 (environment 0): ", *words, "in agent step", *KEPT],
            spares=["Traceback", "RuntimeWarning"], leaves=["run"])
        for spoil, words in SPOILT.items()
    ),
    *(
        Row(f"{spoil} from the first step on", f"{TRAIN}Spoilt-v0", 2, before=_fresh(SPOIL=spoil), tells=[words],
            leaves=())
        for spoil, words in (("reward 1e39 0", "scale the rewards"), ("observation 1e39 0", "scale the observations"))
    ),
    *(
        Row(f"{spoil} in `evaluate`{options}", f"evaluate --logdir run --episodes 2{options}", 2,
            before=_trained("Spoilt-v0", SPOIL=spoil), tells=[words], spares=["Traceback", "(min", "deterministic"])
        for options, spoil, words in (
            ("", "reward nan 60", "rewards must be finite"),
            ("", "observation 1e39 60", "scale the observations"),
            (" --baselines", "reward 1e39 900", "scale the rewards"),
        )
    ),
    Row("NaN in the evaluation of a training", f"{TRAIN}Spoilt-v0", 2, before=_fresh(SPOIL="reward nan 1030"),
        tells=["reward is nan", *KEPT], after=_whole),
    Row("raises in training", f"{TRAIN}Raises-v0", 2, before=_fresh(FAILS="500"), after=_whole,
        tells=["gym:troubles:Raises-v0 (environment 0) raised ConnectionResetError: the simulator has gone away "
               "(troubles.py:", *KEPT]),
    Row("raises within random actions, before any episode", f"{TRAIN}Raises-v0", 2, before=_fresh(FAILS="20"),
        tells=KEPT, after=_whole),
    Row("raises in the evaluation of a training", f"{TRAIN}Raises-v0", 2, before=_fresh(FAILS="1050"), after=_whole,
        tells=["the simulator has gone away", *KEPT]),
    Row("raises in `evaluate`", "evaluate --logdir run", 2, before=_trained("Raises-v0", FAILS="50", ALWAYS="1"),
        tells=["raised ConnectionResetError: the simulator has gone away"]),
    Row("stays on one thread, with overlap", f"{TRAIN}OneThread-v0 --train.overlap {LEARN}", 0, leaves=["run"]),
    Row("stays on one thread, of several", f"{TRAIN}OneThread-v0 --train.overlap --collect.num-envs 2 {LEARN}", 0),
    Row("stays on one thread, in `evaluate`", "evaluate --logdir run --baselines", 0, before=_trained("OneThread-v0")),
    Row("can exist once, and learns", f"{TRAIN}Single-v0 {LEARN}", 0, after=_one_at_last),
    Row("can exist once, of two to train in", f"{TRAIN}Single-v0 --collect.num-envs 2", 2,
        tells=["worker 0 is still in use", "set --collect.num-envs 1"], leaves=(), after=_one_at_last),
    Row("can exist once, in `evaluate`", "evaluate --logdir run --baselines", 0, before=_trained("Single-v0"),
        tells=["untrained, exploring", "5 episodes"], after=_one_at_last),
    Row("can exist twice, and not for evaluation, too", f"{TRAIN}Closes-v0 --collect.num-envs 2", 2,
        before=_fresh(FULL="2"), tells=["no more of them", "set --collect.num-envs 1"], after=_nothing_was_written),
    Row("keeps global state, and learns", f"{TRAIN}Shared-v0 {LEARN}", 0),
    Row("keeps global state, in `evaluate`", "evaluate --logdir run", 0, before=_trained("Shared-v0"),
        tells=["deterministic 5050.0 (min 5050.0, max 5050.0, 5 episodes)"]),
    Row("takes its process along", f"{TRAIN}Dies-v0 --collect.num-envs 2 --collect.workers 2", 2,
        before=_fresh(DIES="exit 130"), after=_whole,
        tells=["gym:troubles:Dies-v0 (environment 0) lost its process", "which exited with status 7,", *KEPT]),
    Row("is shared by more processes than there are", f"{TRAIN}Plain-v0 --collect.workers 2", 2, leaves=(),
        tells=["collect.workers = 2: must not exceed collect.num_envs = 1", "lower it, or raise that"]),
    Row("is closed at the end", f"{TRAIN}Closes-v0 --collect.num-envs 2", 0, before=_fresh(), after=_closed),
    Row("is closed where it breaks", f"{TRAIN}Closes-v0", 2, before=_fresh(BREAKS="1"), after=_nothing_was_written),
    Row("is closed where a run is refused", f"{TRAIN}Closes-v0 --collect.replay-capacity 20", 2, before=_fresh(),
        tells=["replay_capacity"], after=_nothing_was_written),
    Row("is closed after `evaluate`", "evaluate --logdir run --baselines", 0, before=_trained("Closes-v0"),
        after=_closed),
    Row("is closed where `evaluate` breaks", "evaluate --logdir run", 2, before=_trained("Closes-v0", BREAKS="1"),
        after=_closed),
    Row("has no limit, and is told ours", f"{TRAIN}Unlimited-v0", 0, alone=True, slow=True,
        tells=["lsp-fast: warning: gym:troubles:Unlimited-v0 registers no max_episode_steps: its episodes end after"]),
    Row("is a dm_env environment", f"{TRAIN}MyReacher-v0", 0, leaves=["run"]),
    Row("is a dm_env environment, whose skills are shown", "skills --logdir run --count 2", 0,
        before=_trained("MyReacher-v0"), tells=["end_distance"], after=lambda: os.stat("run/skills/skills.json")),
    Row("cannot be filmed", "evaluate --logdir run --video x.gif", 2, before=_trained("Plain-v0"),
        tells=["gym:troubles:Plain-v0 cannot be filmed: only dm_control tasks"],
        spares=["Traceback", "deterministic"]),
]  # fmt: skip
