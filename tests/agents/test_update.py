"""Ten whole training updates: against stored losses, and each against the oracle (SPEC section 6).

`python tests/agents/test_update.py` stores the losses anew; a commit that does so says why they changed.
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import oracle

from lsp_fast import agents
from lsp_fast.agents.goals import Segments
from lsp_fast.config import ALGORITHMS, make_config
from lsp_fast.errors import BackendUnavailable
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise

STORED = Path(__file__).parents[1] / "data" / "ten_updates.json"
OBS, ACTION = 5, 2
LOSSES = (
    "world_model/loss", "behavior/actor_loss", "behavior/value_loss", "behavior/predictor_loss",
    "hiro/low_critic_loss", "hiro/low_actor_loss", "hiro/high_critic_loss", "hiro/predictor_loss",
)  # fmt: skip


def build(algorithm="lsp", backend="reference", **overrides):
    # Every backend's plans see the same noise.
    overrides = {"planner__noise": "tensors", **overrides}
    config = make_config("smoke", algorithm, device="cpu", backend=backend, **overrides)
    return agents.make(OBS, ACTION, config)


def batches(config, count=10):
    """Sequences of a little linear system, with resets inside; of HIRO segments of it, a third without a goal."""
    rng = np.random.default_rng(0)
    if config.hiro.goals != "none":
        yield from segments(config, rng, count)
        return
    b, length = config.train.batch_size, config.train.batch_length
    for _ in range(count):
        action = rng.uniform(-1, 1, (b, length, ACTION))
        observation = np.cumsum(rng.normal(size=(b, length, OBS)), 1) * 0.3
        reward = observation[..., 0] + action.sum(-1)
        is_first = rng.uniform(size=(b, length)) < 0.1
        arrays = (observation, action, reward, np.zeros((b, length)))
        yield SequenceBatch(*(torch.tensor(x, dtype=torch.float32) for x in arrays), torch.tensor(is_first))


def segments(config, rng, count):
    b, rows = config.train.batch_size, config.skill.length + 1
    goals = OBS if config.hiro.goals == "states" else config.skill.dim
    for _ in range(count):
        action = rng.uniform(-1, 1, (b, rows, ACTION))
        observation = np.cumsum(rng.normal(size=(b, rows, OBS)), 1) * 0.3
        extras = np.broadcast_to(rng.normal(size=(b, 1, goals + 1)), (b, rows, goals + 1)).copy()
        extras[..., -1] = (np.arange(b) % 3 > 0)[:, None]
        arrays = (observation, action, observation[..., 0], np.zeros((b, rows)), np.zeros((b, rows)), extras)
        whole = torch.full((b,), config.skill.length)
        yield Segments(*(torch.tensor(x, dtype=torch.float32) for x in arrays), whole)


def losses(algorithm, backend="reference", **overrides):
    agent = build(algorithm, backend, **overrides)
    rows = [agent.update(batch) for batch in batches(agent.config)]
    return {name: [row[name].item() for row in rows if name in row] for name in LOSSES if name in rows[0]}


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ten_updates_reproduce_the_stored_losses(algorithm, backend):
    stored = json.loads(STORED.read_text())[algorithm]
    try:
        now = losses(algorithm, backend)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    assert now.keys() == stored.keys()
    for name, values in now.items():
        np.testing.assert_allclose(values, stored[name], rtol=1e-4, err_msg=name)


def numpy64(x):
    return x.detach().numpy().astype(np.float64)


class Snapshot:
    """Float64 copies of an agent's weights at one moment, and the noise that its next draws will give."""

    def __init__(self, agent):
        self.agent = copy.deepcopy(agent.modules)
        self.noise = Noise(agent.config.seed)
        self.noise.load_state_dict(copy.deepcopy(agent.noise.state_dict()))

    def draw(self, stream, *shape):
        return numpy64(self.noise.normal(stream, *shape))


def rssm_of(world_model):
    prior = oracle.arrays(world_model.rssm.prior_weights())
    post = oracle.arrays(world_model.rssm.posterior_weights())
    names = ("img_in", "gru", "img_out", "img_dist", "obs_out", "obs_dist")
    return dict(zip(names, (*prior[:4], *post[:2]), strict=True))


