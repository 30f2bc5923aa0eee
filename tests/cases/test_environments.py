"""What an environment gives or keeps, where a row cannot say it: that a run goes on, and to which numbers."""

import json
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from lsp_fast import envs
from lsp_fast.cli import _one_line, main
from lsp_fast.errors import EnvironmentFailed
from lsp_fast.evaluate import Evaluator, disturb, make_envs
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows
from lsp_fast.training.loop import train
from lsp_fast.training.trainer import Trainer


@pytest.fixture(autouse=True)
def troubles(monkeypatch, tmp_path):
    """The module, with counters that begin anew."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    import troubles

    for kind, name in ((troubles.Spoilt, "taken"), (troubles.Raises, "taken"), (troubles.Closes, "made")):
        setattr(kind, name, 0)
    troubles.Raises.failed = False
    return troubles


@pytest.fixture
def short(smoke):
    """A configuration of episodes of 100 steps that learns from 200 on."""

    def config(name, **values):
        return smoke(
            **{"task": f"gym:troubles:{name}-v0", "env_steps": 800, "collect__prefill": 200, "train__eval_every": 300}
            | values
        )

    return config


def newest():
    return checkpoint.load_latest(Path("run/checkpoints"))


def evaluated(folder="run"):
    [scores] = json.loads(Path(folder, "scores.json").read_text())
    return scores["xs"]


def equal(a, b):
    """Whether two parts of checkpoints are."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def same(*folders):
    """Whether two runs came to the same weights and metrics."""
    weights = [checkpoint.load_latest(Path(folder) / "checkpoints")["agent"] for folder in folders]
    rows = [read_rows(Path(folder) / "metrics.jsonl") for folder in folders]
    told = [[{k: v for k, v in row.items() if "second" not in k} for row in each] for each in rows]
    return equal(*weights) and equal(*told)


@pytest.mark.parametrize("fails", [130, 450], ids=["within random actions", "while it learns"])
def test_a_run_goes_on_after_its_environment_raised(fails, short, monkeypatch):
    monkeypatch.setenv("FAILS", str(fails))
    with pytest.raises(
        EnvironmentFailed, match=r"gone away .* in agent step \d+ of its episode\. The checkpoint"
    ) as caught:
        train(short("Raises"), "run", progress=False)
    state = newest()
    assert str(checkpoint.path_of(Path("run/checkpoints"), state["env_steps"])) in str(caught.value)
    assert [len(actions) for actions in state["driver"]["actions"]] == [0]
    again = train(short("Raises"), "run", progress=False)
    assert again.finished and again.resumed_at == state["env_steps"] and again.updates
    # Episodes are whole: 100 steps, so 51 rows.
    assert set(json.loads(newest()["replay"])["episodes"]) == {51}


def test_one_that_always_raises_loses_nothing(short, monkeypatch):
    monkeypatch.setenv("FAILS", "450")
    monkeypatch.setenv("ALWAYS", "1")
    with pytest.raises(EnvironmentFailed):
        train(short("Raises"), "run", progress=False)
    steps = newest()["env_steps"]
    assert main(["train", "--preset", "smoke", "--logdir", "run", "--task", "gym:troubles:Raises-v0"]) == 2
    assert newest()["env_steps"] == steps
    monkeypatch.delenv("FAILS")
    assert train(short("Raises"), "run", progress=False).finished


def test_an_evaluation_that_failed_is_made_when_the_run_goes_on(short, monkeypatch):
    config = short("Raises")
    run = Evaluator.run
    failed = []

    def once(self, policy, seed):
        if not failed:
            failed.append(seed)
            monkeypatch.setenv("FAILS", "0")
        return run(self, policy, seed)

    monkeypatch.setattr(Evaluator, "run", once)
    with pytest.raises(EnvironmentFailed, match="goes on from there"):
        train(config, "run", progress=False)
    state = newest()
    assert state["env_steps"] == 300 and not Path("run/scores.json").exists()
    assert [len(actions) for actions in state["driver"]["actions"]] == [0]  # an episode had just begun
    monkeypatch.delenv("FAILS")
    assert train(config, "run", progress=False).finished
    whole = train(config, "whole", progress=False)
    assert evaluated() == evaluated("whole") == [300, 600, 800] and same("run", whole.folder)


def test_what_draws_from_a_global_generator_goes_on_with_another_episode(short):
    for name in ("Global", "GlobalEnds"):
        np.random.seed(0)  # or the checkpoint may lie at an episode's end
        train(short(name, env_steps=450), name, progress=False)
        before = checkpoint.load_latest(Path(name) / "checkpoints")
        assert len(before["driver"]["actions"][0])  # in the middle of an episode
        with pytest.warns(UserWarning, match=f"{name}-v0: the running episode did not repeat itself; it is dropped"):
            result = train(short(name), name, progress=False)
        assert result.finished and result.resumed_at == before["env_steps"]


