"""Losses that C++ computes in one call, with every gradient, are those of the reference in float64."""

import copy

import numpy as np
import pytest
import torch
from agents.test_update import ACTION, OBS, batches, build

from lsp_fast.backends import REFERENCE, cpp, cpp_steps, fallback
from lsp_fast.errors import ConfigError
from lsp_fast.learning.behavior import BehaviorModels, Parts, behavior_losses, imagined
from lsp_fast.learning.values import value_weights
from lsp_fast.learning.world_model import world_model_loss
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise
from lsp_fast.ops.types import Normal, State

ODD = {
    "model__stoch": 3,
    "model__deter": 17,
    "model__hidden": 13,
    "model__encoder_units": 7,
    "model__decoder_units": 19,
}


class Doubled(Noise):
    """The same numbers in float64."""

    def normal(self, stream, *shape):
        return super().normal(stream, *shape).double()


def draw(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def shaken(agent):
    """Biases that are not zero, and an output that is not small."""
    random = draw(1)
    with torch.no_grad():
        for name, p in agent.modules.named_parameters():
            if "bias" in name:
                p.copy_(0.3 * random(*p.shape))
    return agent


def assert_close(got, want, tolerance=2e-5):
    assert got.keys() == want.keys()
    for name, value in want.items():
        error, scale = (got[name].double() - value).abs().max().item(), max(value.abs().max().item(), 1e-3)
        assert error <= tolerance * scale, f"{name}: off by {error} of {scale}"


# The world model.


def sequences(length, count, resets=0.2):
    random = draw(length * 100 + count)
    is_first = random(count, length) < 2 * resets - 1 if resets in (0, 1) else random(count, length).abs() < resets
    zeros = torch.zeros(count, length)
    return SequenceBatch(
        random(count, length, OBS), random(count, length, ACTION), random(count, length), zeros, is_first
    )


def model_of(agent, batch, backend, isa="auto"):
    model, c = agent.world_model, agent.config.model
    if isa != "auto":
        found = lambda *x: cpp_steps.world_model(*x, isa=isa)  # noqa: E731
        backend = backend._replace(world_model=found)
    latent = draw(2)(batch.reward.shape[1], batch.reward.shape[0], c.stoch).to(batch.reward.dtype)
    loss = world_model_loss(model, batch, latent, backend)
    names, leaves = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss.loss, leaves)
    states = {"stoch": loss.states.stoch.detach(), "deter": loss.states.deter.detach()}
    return {**loss.metrics, **states, **dict(zip(names, gradients, strict=True))}


def doubled(batch):
    return SequenceBatch(*(x.double() if x.is_floating_point() else x for x in batch))


@pytest.mark.parametrize("isa", cpp.instruction_sets())
@pytest.mark.parametrize("sizes", [(1, 1), (5, 17), (24, 32), (3, 1)])
def test_the_world_models_loss_is_float64s(sizes, isa):
    agent, batch = shaken(build(backend="cpp", **ODD)), sequences(*sizes)
    got = model_of(agent, batch, agent.backend, isa)
    agent.modules.double()
    assert_close(got, model_of(agent, doubled(batch), REFERENCE))


@pytest.mark.parametrize("resets", [0.0, torch.inf])
@pytest.mark.parametrize("free_nats", [0.0, 1e6])
def test_free_nats_open_and_shut_and_resets_everywhere_or_nowhere(free_nats, resets):
    agent, batch = shaken(build(backend="cpp", model__free_nats=free_nats)), sequences(6, 4, resets)
    got = model_of(agent, batch, agent.backend)
    agent.modules.double()
    want = model_of(agent, doubled(batch), REFERENCE)
    assert_close(got, want)
    assert bool(got["rssm.prior_out.weight"].abs().max() > 0) == (free_nats == 0)


@pytest.mark.parametrize(
    "overrides",
    [
        {"model__encoder_layers": 3, "model__decoder_layers": 1, "model__reward_layers": 4},
        {"model__kl_balance": 0.8, "model__free_nats": 0.0},
        {"model__reward_scale": 10.0},
        {"model__kl_balance": 1.0, "model__free_nats": 0.0},
    ],
)
def test_other_depths_weights_and_a_balanced_divergence(overrides):
    agent, batch = shaken(build(backend="cpp", **overrides)), sequences(4, 3)
    got = model_of(agent, batch, agent.backend)
    agent.modules.double()
    assert_close(got, model_of(agent, doubled(batch), REFERENCE))


def test_a_nan_comes_out_as_one():
    agent, batch = build(backend="cpp"), sequences(4, 3)
    batch.observation[1, 2, 0] = torch.nan
    found = world_model_loss(agent.world_model, batch, draw()(4, 3, agent.config.model.stoch), agent.backend)
    assert found.loss.isnan() and found.metrics["kl"].isnan()
    assert found.states.deter[:, 0].isfinite().all(), "another sequence's numbers are its own"