def oracle_update(before, after_model, batch, config):
    """All losses of one LSP update, from the specification. `after_model` has the world model already updated."""
    c = config
    wm = before.agent["world_model"]
    b, length = batch.reward.shape
    weights = {
        "encoder": oracle.arrays(wm.encoder.weights()),
        "rssm": rssm_of(wm),
        "decoder": oracle.arrays(wm.decoder.weights()),
        "reward": oracle.arrays(wm.reward.weights()),
    }
    obs, action, reward, _, is_first = (np.asarray(x, np.float64) for x in batch)
    latent = before.draw("world_model/latent", length, b, c.model.stoch).swapaxes(0, 1)
    model = oracle.world_model_loss(
        weights, obs, action, reward, is_first, latent, c.model.free_nats, c.model.reward_scale
    )
    posterior, _ = oracle.observe(
        weights["rssm"], oracle.mlp(weights["encoder"], obs), action, is_first, noise_post=latent
    )
    s, h = (posterior[k].swapaxes(0, 1).reshape(b * length, -1) for k in ("s", "h"))
    count = c.behavior.starts or c.behavior.plan_states
    rows = before.noise.choice("behavior/starts", b * length, count).numpy()
    s, h = s[rows], h[rows]
    planned = count - round(c.skill.random_share * count)
    if c.behavior.starts:
        planned = min(planned, c.behavior.plan_states)
    random = count - planned  # the first ones

    rssm, actor = rssm_of(after_model["world_model"]), oracle.arrays(after_model["actor"].weights().mlp)
    reward_head = oracle.arrays(after_model["world_model"].reward.weights())
    value_head = oracle.arrays(after_model["value"].weights())
    n, g, p, z = planned, c.planner.candidates, c.skills_per_rollout, c.skill.dim
    horizon, k = c.behavior.horizon, c.skill.length
    iterations = c.planner.iterations
    candidates = before.draw("behavior/candidates", iterations, n, g, p, z)
    plan_latent = before.draw("behavior/plan_latent", iterations, horizon, n * g, c.model.stoch)
    plan_action = before.draw("behavior/plan_action", iterations, horizon, n * g, ACTION)

    stds = (c.actor.init_std, c.actor.min_std)

    def rollout(s, h, plans, latent, noise):
        held = oracle.hold_skills(plans, k, len(latent) + 1)  # in the start and in each state imagined
        feats, _ = oracle.imagine(s, h, rssm, actor, c.skill.input_scale * held[:-1], latent, noise, *stds)
        judged = np.concatenate([feats, held[1:]], -1) if c.value.skill else feats
        return feats, oracle.mlp(reward_head, feats)[..., 0], oracle.mlp(value_head, judged)[..., 0]

    def score(state, plans, i):
        own = slice(state * g, (state + 1) * g)
        start = (np.repeat(x[random + state][None], g, 0) for x in (s, h))
        _, rewards, values = rollout(*start, plans, plan_latent[i][:, own], plan_action[i][:, own])
        return oracle.plan_values(rewards, values, c.behavior.gamma, c.behavior.lam, c.planner.objective)

    shape = (n, p, z)
    mean, std = oracle.cem(score, candidates, np.zeros(shape), np.ones(shape), c.planner.elites, c.planner.std_floor)
    mean = mean + c.skill.noise * before.draw("behavior/epsilon", *shape)
    mean, std = (np.concatenate([np.full((random, p, z), of), x]) for of, x in ((0.0, mean), (1.0, std)))
    mean, std, s, h = (np.repeat(x, c.skill.per_plan, 0) for x in (mean, std, s, h))
    n = len(s)
    skills = mean + std * before.draw("behavior/skills", p, n, z).swapaxes(0, 1)  # [N, P, Z]

    steps = horizon + 1
    latent = before.draw("behavior/latent", steps, n, c.model.stoch)
    noise = before.draw("behavior/action", steps, n, ACTION)
    feats, rewards, values = rollout(s, h, skills, latent, noise)
    first = oracle.feature(s, h)
    before_feats = np.concatenate([first[None], feats[:-1]])
    held = oracle.hold_skills(skills, k, steps)

    def log_q(stream):
        module = after_model["predictor"]
        predictor = oracle.arrays(module.mlp.weights())
        drawn = c.predictor.noise * before.draw(stream, n, (k + 1) * feats.shape[-1])
        seen, seen_first = feats[:k], first
        if c.predictor.normalise:
            center, spread = numpy64(module.feature_mean), np.maximum(numpy64(module.feature_var) ** 0.5, 0.01)
            seen, seen_first = ((x - center) / spread for x in (seen, first))
        return oracle.predictor_log_prob(predictor, seen, seen_first, skills[:, 0], drawn)[None]

    def information():
        others = before.draw("behavior/compose", c.skill.compose_skills - 1, steps, n, z)
        rewards = []
        for t in range(steps):
            seen, s_next = before_feats[t], feats[t][:, : c.model.stoch]
            state = seen[:, : c.model.stoch], seen[:, c.model.stoch :]
            compared = c.skill.input_scale * np.concatenate([held[t][None], others[:, t]])
            rewards.append(oracle.composed_information(rssm, actor, *state, seen, s_next, compared, *stds))
        return np.stack(rewards)

    predicts = c.skill.mi == "predict"
    if predicts:
        offset = z / 2 * np.log(2 * np.pi * np.e) if c.skill.offset == "on" else 0.0
        told = log_q("behavior/intrinsic") + offset
        bonus = oracle.intrinsic_reward(told, k, horizon, c.skill.intrinsic_form)
    else:
        bonus = information()
    discounts = np.full_like(rewards, c.behavior.gamma)
    if c.skill.random_share:
        bonus[:, random * c.skill.per_plan :] = 0
    beta = numpy64(before.agent["balance"].beta) if c.skill.beta_kind == "gradient" else c.skill.beta
    result = oracle.behavior_losses(rewards + beta * bonus, values, discounts, c.behavior.lam)
    # The entropy bonus belongs to the presets that use it: -log density of each action, weighted like its return.
    louder = c.skill.input_scale * held
    policy = [oracle.actor_dist(actor, before_feats[t], louder[t], *stds) for t in range(steps)]
    entropy = np.stack(
        [-oracle.tanh_normal_log_prob(oracle.act(*policy[t], noise[t]), *policy[t]) for t in range(steps)]
    )
    weight = c.actor.entropy
    if c.actor.entropy_kind == "range":
        low, high = np.percentile(result["returns"], [5, 95])
        weight = weight * (high - low)
    excess = np.maximum(0, np.abs(np.stack([mean for mean, _ in policy])[:-1]) - 1.5) ** 2
    penalty = c.actor.saturation * np.mean(result["weights"][..., None] * excess)
    return {
        "world_model/loss": model["loss"],
        "behavior/actor_loss": result["actor_loss"] - weight * np.mean(result["weights"] * entropy[:-1]) + penalty,
        "behavior/value_loss": result["value_loss"],
    } | ({"behavior/predictor_loss": -np.mean(log_q("behavior/predictor"))} if predicts else {})


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        ({}, 10),
        ({"value__skill": True}, 4),
        ({"skill__mi": "compose", "skill__compose_skills": 5, "value__skill": True, "skill__length": 4}, 4),
        ({"skill__random_share": 0.5, "skill__offset": "on", "skill__input_scale": 3.0}, 4),
        (
            {
                "behavior__starts": 6,
                "skill__beta_kind": "gradient",
                "skill__beta": 0.3,
                "skill__beta_every": 2,
                "predictor__normalise": True,
                "actor__entropy_kind": "range",
                "actor__saturation": 0.1,
                "actor__learning_rate": 0.03,
            },
            6,
        ),
        (
            {"skill__mi": "compose", "skill__compose_skills": 5, "skill__input_scale": 3.0, "skill__random_share": 1.0},
            2,
        ),
    ],
    ids=[
        "lsp",
        "value of skills",
        "compose, value of skills, three skills a plan",
        "random starts",
        "regularised",
        "compose, random starts alone",
    ],
)
def test_every_update_agrees_with_the_oracle(overrides, count):
    agent = build(**overrides)
    after_model = {}
    step = agent.optimizers["world_model"].step

    def spy(loss):
        norm = step(loss)
        after_model["modules"] = copy.deepcopy(agent.modules)
        return norm

    agent.optimizers["world_model"].step = spy
    for i, batch in enumerate(batches(agent.config, count)):
        before = Snapshot(agent)
        metrics = agent.update(batch)
        expected = oracle_update(before, after_model["modules"], batch, agent.config)
        for name, value in expected.items():
            assert metrics[name].item() == pytest.approx(value, rel=1e-4), f"update {i}, {name}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text(json.dumps({a: losses(a) for a in ALGORITHMS}, indent=1) + "\n")