def test_an_episode_that_repeats_itself_is_said_nothing_of(short):
    config = short("Reuses", env_steps=450)
    train(config, "run", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(short("Reuses"), "run", progress=False)


def test_evaluating_in_the_one_there_is_changes_nothing_in_training(short, troubles):
    with pytest.warns(
        UserWarning, match=r"still in use; there can be only 1 .*; evaluated in the one that is trained in"
    ):
        often = train(short("Single"), "often", progress=False)
    assert evaluated("often") == [300, 600, 800] and not troubles.Single.open
    with pytest.warns(UserWarning, match="evaluated in the one that is trained in"):
        rarely = train(short("Single", train__eval_every=10**6), "rarely", progress=False)
    one, two = (checkpoint.load(result.checkpoint) for result in (often, rarely))
    assert equal(one["agent"], two["agent"]) and equal(one["driver"], two["driver"]) and one["replay"] == two["replay"]


@pytest.mark.filterwarnings("ignore:.*evaluated in the one")
def test_a_run_with_one_environment_goes_on_to_the_bit(short):
    # An evaluation that is due within an episode waits for the end of it.
    config = short("Single", train__eval_every=250)
    train(config, "whole", progress=False)
    assert evaluated("whole") == [300, 500, 800]
    learn, made = Trainer.learn, []

    class Killed(Exception):
        """As by SIGKILL."""

    def learning(self):
        made.append(1)
        if len(made) == 20:
            raise Killed
        return learn(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "learn", learning)
        with pytest.raises(Killed):
            train(config, "run", progress=False)
    train(config, "run", progress=False)
    assert same("run", "whole")


def test_what_shares_a_state_is_trained_in_and_evaluated_as_one(short):
    with pytest.warns(UserWarning, match="two of its environments disturb each other, .*; evaluated in the one that"):
        train(short("Shared"), "run", progress=False)
    returns = [
        row[k] for row in read_rows(Path("run/metrics.jsonl")) for k in ("train/return", "eval/return") if k in row
    ]
    assert set(returns) == {5050.0} and len(evaluated()) == 3  # 1 + 2 + … + 100, undisturbed
    with pytest.warns(
        UserWarning,
        match=r"disturb each other, .*set --collect\.num-envs 1\); evaluated in 1 of them, one episode after",
    ):
        train(short("Shared", collect__num_envs=2), "two", progress=False)


class Seeds(gymnasium.Env):
    """Seeds NumPy's global generator, as environments of old gym did."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        np.random.seed(seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.random.uniform(-1, 1, 1).astype(np.float32), 0.0, False, False, {}


class Exclusive(Seeds):
    """The newest reset disconnects the others."""

    newest = None

    def reset(self, *, seed=None, options=None):
        Exclusive.newest = self
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if Exclusive.newest is not self:
            raise ConnectionError("not connected")
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_who_disturbs_whom():
    def pair(task):
        return [envs.make(task), envs.make(task)]

    tasks = {"Plain": False, "Reuses": False, "Shared": True, "Global": False}
    assert {name: disturb(*pair(f"gym:troubles:{name}-v0")) for name in tasks} == tasks
    assert disturb(Seeds(), Seeds()) and disturb(Exclusive(), Exclusive())
    assert not disturb(*pair("gym:Pendulum-v1"))

    class OnceRaising(Exclusive):
        """Raises at its first step of all."""

        taken = 0

        def step(self, action):
            OnceRaising.taken += 1
            if OnceRaising.taken == 1:
                raise TimeoutError
            return np.zeros(1, np.float32), 0.0, False, False, {}

    assert not disturb(OnceRaising(), OnceRaising())


def test_environments_are_closed_whatever_ends_a_run(short, troubles, monkeypatch):
    def closed():
        made, troubles.Closes.made = troubles.Closes.made, 0
        return made and not troubles.Closes.open

    for error in (KeyboardInterrupt, RuntimeError):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "learn", lambda self, error=error: (_ for _ in ()).throw(error))
            with pytest.raises(error):
                train(short("Closes"), f"run-{error.__name__}", progress=False)
        assert closed()
    monkeypatch.setenv("FULL", "3")
    with pytest.raises(Exception, match=r"no more of them; there are 3 of them already: .* --collect\.num-envs 3"):
        make_envs(short("Closes"), 4)
    assert closed()
    # Three are evaluated in where five cannot be.
    with pytest.warns(UserWarning, match="there can be only 3 of this environment; evaluated in 3 of them, one"):
        evaluator = Evaluator(short("Closes"), 5)
    with evaluator:
        score = evaluator.run(lambda observations, is_first: np.zeros((len(observations), 1), np.float32), 0)
    assert score.returns == [50.0] * 5 and closed()


def test_an_array_that_is_given_again_and_again_is_copied():
    env = envs.make("gym:troubles:Reuses-v0", action_repeat=1)
    first, _ = env.reset(seed=0)
    second = env.step(np.zeros(1))[0]
    third = env.step(np.zeros(1))[0]
    assert [x.tolist() for x in (first, second, third)] == [[0, 0], [1, 1], [2, 2]]


def test_success_may_be_an_array_of_one():
    env = envs.make("gym:troubles:SuccessArray-v0")
    assert env.reset(seed=0)[1]["success"] is False and env.step(np.zeros(1))[4]["success"] is True


def test_a_warning_of_ours_is_a_line():
    assert _one_line("so it is", UserWarning, "file.py", 3) == "lsp-fast: warning: so it is\n"
    assert "file.py:3: DeprecationWarning" in _one_line("old", DeprecationWarning, "file.py", 3)
