"""An exported policy does what the agent does, and the command writes it whole or not at all."""

import importlib.util
import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from exported import SMALL, TASK, a_run, beside
from gymnasium.spaces import Box, Dict, Sequence

from lsp_fast.cli import main
from lsp_fast.errors import LspFastError
from lsp_fast.evaluate import load_as
from lsp_fast.export import functions, policy, run

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


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_it_acts_as_the_agent_does(name, smoke, tmp_path):
    algorithm, options, explore = (FAST | SLOW)[name]
    folder = a_run(tmp_path / "run", smoke(algorithm, **(SMALL | options)))
    found = policy.export(folder, tmp_path / "policy", explore=explore)
    assert found.difference <= 1e-4 and f"acts {found.acting}" in str(found)
    assert beside(folder, tmp_path / "policy", 200, explore, resets=(50, 52, 130)) < 1e-4
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    with np.load(tmp_path / "policy" / "selftest.npz") as recorded:
        assert recorded["is_first"].sum() == 2  # what an episode leaves behind would show
    assert about["acting"] == ("exploring" if explore else "deterministic") and about["env_steps"] == 1000


def test_lsp_acts_as_the_agent_does(exported):
    assert beside(*exported, 200, resets=(50, 52, 130)) < 1e-4
    assert beside(*exported, 10, resets=(7,), hold=[-1.0, 0.0, 1.0]) < 1e-4


def test_a_suites_task_names_its_entries_and_actuators(smoke, tmp_path):
    folder = a_run(tmp_path / "run", smoke("dreamer", behavior__horizon=2), 17, 6)
    policy.export(folder, tmp_path / "policy", format="torch")
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert about["observation"]["entries"] == [{"name": "position", "size": 8}, {"name": "velocity", "size": 9}]
    assert about["action"]["names"] == ["bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"]
    assert about["step"] == {"action_repeat": 2, "seconds": 0.02} and about["graphs"]["plan"] is None
    assert beside(folder, tmp_path / "policy", 20) < 1e-4


@pytest.mark.parametrize("normaliser", ["prefill", "symlog"])
def test_it_tells_how_observations_are_normalised(normaliser, smoke, tmp_path):
    """The formula in policy.json, computed as it stands there."""
    folder = a_run(tmp_path / "run", smoke("dreamer", task=TASK, model__normaliser=normaliser, behavior__horizon=2))
    policy.export(folder, tmp_path / "policy", format="torch")
    told = json.loads((tmp_path / "policy" / "policy.json").read_text())["observation"]["normalised"]
    names = {"mean": np.array(told["mean"]), "std": np.array(told["std"]), "sign": np.sign, "log": np.log}
    names["x"] = x = np.array([3.0, -0.5, 10.0])
    formula, _, y = told["formula"].partition(", y = ")
    if y:
        names["y"] = eval(y, names)
        formula = formula.replace(" log", " * log").replace("|y|", "abs(y)")
    world_model = load_as(folder, **policy.PLAIN).world_model
    ours = world_model.normalize(torch.tensor(x, dtype=torch.float32))
    assert not np.allclose(ours, x)
    np.testing.assert_allclose(eval(formula, names), ours, rtol=1e-5)


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


class Sighted(gymnasium.Env):
    """Its camera has another size than the model's frames, and beside it is what has no fixed width."""

    observation_space = Dict(camera=Box(0, 255, (37, 51, 3), np.uint8), found=Sequence(Box(-1, 1, (2,))))
    action_space = Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


def test_frames_of_another_size_beside_what_is_no_number(smoke, tmp_path):
    gymnasium.register("Sighted-v0", Sighted, max_episode_steps=10)
    values = {"task": "gym:Sighted-v0", "obs": "pixels", "observation__resize": True, "behavior__horizon": 2}
    policy.export(a_run(tmp_path / "run", smoke("dreamer", **values), (64, 64, 3), 2), tmp_path / "policy")
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert "each pixel the mean over its area (Pillow's BOX)" in about["observation"]["unit"]


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


def test_old_versions_of_onnx_runtime_read_and_run_it(exported, monkeypatch):
    import onnx
    import onnxruntime

    asked = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, options, providers: asked.append(options))
    run.Policy(exported[1])
    for name, options in zip(("act", "plan"), asked, strict=True):
        model = onnx.load(exported[1] / f"{name}.onnx", load_external_data=False)
        assert model.ir_version <= 9 and model.opset_import[0].version <= 20  # of 1.17
        assert not options.enable_mem_pattern


def test_a_pretrained_agents_folder_has_its_name(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(policy, "export", lambda source, out, **_: made.append((str(source), out)))
    for option in ("--pretrained cheetah_run", "--logdir pretrained:cheetah_run"):
        assert main(f"export {option}".split()) == 0
    assert made == [("pretrained:cheetah_run", Path("runs/cheetah_run-policy"))] * 2
    assert main(f"export --logdir {tmp_path}".split()) == 0 and made[-1] == (str(tmp_path), tmp_path / "policy")


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


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_and_an_interruption_leave_nothing(error, exported, tmp_path, monkeypatch):
    content = {p.name: p.read_bytes() for p in exported[1].glob("*.*")}
    write = policy.files.write_bytes

    def full(path, data):
        if path.name == "policy.json":
            path.with_name(path.name + policy.files.PART).touch()
            raise error
        write(path, data)

    monkeypatch.setattr(policy.files, "write_bytes", full)
    with pytest.raises(type(error)):
        policy._write(tmp_path / "policy", dict(sorted(content.items())))
    assert not (tmp_path / "policy").exists()
