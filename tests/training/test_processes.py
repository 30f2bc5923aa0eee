"""Several processes that train one agent: as one would, and together to the end."""

import numpy as np
import pytest
import torch
from agents.test_update import batches, build
from several_processes import comparable, config, same, together_call, trained

from lsp_fast import processes
from lsp_fast.errors import ConfigError
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows
from lsp_fast.training import together
from lsp_fast.training.loop import train
from lsp_fast.training.means import Means
from lsp_fast.training.run import Run

# What they tell each other.


def exchange():
    processes.join(20)
    rank = processes.rank()
    mean, variance = processes.mean_and_variance(torch.tensor([1.0 + 4 * rank]), torch.tensor([2.0]))
    rows = [(10, np.float32([0.0]), np.float32([1.0])), (30, np.float32([4.0]), np.float32([3.0]))]
    found = {
        "average": [x.tolist() for x in processes.average([torch.tensor([[1.0, rank]]), torch.tensor(3.0 * rank)])],
        "moments": (mean.item(), variance.item()),
        "maximum": processes.maximum(torch.tensor([rank + 3.0, -rank])).tolist(),
        "pooled": [float(x[0]) for x in processes.pooled(*zip(*processes.all_gather_object(rows[rank]), strict=True))],
        "numbers": processes.all_gather([rank, True, -5]),
        "said": (processes.count(), rank, processes.leads(), processes.local()),
    }
    first = torch.tensor([float(rank + 7)])
    processes.broadcast([first])
    processes.leave()
    return {**found, "first": first.item(), "after": processes.count()}


def test_what_the_processes_tell_each_other():
    found = together_call(exchange)
    for rank, told in enumerate(found):
        assert told["average"] == [[[1.0, 0.5]], 1.5]
        assert told["moments"] == (3.0, 6.0)  # means 1 and 5: 2 + 2²
        assert told["maximum"] == [4.0, 0.0]
        rows = np.concatenate([[0.0 + d for d in (-1, 1)] * 5, [4.0 + d for d in (-3, 3)] * 15])
        assert told["pooled"] == pytest.approx([rows.mean(), rows.std()])
        assert told["numbers"] == [[0, 1, -5], [1, 1, -5]]
        assert told["said"] == (2, rank, rank == 0, (rank, 2))
        assert told["first"] == 7.0 and told["after"] == 1


def test_alone_everything_is_as_it_was():
    x = torch.randn(3)
    [same] = processes.average([x])
    assert (
        same is x
        and processes.maximum(x) is x
        and processes.all_gather([3, 4]) == [[3, 4]]
        and processes.all_gather_object("x") == ["x"]
    )
    assert processes.leads() and processes.count() == 1 and processes.mean_and_variance(x, x) == (x, x)


# One step.

LENGTH, BATCH = 8, 4


class Recorded(Noise):
    """The numbers of the whole, kept in the order in which they are drawn."""

    drawn: list

    def normal(self, stream, *shape):
        self.drawn.append(super().normal(stream, *shape))
        return self.drawn[-1]


