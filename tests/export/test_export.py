"""An exported policy does what the agent does, without PyTorch and without this package."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lsp_fast import agents, envs
from lsp_fast.cli import main
from lsp_fast.config import to_dict
from lsp_fast.errors import LspFastError
from lsp_fast.evaluate import load_as
from lsp_fast.export import functions, policy, run
from lsp_fast.noise import Noise
from lsp_fast.storage import checkpoint

TASK, OBS, ACTIONS = "gym:Pendulum-v1", 3, 1
# Everything that a plan is made of, a few times: two skills a plan, two iterations.
SMALL = {
    "task": TASK,
    "env_steps": 1000,
    "behavior__horizon": 4,
    "skill__length": 3,
    "planner__iterations": 2,
}
PLANET = {"planner__candidates": 8, "planner__elites": 3, "behavior__horizon": 3}
OFTEN = {
    "planner__replan": 2,
    "planner__rollouts": "mean",
    "planner__std_min": 0.3,
    "planner__value": "task",
    "skill__input_scale": 3.0,
    "model__normaliser": "symlog",
    "model__norm": True,
    "actor__eval_action": "tanh_mean",
}
FAST = {
    "options of acting": ("lsp", OFTEN, False),
    "random_skills": ("random_skills", {}, False),
    "dreamer": ("dreamer", {}, False),
    "planet": ("planet", PLANET, False),
    "hiro": ("hiro", {}, False),
}
SLOW = {
    "lsp, exploring": ("lsp", {"collect__exploration_steps": 3000}, True),
    "no_mi": ("no_mi", {"planner__objective": "sum", "model__discount_head": "off"}, False),
    "rand_skills_init, exploring": ("rand_skills_init", {}, True),
    "dreamer, exploring": ("dreamer", {"model__normalize_observations": False}, True),
    "planet, exploring and warm": ("planet", PLANET | {"planner__warm_start": True}, True),
    "hiro, exploring": ("hiro", {}, True),
    "hiro_mi": ("hiro_mi", {}, False),
    "shared rollouts and a value of skills": (
        "lsp",
        {"planner__rollouts": "shared", "value__skill": True, "planner__warm_start": True},
        False,
    ),
    "warm and exploring": ("lsp", {"planner__warm_start": True, "planner__rollouts": "mean"}, True),
    "one skill for all steps": ("lsp", {"skill__length": 4, "planner__noise": "philox"}, False),
}


class Given(Noise):
    """An agent's own numbers, kept for the policy by the names that it asks for."""

    def __init__(self):
        super().__init__(5)
        self.kept = {}

    def normal(self, stream, *shape):
        numbers = super().normal(stream, *shape)
        self.kept.setdefault(functions.noise_name(stream), []).append(numbers.numpy())
        return numbers

    def draw(self, name, shape):
        """The oldest numbers of that name."""
        found = self.kept[name].pop(0)
        assert found.shape == shape
        return found


def a_run(folder, config, observation=OBS, actions=ACTIONS):
    """A run's folder with an agent that has learned nothing, but for scales that are not 1."""
    agent = agents.make(observation, actions, config)
    torch.manual_seed(0)
    if hasattr(agent, "world_model") and config.model.normalize_observations and not agent.pixels:
        agent.world_model.fit_normalizer(torch.randn(observation), torch.rand(observation) + 0.5)
    if hasattr(agent, "high"):
        agent.high.scale.copy_(torch.rand(agent.goals.dim) + 0.5)
    for name, weights in agent.modules.named_parameters():
        if name.endswith("bias"):  # zeros would hide one that is left out
            weights.data.normal_(0, 0.1)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    state = {"agent": agent.state_dict(), "observation": observation, "action_dim": actions, "env_steps": 1000}
    checkpoint.save(folder / "checkpoints", 1000, state)
    return folder