# Behaviour.


VARIANTS = {
    "lsp": {},
    "two segments and a rest": {"skill__length": 4},
    "ends": {"skill__length": 5, "predictor__inputs": "ends", "skill__intrinsic_form": "end"},
    "every": {"skill__length": 3, "skill__intrinsic_form": "every"},
    "another discount": {"behavior__gamma": 0.7, "behavior__lam": 0.2, "skill__beta": 3.0, "actor__entropy": 0.5},
    "no_mi": {"algorithm": "no_mi"},
    "random_skills": {"algorithm": "random_skills"},
    "dreamer": {"algorithm": "dreamer"},
    "deep": {"actor__layers": 4, "value__layers": 3, "predictor__layers": 3},
    "paid on a part": {"skill__length": 4, "skill__offset": "on", "options": {"paid": 7}},
    "kept from saturation": {"actor__saturation": 2.0, "actor__init_std": 0.3},
    "loud skills": {"skill__input_scale": 3.0},
    "normalised": {"predictor__normalise": True, "skill__length": 4},
    "a slow value": {"value__slow": 0.5, "value__layers": 3},
    "clipped targets": {"value__clip_targets": True, "behavior__gamma": 0.8},
    "clipped targets of a slow value": {"value__clip_targets": True, "behavior__gamma": 0.8, "value__slow": 0.5},
    "clipped by what was before": {"value__clip_targets": True, "behavior__gamma": 0.8, "largest": 7.0},
    "a weight that is measured": {"skill__beta_kind": "gradient", "beta": 0.37},
}


def losses_of(agent, states, backend, noise=Noise, dtype=torch.float32, beta=None, **options):
    c, random = agent.config, draw(states)
    start = State(random(states, c.model.stoch).to(dtype), random(states, c.model.deter).tanh().to(dtype))
    policy = skills = None
    if c.skill.source != "none":
        plan, width = c.plan_shape(ACTION)
        policy = Normal(random(plan, states, width).to(dtype), (0.1 + random(plan, states, width).abs()).to(dtype))
        skills = policy.mean + policy.std * random(plan, states, width).to(dtype)
    heads = value_weights(agent.value, agent.task_value)
    beta = None if beta is None else torch.tensor(beta, dtype=dtype)
    models = BehaviorModels(agent.plan_weights(), predictor=agent.predictor, beta=beta, **heads)
    options = {"diagnose": False, **options}
    return behavior_losses(start, skills, policy, models, noise(7), c, backend, **options)