class Part(Noise):
    """The share that a process has of those numbers: of sequences, or of states, which lie time by time."""

    drawn: list
    rank: int

    def normal(self, stream, *shape):
        whole = self.drawn.pop(0)
        [axis] = [i for i, (a, b) in enumerate(zip(whole.shape, shape, strict=True)) if a != b]
        size = whole.shape[axis]
        times = 1 if size == BATCH else LENGTH
        view = whole.unflatten(axis, (times, BATCH, size // times // BATCH))
        half = BATCH // 2
        return view.narrow(axis + 1, self.rank * half, half).flatten(axis, axis + 2)


OPTIONS = {
    "lsp": {},
    "options": {
        "skill__beta_kind": "gradient",
        "predictor__normalise": True,
        "value__slow": 0.1,
        "value__clip_targets": True,
        "actor__saturation": 0.1,
        "planner__rollouts": "shared",
    },
    "dreamer": {"algorithm": "dreamer"},
}


def updated(agent, given, steps=2):
    """The gradients that every optimiser took, and metrics and buffers after some updates."""
    taken = []
    for name, optimizer in agent.optimizers.items():

        def step(gradients, name=name, own=optimizer._step):
            taken.append((name, [g.clone() for g in gradients]))
            return own(gradients)

        optimizer._step = step
    metrics = [agent.update(batch) for batch in given[:steps]]
    return taken, [{k: v.item() for k, v in m.items()} for m in metrics], dict(agent.modules.named_buffers())


def agent_of(batch_size, overrides):
    return build(
        **{"backend": "cpp", "train__batch_size": batch_size, "train__batch_length": LENGTH, "behavior__plan_states": 0,
           "skill__per_plan": 1, "model__free_nats": 0.0, **overrides}
    )  # fmt: skip


def half_of_the_update(overrides, drawn, given):
    processes.join(20)
    agent, rank = agent_of(BATCH // 2, overrides), processes.rank()
    agent.noise.__class__ = Part
    agent.noise.drawn, agent.noise.rank = list(drawn), rank
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    taken, metrics, buffers = updated(agent, [SequenceBatch(*(x[half] for x in batch)) for batch in given])
    processes.leave()
    return taken, metrics, buffers, list(agent.modules.parameters())


@pytest.mark.parametrize("variant", OPTIONS)
def test_two_halves_make_the_step_of_the_whole(variant):
    agent = agent_of(BATCH, OPTIONS[variant])
    agent.noise.__class__, agent.noise.drawn = Recorded, []
    given = list(batches(agent.config, 2))
    taken, metrics, buffers = updated(agent, given)
    halves = together_call(half_of_the_update, OPTIONS[variant], agent.noise.drawn, given)
    for own, *_ in halves:
        assert [name for name, _ in own] == [name for name, _ in taken]
        for (name, gradients), (_, whole) in zip(own, taken, strict=True):
            for a, b in zip(gradients, whole, strict=True):
                assert (a - b).abs().max() <= 1e-5 * max(b.abs().max().item(), 1e-2), name
    for name in ("world_model/loss", "behavior/actor_loss", "behavior/value_loss"):
        for step in range(2):
            both = np.mean([half[1][step][name] for half in halves])
            assert both == pytest.approx(metrics[step][name], rel=1e-5, abs=1e-5)
    for name, value in buffers.items():
        torch.testing.assert_close(halves[0][2][name], value, rtol=1e-4, atol=1e-5)
    for a, b in zip(halves[0][3], halves[1][3], strict=True):
        assert torch.equal(a, b)


# Whole runs.


@pytest.mark.parametrize("algorithm", ["lsp", pytest.param("hiro", marks=pytest.mark.slow)])
def test_a_run_repeats_and_goes_on_to_the_bit(tmp_path, algorithm):
    c = config(algorithm)
    first, other, broken = (tmp_path / name for name in ("first", "other", "broken"))
    [whole, _] = together_call(trained, c, first)
    assert whole == (1100, whole[1], True, False) and whole[1] > 10
    rows = read_rows(first / "metrics.jsonl")
    assert [row["env_steps"] for row in rows if "eval/return" in row] == [600, 1000, 1100]
    assert rows[-1]["agent_steps"] == 550 and "train/return" in rows[-1]
    assert together_call(trained, c, other)[0] == whole
    [stopped, _] = together_call(trained, c, broken, 830)
    assert 832 <= stopped[0] < 900 and stopped[2:] == (False, False)  # a signal is heard when it is
    [ended, _] = together_call(trained, c, broken)
    assert ended == whole
    state = checkpoint.load_latest(first / "checkpoints")
    assert len(state["others"]) == 1 and "modules" not in state["others"][0]["agent"]
    for folder in (other, broken):
        assert comparable(folder) == comparable(first)
        assert same(checkpoint.load_latest(folder / "checkpoints"), state)
        for path in sorted(first.glob("replay*/*.f32")) + sorted(first.glob("replay*/*.bin")):
            assert path.read_bytes() == (folder / path.relative_to(first)).read_bytes()
    assert (first / "replay-1").is_dir()


def test_the_processes_see_different_experience(tmp_path):
    together_call(trained, config(env_steps=700), tmp_path)
    state = checkpoint.load_latest(tmp_path / "checkpoints")
    other = state["others"][0]
    assert not torch.equal(state["driver"]["actions"][0], other["driver"]["actions"][0])
    assert state["sampler"] != other["sampler"]
    assert all(not torch.equal(x, other["agent"]["noise"][k]) for k, x in state["agent"]["noise"].items())


def test_another_number_of_processes_is_refused_with_the_remedy(tmp_path):
    together_call(trained, config(env_steps=700), tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"processes = 1: the run in .* is of 2.*go on with --processes 2"):
        train(config(processes=1, env_steps=900), tmp_path, progress=False)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"collect__num_envs": 3}, r"collect\.num_envs = 3: 2 processes cannot share it equally; set it to 4"),
        ({"collect__workers": 1}, r"collect\.workers = 1: .*set it to 2"),
        ({"train__batch_size": 5}, r"train\.batch_size = 5: .*set it to 6"),
        ({"behavior__plan_states": 3}, r"behavior\.plan_states = 3: .*set it to 4"),
        ({"processes": 0}, "processes = 0: must be at least 1"),
        ({"transfer__source": "x", "transfer__relabel": True}, "relabelled is not dealt out"),
    ],
)
def test_what_cannot_be_shared_is_refused(overrides, said):
    with pytest.raises(ConfigError, match=said):
        config(**overrides)