def beside(folder, exported, steps, explore=False, resets=(), hold=None):
    """The largest difference of the policy's actions from `agent.policy`'s, on the same noise and observations."""
    agent, noise, rng = load_as(folder, **policy.PLAIN), Given(), np.random.default_rng(3)
    acting = run.Policy(exported, noise=noise.draw)
    center, scale = np.array(acting.about["action"]["center"]), np.array(acting.about["action"]["scale"])
    carry = agent.initial_carry(1, explore=explore, noise=noise)
    if hold is not None:
        carry = agent.hold(carry, hold)
        acting.hold(hold)
    differences, actions = [], []
    for t in range(steps):
        if t in resets:
            carry = agent.reset(carry, [True])
            acting.reset()
        observation = rng.normal(size=agent.observation_shape).astype(np.float32)
        if agent.pixels:
            observation = rng.integers(0, 256, agent.observation_shape).astype(np.uint8)
        expected, carry = agent.policy(observation[None], carry)
        actions.append(expected)
        differences.append(np.abs(acting.act(observation) - (center + scale * expected[0])) / scale)
        if acting.skill is not None:
            skill = carry.aim if hasattr(carry, "aim") else carry.skill
            np.testing.assert_allclose(acting.skill, skill[0].numpy(), atol=1e-4)
    assert not any(noise.kept.values())  # all that the agent drew
    assert np.std(actions) > 1e-3
    return float(np.max(differences))


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_it_acts_as_the_agent_does(name, smoke, tmp_path):
    algorithm, options, explore = (FAST | SLOW)[name]
    folder = a_run(tmp_path / "run", smoke(algorithm, **(SMALL | options)))
    found = policy.export(folder, tmp_path / "policy", explore=explore)
    assert found.difference <= 1e-4 and f"acts {found.acting}" in str(found)
    assert beside(folder, tmp_path / "policy", 200, explore, resets=(50, 52, 130)) < 1e-4
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert about["acting"] == ("exploring" if explore else "deterministic") and about["env_steps"] == 1000


def test_lsp_acts_as_the_agent_does(exported):
    assert beside(*exported, 200, resets=(50, 52, 130)) < 1e-4
    assert beside(*exported, 10, resets=(7,), hold=[-1.0, 0.0, 1.0]) < 1e-4


@pytest.fixture(scope="module")
def exported(smoke, tmp_path_factory):
    """The folders of a run and its policy."""
    place = tmp_path_factory.mktemp("exported")
    folder = a_run(place / "run", smoke(**SMALL))
    policy.export(folder, place / "policy")
    return folder, place / "policy"


def alone(folder, place, code):
    """Python with NumPy and ONNX Runtime, and no other package that is not its own."""
    import numpy
    import onnxruntime

    place.mkdir()
    for module in (numpy, onnxruntime):
        source = Path(module.__file__).parent
        for path in (source, source.with_name(f"{source.name}.libs")):
            if path.exists():
                (place / path.name).symlink_to(path)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(place)}
    command = [sys.executable, "-S", "-P", *code]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)


def test_it_needs_numpy_and_onnxruntime_alone(exported, tmp_path):
    _, folder = exported
    done = alone(folder, tmp_path / "packages", ["run.py"])
    assert done.returncode == 0 and "self-test passed" in done.stdout, done.stderr
    code = (
        "import sys; sys.path.insert(0, '.'); import run, numpy as np; p = run.Policy(seed=1)\n"
        "for _ in range(8): a = p.act(np.zeros(3))\n"
        "print(a.shape, {'torch', 'lsp_fast', 'gymnasium'} & set(sys.modules))\n"
        "import torch"
    )
    done = alone(folder, tmp_path / "again", ["-c", code])
    assert done.stdout.strip() == "(1,) set()" and "No module named 'torch'" in done.stderr


def test_the_self_test_sees_what_is_wrong(exported, tmp_path, capsys, monkeypatch):
    import shutil

    wrong = shutil.copytree(exported[1], tmp_path / "wrong")
    about = json.loads((wrong / "policy.json").read_text())
    about["planning"]["every"] = 1
    (wrong / "policy.json").write_text(json.dumps(about))
    assert run.self_test(wrong) > 1e-4
    monkeypatch.setattr(run, "self_test", lambda: float("inf"))
    assert run.main() == 1 and "FAILED" in capsys.readouterr().out


