"""Defaults are the specification's, rows are what their names say, bad values are named."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_fast.config import ALGORITHMS, PRESETS, Config, check, differences, from_dict, make_config, replace, to_dict
from lsp_fast.errors import ConfigError

SPECIFICATION = {
    "env_steps": 1_000_000,
    "collect.action_repeat": 2,
    "collect.num_envs": 1,
    "collect.prefill": 5000,
    "collect.exploration_noise": 0.3,
    "train.train_every": 5,
    "train.pretrain": 100,
    "train.batch_size": 50,
    "train.batch_length": 50,
    "train.eval_every": 10_000,
    "train.eval_episodes": 5,
    "model.stoch": 30,
    "model.deter": 200,
    "model.hidden": 200,
    "model.encoder_units": 256,
    "model.encoder_layers": 2,
    "model.reward_units": 400,
    "model.reward_layers": 2,
    "model.decoder_units": 256,
    "model.decoder_layers": 2,
    "model.min_std": 0.1,
    "model.decoder_min_std": 0.1,
    "model.decoder_max_std": 1.5,
    "model.free_nats": 3.0,
    "model.discount_head": "auto",
    "model.discount_scale": 10.0,
    "model.learning_rate": 6e-4,
    "actor.units": 400,
    "actor.layers": 4,
    "actor.mean_scale": 5.0,
    "actor.init_std": 5.0,
    "actor.min_std": 1e-4,
    "actor.eval_action": "mode_of_samples",
    "actor.learning_rate": 8e-5,
    "value.units": 400,
    "value.layers": 3,
    "value.learning_rate": 8e-5,
    "value.skill": False,
    "behavior.horizon": 10,
    "behavior.gamma": 0.99,
    "behavior.lam": 0.95,
    "behavior.plan_states": 0,
    "skill.source": "planned",
    "skill.intrinsic": True,
    "skill.mi": "predict",
    "skill.compose_skills": 16,
    "skill.dim": 3,
    "skill.length": 10,
    "skill.beta": 1.0,
    "skill.intrinsic_form": "spread",
    "skill.noise": 0.1,
    "skill.noise_kind": "std",
    "planner.candidates": 16,
    "planner.elites": 4,
    "planner.iterations": 4,
    "planner.objective": "lambda_return",
    "planner.value": "shared",
    "planner.std_floor": 1e-6,
    "predictor.inputs": "segment",
    "predictor.units": 256,
    "predictor.layers": 2,
    "predictor.noise": 0.3,
    "predictor.learning_rate": 8e-5,
    "hiro.units": 300,
    "hiro.layers": 2,
    "hiro.actor_learning_rate": 1e-4,
    "hiro.critic_learning_rate": 1e-3,
    "hiro.tau": 0.005,
    "hiro.delay": 2,
    "hiro.smoothing": 0.2,
    "hiro.smoothing_clip": 0.5,
    "hiro.candidates": 10,
    "hiro.candidate_std": 0.5,
    "hiro.reward_scale": 0.1,
    "hiro.goal_noise": 0.1,
    "hiro.goal_range": 2.0,
    "hiro.skill_range": 2.0,
    "optimizer.eps": 1e-7,
    "optimizer.grad_clip": 100.0,
    # The options for small budgets are off.
    "model.normalize_observations": False,
    "model.normaliser": "prefill",
    "model.norm": False,
    "model.kl_balance": 0.0,
    "model.reward_scale": 1.0,
    "value.slow": 0.0,
    "value.clip_targets": False,
    "value.replay": 0.0,
    "train.pretrain_world_model_only": False,
    "actor.entropy": 0.0,
    "skill.per_plan": 1,
    # So are those that go beyond the paper.
    "actor.entropy_kind": "fixed",
    "actor.saturation": 0.0,
    "behavior.starts": 0,
    "skill.beta_kind": "fixed",
    "skill.random_share": 0.0,
    "skill.input_scale": 1.0,
    "skill.offset": "auto",
    "predictor.normalise": False,
}

# docs/configuration.md gives the reason of each but the first two, which only say when.
CPU_DEPARTURES = {
    "preset", "train.checkpoint_every",
    "env_steps", "collect.prefill", "train.eval_every", "train.eval_episodes",
    "train.batch_size", "train.batch_length", "behavior.plan_states", "skill.per_plan",
    "model.deter", "model.hidden", "model.encoder_units", "model.decoder_units", "model.reward_units",
    "actor.units", "actor.layers", "value.units", "predictor.units",
    "model.learning_rate", "actor.learning_rate", "value.learning_rate", "predictor.learning_rate",
    "model.normalize_observations", "train.pretrain_world_model_only", "actor.init_std", "actor.entropy", "skill.beta",
    "planner.precision",
    "train.train_every", "planner.rollouts", "planner.std_min", "skill.random_share", "skill.beta_kind",
    "skill.beta_max", "skill.input_scale", "predictor.normalise", "value.slow",
    "value.clip_targets",
}  # fmt: skip

HIRO = {
    "skill.source": "none", "skill.intrinsic": False, "train.train_every": 2, "train.pretrain": 0,
    "train.batch_size": 100, "collect.replay_capacity": 200_000, "collect.exploration_noise": 0.1,
}  # fmt: skip
ALGORITHM_DEPARTURES = {
    "lsp": {},
    "no_mi": {"skill.intrinsic": False},
    "random_skills": {"skill.source": "random"},
    "rand_skills_init": {"skill.source": "random", "skill.intrinsic": False},
    "dreamer": {"skill.source": "none", "skill.intrinsic": False, "behavior.horizon": 15},
    "planet": {
        "skill.source": "none", "skill.intrinsic": False, "planner.over": "actions", "planner.candidates": 1000,
        "planner.elites": 100, "planner.iterations": 10, "planner.objective": "sum", "planner.std_floor": 0.0,
        "behavior.horizon": 12, "behavior.gamma": 1.0,
    },
    "hiro": {"hiro.goals": "states"} | HIRO,
    "hiro_mi": {"hiro.goals": "skills"} | HIRO,
}  # fmt: skip
# What a preset may set and these do not know.
NO_IMAGINATION = {"skill.beta_kind": "fixed", "predictor.normalise": False, "value.clip_targets": False}
NOT_FOR = {
    "planet": {"planner.rollouts": "sampled", "planner.std_min": 0.0, "value.clip_targets": False},
    "hiro": NO_IMAGINATION,
    "hiro_mi": NO_IMAGINATION,
}


def test_what_is_taken_over_needs_a_run_to_take_over():
    for value in ("relabel", "freeze_policy"):
        with pytest.raises(ConfigError, match="need a run to take over"):
            make_config("smoke", **{f"transfer__{value}": True})
        make_config("smoke", **{f"transfer__{value}": True}, transfer__source="runs/x")


def value_of(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("name", SPECIFICATION)
def test_defaults_are_the_specifications(name):
    assert value_of(make_config("paper"), name) == SPECIFICATION[name]


def test_the_cpu_preset_keeps_the_algorithm():
    assert set(differences(make_config("paper"), make_config("cpu"))) == CPU_DEPARTURES


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_apply_and_survive_json(preset, algorithm):
    config = make_config(preset, algorithm)
    assert (config.preset, config.algorithm) == (preset, algorithm)
    changed = {name: new for name, (_, new) in differences(make_config(preset), config).items()}
    row = ALGORITHM_DEPARTURES[algorithm] | NOT_FOR.get(algorithm, {})
    expected = {name: value for name, value in row.items() if value_of(make_config(preset), name) != value}
    assert changed == expected | ({} if algorithm == "lsp" else {"algorithm": algorithm})
    assert config.skill_dim == (0 if "skill.source" in changed and changed["skill.source"] == "none" else 3)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@given(
    st.integers(1, 10**9), st.integers(0, 2**31 - 1), st.floats(0, 100, allow_nan=False), st.text(), st.integers(1, 8)
)
def test_any_valid_value_survives_json(env_steps, seed, beta, task, elites):
    config = make_config(env_steps=env_steps, seed=seed, skill__beta=beta, task=task, planner__elites=elites)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_names_are_checked_and_the_nearest_is_told():
    with pytest.raises(ConfigError, match=r"'planner\.elite'; did you mean elites"):
        make_config(planner__elite=3)
    with pytest.raises(ConfigError, match=r"'planner\.shared_noise'; did you mean planner\.rollouts = shared\?"):
        make_config(planner__shared_noise=True)
    for row in ({"preset": "cheap"}, {"algorithm": "sac"}):
        with pytest.raises(ConfigError, match="there are"):
            make_config(**row)


def leaves(node=None, prefix=""):
    for f in dataclasses.fields(node := node or Config()):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, value


NUMBERS = [name for name, value in leaves() if isinstance(value, (int, float)) and not isinstance(value, bool)]


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_may_be_negative_or_nan(name):
    number = value_of(Config(), name)
    for bad in (-1, float("nan"), float("inf")) if isinstance(number, float) else (-1,):
        with pytest.raises(ConfigError, match=name.replace(".", r"\.") + " = "):
            check(replace(Config(), {name: bad}))


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("seed", 2**31),
        ("skill.length", 0),
        ("behavior.horizon", 1),
        ("planner.elites", 17),
        ("skill.length", 11),
        ("skill.compose_skills", 1),
        ("model.decoder_min_std", 2.0),
        ("model.normaliser", "symlog"),  # nothing is standardised
        ("model.kl_balance", 1.1),
        ("model.normaliser_every", 0),
        ("behavior.lam", 1.1),
        ("skill.random_share", 1.1),
        ("collect.workers", 2),  # of one environment
    ],
)
def test_values_that_do_not_fit_are_named(name, bad):
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        make_config(**{name.replace(".", "__"): bad})


def test_there_are_no_fewer_starts_than_are_planned_for():
    with pytest.raises(ConfigError, match=r"behavior\.starts = 16: .*behavior\.plan_states = 32"):
        make_config("cpu", behavior__starts=16)
    assert (
        make_config("cpu", behavior__starts=16, behavior__plan_states=16, skill__random_share=0.0).planned_states(16)
        == 16
    )


@pytest.mark.parametrize("overrides", [{"skill__beta_kind": "gradient"}, {"predictor__normalise": True}])
def test_hiro_has_neither_a_gradient_of_the_reward_nor_imagined_states(overrides):
    with pytest.raises(ConfigError, match=f"{next(iter(overrides)).replace('__', '.')} = .*HIRO"):
        make_config("smoke", "hiro_mi", **overrides)


def test_every_algorithm_learns_from_as_many_rollouts():
    for algorithm in ("lsp", "no_mi", "random_skills", "rand_skills_init"):
        config = make_config("cpu", algorithm)
        assert config.start_states * config.skill.per_plan == 128
    assert make_config("cpu", "dreamer").start_states == 128 and make_config("paper", "dreamer").start_states == 0
    before = to_dict(make_config("cpu", "dreamer"))
    del before["behavior"]["starts"]
    assert from_dict(before).start_states == 32  # a run from before goes on as it began


def test_the_offset_is_on_where_episodes_can_end():
    entropy = 1.5 * math.log(2 * math.pi * math.e)
    assert make_config().skill_offset == 0
    assert make_config(skill__offset="on").skill_offset == pytest.approx(entropy) == pytest.approx(4.2568, abs=1e-4)
    assert make_config(task="gym:Hopper-v5", skill__dim=6).skill_offset == pytest.approx(2 * entropy)
    assert make_config(task="gym:Hopper-v5", skill__offset="off").skill_offset == 0
    before = to_dict(make_config(task="gym:Hopper-v5"))
    del before["skill"]["offset"]
    assert from_dict(before).skill_offset == 0


def test_a_skill_longer_than_the_horizon_needs_a_reward_that_does_not_wait_for_its_end():
    config = make_config(skill__length=11, skill__mi="compose")
    assert config.imagined_steps == make_config(algorithm="no_mi", skill__length=11).imagined_steps


@pytest.mark.parametrize(
    "options",
    [
        {"obs": "pixels", "model__norm": True},
        {"algorithm": "hiro", "model__norm": True},
        {"algorithm": "hiro", "model__normaliser": "replay"},
    ],
)
def test_options_of_the_feature_model_need_one(options):
    with pytest.raises(ConfigError, match=r"model\.norm"):
        make_config("cpu", **options)


def test_a_value_of_skills_needs_skills():
    for algorithm in ("dreamer", "planet"):
        with pytest.raises(ConfigError, match=r"value\.skill = True needs skills: set skill\.source"):
            make_config(algorithm=algorithm, value__skill=True)
    assert make_config(algorithm="random_skills", value__skill=True).value.skill


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda d: d.pop("seed"), "not a configuration of a run: seed"),
        (lambda d: d.update(sede=1), "another version: sede"),
        (lambda d: d["skill"].update(betta=1.0), r"another version: skill\.betta"),
        (lambda d: d.update(seed="0"), "seed = '0'"),
        (lambda d: d.update(seed=True), "seed = True"),
        (lambda d: d.update(model=3), "model"),
        (lambda d: d["model"].update(deter=1.5), r"model\.deter = 1\.5"),
        (lambda d: d["skill"].update(beta=float("nan")), r"skill\.beta = nan"),
        (lambda d: d["skill"].update(beta=None), r"skill\.beta = None"),
        (lambda d: d["skill"].update(source="bogus"), r"skill\.source = 'bogus'"),
        (lambda d: d.update(algorithm="sac"), "algorithm = 'sac'"),
    ],
)
def test_foreign_json_is_refused_and_the_field_named(spoil, named):
    data = to_dict(make_config())
    spoil(data)
    with pytest.raises(ConfigError, match=named):
        from_dict(data)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("skill.source", "plannedd"), ("backend", "fpga"), ("actor.eval_action", None), ("seed", "0"), ("task", 5),
        ("planner.elites", 2.5), ("env_steps", True), ("skill.beta", "1"), ("skill.intrinsic", 1), ("model", 3),
    ],
)  # fmt: skip
def test_values_of_another_type_or_name_are_refused(name, bad):
    with pytest.raises(ConfigError, match=name.replace(".", r"\.") + " = .*must be"):
        make_config(**{name.replace(".", "__"): bad})


def test_every_problem_is_named_at_once():
    with pytest.raises(ConfigError) as error:
        make_config(env_steps=-1, skill__length=0)
    assert "env_steps = -1" in str(error.value) and "skill.length = 0" in str(error.value)


def test_differences_are_named_with_both_values():
    assert differences(make_config(), make_config(seed=1, skill__beta=0.5)) == {
        "seed": (0, 1),
        "skill.beta": (1.0, 0.5),
    }


def test_a_configuration_is_frozen():
    for node in (make_config(), make_config().skill):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(node, dataclasses.fields(node)[0].name, 1)


def test_a_configuration_from_before_a_value_existed_has_its_default():
    data = to_dict(make_config("gpu", skill__dim=5))
    del data["max_minutes"], data["train"]["overlap"], data["planner"]
    config = from_dict(data)
    # Noise came as tensors before there was a choice.
    before = make_config("gpu", skill__dim=5, planner__noise="tensors", planner__precision="fp32", train__overlap=False)
    assert config == before and not config.train.overlap


def test_where_a_run_logs_is_a_list_of_names():
    assert make_config("smoke").log == ("tensorboard",)
    assert make_config("smoke", log=["wandb", "mlflow"]).log == ("wandb", "mlflow")
    config = make_config("smoke", log=())
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    older = {name: value for name, value in to_dict(config).items() if name != "log"}
    assert from_dict(json.loads(json.dumps(older))).log == ("tensorboard",)
    for wrong in ("wandb", [1], [""], {"wandb": 1}, None):
        with pytest.raises(ConfigError, match=r"log = .*: must be a list of names, as \['tensorboard'\]"):
            make_config("smoke", log=wrong)
    with pytest.raises(ConfigError, match="mlflow is there twice; name it once"):
        make_config("smoke", log=["mlflow", "wandb", "mlflow"])
    with pytest.raises(ConfigError, match=r"train.video_every = -1: must be at least 0"):
        make_config("smoke", train__video_every=-1)
    with pytest.raises(ConfigError, match=r"train.video_every = 100: evaluations are filmed, and train.eval_every = 0"):
        make_config("smoke", train__video_every=100, train__eval_every=0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"observation__resize": True}, "only gym: tasks"),
        ({"task": "gym:X-v0", "observation__frame": "a"}, "features see no frame; set obs"),
        ({"task": "gym:X-v0", "observation__resize": True}, "features see no frame; set obs"),
        ({"task": "gym:X-v0", "obs": "pixels", "observation__vectors": "a"}, "pixels see no numbers; set obs to both"),
        ({"task": "gym:X-v0", "observation__vectors": "a,,b"}, "a name is empty"),
        ({"task": "gym:X-v0", "observation__vectors": ""}, "a name is empty"),
        ({"task": "gym:X-v0", "obs": "both", "observation__frame": " "}, "a name is empty"),
        ({"algorithm": "hiro", "obs": "both"}, "HIRO learns from features only"),
        ({"obs": "both", "data": "x"}, "recordings are read as features"),
        ({"task": "gym:X-v0", "data": "x", "observation__vectors": "b,a"}, "own order.*observation.vectors to auto"),
    ],
)
def test_what_is_seen_must_be_there(options, named):
    with pytest.raises(ConfigError, match=named):
        make_config("cpu", **options)


def test_runs_from_before_entries_could_be_chosen_flattened_all():
    for task, vectors in (("gym:X-v0", "all"), ("cheetah_run", "auto")):
        before = to_dict(make_config(task=task))
        del before["observation"]
        assert from_dict(before).observation.vectors == vectors
        assert from_dict(to_dict(make_config(task=task))).observation.vectors == "auto"


def test_norms_are_taken_beside_a_frame():
    assert make_config("cpu", obs="both", model__norm=True).model.norm