def test_a_share_is_an_equal_part_with_numbers_of_its_own(monkeypatch):
    whole = config(behavior__plan_states=4, threads=0, collect__workers=2)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "local", lambda: (1, 2))
    shares = []
    for rank in range(2):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        shares.append(together.share(whole))
    for own in shares:
        assert (own.collect.num_envs, own.collect.workers, own.train.batch_size, own.behavior.plan_states) == (
            1,
            1,
            2,
            2,
        )
        assert own.env_steps == whole.env_steps and own.train.train_every == whole.train.train_every
    assert shares[0].seed == whole.seed != shares[1].seed and shares[1].threads >= 1
    monkeypatch.setattr(together.backends, "device", lambda name: torch.device("cuda", 0))
    assert together.share(whole).device == "cuda:1"


def noted(c, folder):
    """Train, and say what this process would have logged, and the returns of its episodes."""
    own, pop = [], Means.pop
    Means.pop = lambda self: own.append(pop(self)) or own[-1]
    trained(c, folder)
    return own


def test_a_row_is_the_mean_over_processes(tmp_path):
    both = together_call(noted, config(env_steps=900), tmp_path)
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if "world_model/loss" in row]
    parts = [[means for means in own if "world_model/loss" in means] for own in both]
    assert len(rows) == len(parts[0]) == len(parts[1]) > 2
    for row, *each in zip(rows, *parts, strict=True):
        assert each[0]["world_model/loss"] != each[1]["world_model/loss"]
        for name in each[0]:
            values = [means[name] for means in each]
            assert row[name] == pytest.approx(max(values) if name.endswith("_max") else np.mean(values)), name


def test_learning_begins_when_all_have_an_episode(tmp_path):
    # Of lengths that differ from process to process.
    c = config(task="gym:InvertedPendulum-v5", collect__prefill=10, env_steps=200, train__eval_every=100)
    found = together_call(trained, c, tmp_path)
    assert found[0] == found[1] and found[0][2]


def evaluates_now_and_then(c, folder):
    """The first process can evaluate in every tenth step alone, as where it evaluates in the training's environment."""
    Run.can_evaluate = property(lambda self: processes.rank() > 0 or self.trainer.collector.agent_steps % 20 == 0)
    return trained(c, folder)


def test_all_evaluate_where_the_first_one_can(tmp_path):
    assert together_call(evaluates_now_and_then, config(), tmp_path)[0][:3:2] == (1100, True)
    at = [row["env_steps"] for row in read_rows(tmp_path / "metrics.jsonl") if "eval/return" in row]
    assert at[-1] == 1100 and len(at) == 3 and all(x % 40 == 0 for x in at[:-1])


def late_in_one(c, folder):
    out_of_time = Run.out_of_time
    Run.out_of_time = property(lambda self: (processes.rank() == 1 and self.env_steps >= 800) or out_of_time.fget(self))
    return trained(c, folder)


def test_one_that_is_out_of_time_ends_all(tmp_path):
    found = together_call(late_in_one, config(), tmp_path)
    assert found[0] == found[1] == (800, found[0][1], False, True)