def test_it_acts_in_the_environments_own_units(exported):
    _, folder = exported
    acting = run.Policy(folder)
    about = acting.about
    assert about["action"]["low"] == [-2.0] and about["action"]["high"] == [2.0]
    assert about["step"]["action_repeat"] == 2 and about["skill"]["length"] == 3 == about["planning"]["every"]
    env = envs.make(TASK)
    observation, _ = env.reset(seed=0)
    actions = [acting.act(observation) for _ in range(20)]
    assert all(action.dtype == np.float64 and (abs(action) <= 2).all() for action in actions)
    np.testing.assert_array_equal(
        actions[:5], [again.act(observation) for again in [run.Policy(folder)] for _ in "12345"]
    )
    assert not np.array_equal(actions[0], run.Policy(folder, seed=1).act(observation))


def test_what_it_cannot_do_it_says(exported):
    acting = run.Policy(exported[1])
    for wrong, words in (
        (np.zeros(4), r"shape \(3,\), not \(4,\)"),
        ([0, np.nan, 0], "finite; entry 1 is not"),
        ({"position": 0}, "no names"),
    ):
        with pytest.raises(ValueError, match=words):
            acting.act(wrong)
    for wrong in ([1.0, 2.0], [1.0, 2.0, np.inf]):
        with pytest.raises(ValueError, match="must be 3 finite numbers"):
            acting.hold(wrong)
    acting.hold([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="must be 3"):
        acting.hold([1.0])  # the one before is still held
    acting.reset()
    acting.act(np.zeros(3))
    np.testing.assert_array_equal(acting.skill, [1, 2, 3])
    acting.hold(None)
    for _ in range(3):
        acting.act(np.zeros(3))
    assert not np.array_equal(acting.skill, [1, 2, 3])


def test_an_action_that_is_not_finite_is_not_given_to_a_robot(exported, monkeypatch):
    acting = run.Policy(exported[1])
    first = acting.act(np.zeros(3))
    acting.reset()
    whole = acting._graphs["act"]
    with monkeypatch.context() as broken:
        broken.setitem(acting._graphs, "act", lambda values: [x * np.nan for x in whole(values)])
        broken.setitem(acting.about, "planning", None)
        with pytest.raises(FloatingPointError, match="must be finite"):
            acting.act(np.zeros(3))
    assert all(np.isfinite(x).all() for x in acting._memory.values()) and first.shape == acting.act(np.zeros(3)).shape


def test_entries_may_come_by_their_names(exported, tmp_path):
    import shutil

    folder = shutil.copytree(exported[1], tmp_path / "named")
    about = json.loads((folder / "policy.json").read_text())
    about["observation"]["entries"] = [{"name": "angle", "size": 2}, {"name": "velocity", "size": 1}]
    (folder / "policy.json").write_text(json.dumps(about))
    one, other = run.Policy(folder), run.Policy(folder)
    given = {"velocity": 3.0, "angle": [1.0, 2.0], "more": 0}
    np.testing.assert_array_equal(one.act(given), other.act([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="lacks velocity"):
        one.act({"angle": [1.0, 2.0]})


def test_a_suites_task_names_its_entries_and_actuators(smoke, tmp_path):
    folder = a_run(tmp_path / "run", smoke("dreamer", behavior__horizon=2), 17, 6)
    policy.export(folder, tmp_path / "policy", format="torch")
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert about["observation"]["entries"] == [{"name": "position", "size": 8}, {"name": "velocity", "size": 9}]
    assert about["action"]["names"] == ["bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"]
    assert about["step"] == {"action_repeat": 2, "seconds": 0.02} and about["graphs"]["plan"] is None
    assert beside(folder, tmp_path / "policy", 20) < 1e-4


def test_programs_of_torch_act_alike(smoke, tmp_path):
    folder = a_run(tmp_path / "run", smoke(**(SMALL | {"planner__iterations": 1, "behavior__horizon": 3})))
    found = policy.export(folder, tmp_path / "policy", format="torch")
    assert set(found.sizes) == {"act.pt2", "plan.pt2", "run.py", "selftest.npz", "policy.json"}
    assert beside(folder, tmp_path / "policy", 30, resets=(8,)) < 1e-4


def test_frames(smoke, tmp_path):
    config = smoke("dreamer", task="cheetah_run", obs="pixels", behavior__horizon=2)
    folder = a_run(tmp_path / "run", config, (64, 64, 3), 6)
    policy.export(folder, tmp_path / "policy")
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert about["observation"]["dtype"] == "uint8" and about["observation"]["shape"] == [64, 64, 3]
    assert beside(folder, tmp_path / "policy", 12, resets=(5,)) < 1e-4


def test_elites_follow_the_rules_for_ties_and_nan():
    """Ties go to the lower index, NaN is never an elite: through ONNX, as in the reference."""
    import onnxruntime

    from lsp_fast.export import graphs
    from lsp_fast.ops import select_elites

    class Choice(torch.nn.Module):
        def forward(self, values, plans):
            return select_elites(values, plans, 4, plans[:, 0], plans[:, 1])

    values, plans = torch.zeros(6, 9), torch.zeros(6, 9, 2, 3)
    example = [functions.Input("values", "", values), functions.Input("plans", "", plans)]
    data = graphs.to_onnx(functions.Function(Choice(), example, {"mean": [], "std": [], "indices": []}))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randint(-2, 3, (6, 9), generator=generator).float()
        plans = torch.randn(6, 9, 2, 3, generator=generator)
        values[0, ::2], values[1], values[2, :7] = torch.nan, torch.nan, torch.nan
        values[3, 1], values[3, 4], values[4, :5], values[5] = torch.inf, -torch.inf, -torch.inf, 0
        found = session.run(None, {"values": values.numpy(), "plans": plans.numpy()})
        expected = select_elites(values, plans, 4, plans[:, 0], plans[:, 1])
        np.testing.assert_array_equal(found[2], expected[2])
        for a, b in zip(found[:2], expected[:2], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_it_plans_as_it_is_told_to(smoke, tmp_path):
    folder = a_run(tmp_path / "run", smoke(**SMALL))
    command = f"export --logdir {folder} --out {tmp_path / 'policy'} --format torch --set planner.iterations=1"
    assert main(command.split()) == 0
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    [candidates] = [x["shape"] for x in about["graphs"]["plan"]["inputs"] if x["name"] == "candidates_noise"]
    assert candidates == [1, 1, 6, 2, 3]


def test_its_benchmark_prints_a_table(exported, tmp_path, capsys, monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "export.py"
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location("benchmark_of_export", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    folder, made = exported
    out = tmp_path / "out.json"
    benchmark.main(f"--logdir {folder} --policy {made} --steps 6 --out {out}".split())
    assert capsys.readouterr().out.startswith("step")
    rows = json.loads(out.read_text())["rows"]
    assert {(row["variant"], row["kind"], row["steps"]) for row in rows if row["variant"] != "C++"} == {
        (variant, kind, count) for variant in ("exported", "PyTorch") for kind, count in (("plan", 2), ("hold", 4))
    }


def test_what_cannot_be_exported_is_refused_by_name(smoke, tmp_path):
    folder = a_run(tmp_path / "run", smoke(**(SMALL | {"collect__commit": 0.5})))
    with pytest.raises(LspFastError, match=r"collect\.commit = 0\.5: .* leave --explore out"):
        policy.export(folder, tmp_path / "policy", explore=True)
    assert not (tmp_path / "policy").exists()


def test_graphs_that_do_something_else_are_not_written(exported, tmp_path, monkeypatch):
    _, folder = exported
    content = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    about = json.loads(content["policy.json"])
    about["planning"]["every"] = 2
    content["policy.json"] = json.dumps(about).encode()
    monkeypatch.setattr(policy, "_content", lambda *_: dict(content))
    with pytest.raises(LspFastError, match=r"differ from the agent's by .*; please report it"):
        policy.export(exported[0], tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_a_full_disk_leaves_nothing(exported, tmp_path, monkeypatch):
    content = {p.name: p.read_bytes() for p in exported[1].glob("*.*")}
    write = policy.files.write_bytes

    def full(path, data):
        if path.name == "policy.json":
            raise OSError(28, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(policy.files, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        policy._write(tmp_path / "policy", dict(sorted(content.items())))
    assert not (tmp_path / "policy").exists()