def gradients_of(agent, found):
    each = {"actor": found.actor, "value": found.value, "predictor": found.predictor}
    result = {**found.metrics, "feature": found.feature}
    if found.largest_reward is not None:
        result["largest_reward"] = found.largest_reward
    for name, loss in each.items():
        if loss is None:
            continue
        result[name] = loss.detach()
        parameters = {k: p for k, p in agent.modules[name].named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        result |= {f"{name}.{k}": g for k, g in zip(parameters, gradients, strict=True)}
    return result


# One instruction set will do for what no kernel sees.
EACH = [(variant, "auto") for variant in VARIANTS]
EACH += [(variant, isa) for isa in cpp.instruction_sets()[1:] for variant in ("lsp", "two segments and a rest")]


@pytest.mark.parametrize("states", [1, 17, 40])
@pytest.mark.parametrize(("variant", "isa"), EACH)
def test_behaviours_losses_are_float64s(variant, isa, states):
    overrides = dict(VARIANTS[variant])
    options, beta = overrides.pop("options", {}), overrides.pop("beta", None)
    largest = overrides.pop("largest", 0)
    if "paid" in options:
        options["paid"] = min(options["paid"], states)
    agent = shaken(build(backend="cpp", **ODD, **overrides))
    if agent.config.predictor.normalise:
        agent.predictor.follow(1 + 3 * draw(3)(4, 5, len(agent.predictor.feature_mean)))
    if agent.config.actor.saturation:
        with torch.no_grad():
            agent.actor.mlp.out.weight.mul_(20)
    if agent.config.value.clip_targets:
        with torch.no_grad():
            for head in filter(None, (agent.value.mlp, agent.value.slow)):
                head.out.weight.mul_(200)
            agent.value.largest_reward.fill_(largest)
    called = []

    def counted(*given):
        called.append(cpp_steps.behavior(*given, isa=isa))
        return called[-1]

    got = gradients_of(agent, losses_of(agent, states, agent.backend._replace(behavior=counted), beta=beta, **options))
    assert called[0] is not None
    agent.modules.double()
    exact = losses_of(agent, states, REFERENCE, Doubled, torch.float64, beta, **options)
    assert_close(got, gradients_of(agent, exact))


@pytest.mark.parametrize(
    "overrides",
    [
        {"predictor__inputs": "per_step"},
        {"skill__mi": "compose"},
        {"value__skill": True},
        {"planner__value": "task"},
        {"actor__entropy_kind": "range"},
        {"model__discount_head": "on"},
    ],
)
def test_what_is_not_known_is_composed(overrides):
    agent = build(backend="cpp", **overrides)
    whole = agent.backend._replace(behavior=lambda *_: pytest.fail("it was called"))
    composed = losses_of(agent, 5, whole)
    assert torch.equal(composed.actor, losses_of(agent, 5, agent.backend._replace(behavior=None)).actor)


def test_diagnosis_terminal_states_and_compiled_parts_are_composed():
    agent = build(backend="cpp")
    whole = agent.backend._replace(behavior=lambda *_: pytest.fail("it was called"))
    compiled = Parts(imagined=lambda *given: imagined(*given))
    diagnosed = losses_of(agent, 5, whole, diagnose=True)
    assert diagnosed.task_return is not None
    assert torch.equal(losses_of(agent, 5, whole, parts=compiled).actor, diagnosed.actor)
    losses_of(agent, 5, whole, live=torch.tensor([1.0, 0, 1, 1, 0]))


# Both.


UPDATES = {
    "lsp": {},
    "every option of skills": {
        "skill__random_share": 0.5,
        "behavior__starts": 6,
        "skill__beta_kind": "gradient",
        "skill__beta_every": 2,
        "skill__offset": "on",
        "skill__input_scale": 3.0,
        "predictor__normalise": True,
        "actor__saturation": 0.1,
        "model__kl_balance": 0.8,
        "model__reward_scale": 10.0,
        "value__clip_targets": True,
    },
    "a value of the replay, too": {"algorithm": "no_mi", "value__replay": 0.3, "planner__std_min": 0.3},
    "a frozen policy": {"transfer__source": "elsewhere", "transfer__freeze_policy": True},
    "LayerNorm and symlog": {
        "model__norm": True,
        "model__normalize_observations": True,
        "model__normaliser": "symlog",
        "planner__rollouts": "mean",
    },
}


@pytest.mark.parametrize("variant", UPDATES)
def test_whole_and_composed_updates_learn_alike(variant):
    whole, composed = (build(backend="cpp", **UPDATES[variant]) for _ in range(2))
    called = []

    def counted(*given):
        called.append(cpp_steps.behavior(*given))
        return called[-1]

    whole.learner = whole.learner._replace(behavior=counted)
    composed.learner = composed.learner._replace(world_model=None, behavior=None)
    composed.model_loss.keywords["backend"] = composed.learner
    for batch in batches(whole.config, 4):
        got, want = (agent.update(batch) for agent in (whole, composed))
        assert got.keys() == want.keys()
        for name, value in want.items():
            assert abs(got[name] - value) <= 2e-4 * max(abs(value), 1e-2), name
    # Updates that measure the weight of r^i are composed.
    assert len(called) == (2 if whole.balance is not None else 4) and None not in called
    for (name, ours), (_, theirs) in zip(whole.modules.named_buffers(), composed.modules.named_buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5, msg=name)


def test_a_gradient_is_there_once_scaled_and_not_twice():
    agent, batch = build(backend="cpp"), sequences(3, 2)
    parameters, latent = list(agent.world_model.parameters()), draw()(3, 2, agent.config.model.stoch)
    loss = lambda: world_model_loss(agent.world_model, batch, latent, agent.backend).loss  # noqa: E731
    plain, tripled = (torch.autograd.grad(x, parameters) for x in (loss(), 3 * loss()))
    assert all(torch.allclose(3 * a, b, rtol=1e-6, atol=0) for a, b in zip(plain, tripled, strict=True))
    kept = loss()
    torch.autograd.grad(kept, parameters, retain_graph=True)
    with pytest.raises(RuntimeError, match="world_model: its gradient has been taken"):
        torch.autograd.grad(kept, parameters)
    with pytest.raises(RuntimeError, match="world_model: the gradient of its gradient"):
        torch.autograd.grad(loss(), parameters, create_graph=True)


def test_losses_that_are_added_have_each_its_gradient():
    agent = build(backend="cpp")
    parameters = [*agent.actor.parameters(), *agent.value.parameters()]
    apart = losses_of(agent, 4, agent.backend)
    want = [*torch.autograd.grad(apart.actor, list(agent.actor.parameters()))]
    want += torch.autograd.grad(apart.value, list(agent.value.parameters()))
    both = losses_of(agent, 4, agent.backend)
    got = torch.autograd.grad(both.actor + both.value, parameters)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_nothing_is_asked_for_without_gradients():
    agent, batch = build(backend="cpp"), sequences(3, 2)
    with torch.no_grad():
        found = world_model_loss(agent.world_model, batch, draw()(3, 2, agent.config.model.stoch), agent.backend)
        losses = losses_of(agent, 4, agent.backend)
    assert not found.loss.requires_grad and not losses.actor.requires_grad


def test_in_another_dtype_or_under_autocast_the_losses_are_composed():
    fallback.say_once.cache_clear()
    agent, batch, told = build(backend="cpp"), sequences(3, 2), []

    def tried(*given):
        told.append(cpp_steps.behavior(*given))
        return told[-1]

    latent = draw()(3, 2, agent.config.model.stoch)
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(UserWarning, match="under autocast"):
        got = world_model_loss(agent.world_model, batch, latent, agent.backend).loss
        assert torch.equal(got, world_model_loss(agent.world_model, batch, latent, REFERENCE).loss)
        assert losses_of(agent, 4, agent.backend._replace(behavior=tried)).actor.isfinite() and told == [None]
    double = copy.deepcopy(agent.modules).double()
    model = double["world_model"]
    with pytest.warns(UserWarning, match="float64"):
        got = world_model_loss(model, doubled(batch), latent.double(), agent.backend).loss
    assert torch.equal(got, world_model_loss(model, doubled(batch), latent.double(), REFERENCE).loss)


def test_shapes_that_do_not_fit_are_named():
    agent, batch = build(backend="cpp"), sequences(3, 2)
    latent = draw()(4, 2, agent.config.model.stoch)
    with pytest.raises(ValueError, match="noise"):
        world_model_loss(agent.world_model, batch, latent, agent.backend)
    c = agent.config.model
    zeros = [torch.zeros(*shape).numpy() for shape in ((2, c.stoch), (2, c.deter), (1, 2, c.stoch), (1, 2, ACTION))]
    with pytest.raises(ValueError, match="two steps"):
        cpp.load().behavior(*zeros[:2], None, None, 1, *zeros[2:], (), 0.9, 0.9, 0.0, 0.0, 1.5, np.inf, None, False, 1)


# In bf16.

needs_bf16 = pytest.mark.skipif("avx512bf16" not in cpp.instruction_sets(), reason="no instruction multiplies bf16")


def distance(got, want):
    """Of all gradients together, relative."""
    names = [name for name in want if "." in name]
    apart = sum(((got[name].double() - want[name]) ** 2).sum() for name in names)
    return (apart / sum((want[name] ** 2).sum() for name in names)).sqrt().item()


@needs_bf16
@pytest.mark.parametrize("part", ["world model", "behaviour"])
def test_bf16_gradients_are_as_near_to_float64s_as_autocasts(part):
    sizes = {"model__deter": 64, "model__hidden": 64, "actor__units": 64, "value__units": 64, "predictor__units": 64}
    agent, batch = shaken(build(backend="cpp", train__precision="bf16", **sizes)), sequences(12, 16)

    def found(backend, batch, *exactly):
        if part == "world model":
            return model_of(agent, batch, backend)
        return gradients_of(agent, losses_of(agent, 40, backend, *exactly))

    got = found(agent.learner, batch)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = found(REFERENCE, batch)
    plain = found(agent.backend, batch)
    agent.modules.double()
    exact = found(REFERENCE, doubled(batch), Doubled, torch.float64)
    assert 10 * distance(plain, exact) < distance(got, exact) <= 2 * distance(autocast, exact)


@needs_bf16
@pytest.mark.parametrize("algorithm", ["lsp", "dreamer", "planet"])
def test_training_in_bf16_stays_near_the_reference(algorithm):
    plain, rounded = build(algorithm), build(algorithm, "cpp", train__precision="bf16")
    for batch in batches(plain.config, 3):
        want, got = plain.update(batch), rounded.update(batch)
        for name in (name for name in want if name.endswith("_loss") or name == "world_model/loss"):
            assert abs(got[name] - want[name]) <= 0.02 * max(abs(want[name]), 1), name


def test_bf16_where_nothing_multiplies_it_is_refused():
    with pytest.raises(ConfigError, match=r"train\.precision = 'bf16' needs --backend cpp"):
        build("lsp", "reference", train__precision="bf16")
    for name, value in {"train__compile": True, "train__autocast": True, "train__observe": "scan"}.items():
        with pytest.raises(ConfigError, match="set it to fp32"):
            build(train__precision="bf16", **{name: value})
    with pytest.raises(ConfigError, match="set it to fp32"):
        build("hiro", train__precision="bf16")
