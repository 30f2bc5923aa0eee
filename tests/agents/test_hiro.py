"""HIRO: TD3 twice with relabelled goals, against float64 loops written from SPEC section 5."""

import copy

import numpy as np
import pytest
import torch

from agents.test_update import ACTION, OBS, batches, build
from lsp_fast.agents import td3
from lsp_fast.agents.goals import SkillGoals, goal_reward
from lsp_fast.agents.hiro import most_likely
from lsp_fast.errors import ConfigError
from lsp_fast.experience.replay import Replay

C = 10  # agent steps that a goal is held
NAMES = ["hiro", "hiro_mi"]


def net(module, x):
    """A network of ReLU layers in float64 NumPy."""
    layers = list(module.layers)
    for i, layer in enumerate(layers):
        x = x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        if i < len(layers) - 1:
            x = np.maximum(x, 0)
    return x


def doubles(x):
    return x.detach().double().numpy()


def act(agent, steps, rows=2, explore=True, seed=0):
    """Observations, actions, and what the replay would keep, of some steps of one episode."""
    rng = np.random.default_rng(seed)
    carry = agent.reset(agent.initial_carry(rows, explore=explore), np.ones(rows, bool))
    seen = []
    for _ in range(steps):
        observation = rng.normal(size=(rows, OBS)).astype(np.float32)
        action, carry = agent.policy(observation, carry)
        seen.append((observation, action, agent.extras(carry)))
    return [np.stack(x) for x in zip(*seen, strict=True)]


# Goals


def test_s_plus_g_stays_what_it_was():
    agent = build("hiro")
    observations, _, rows = act(agent, 3 * C)
    assert (rows[..., -1] == 1).all()
    aims = rows[..., :-1]
    for begin in range(0, 3 * C, C):
        for t in range(begin, begin + C):
            goal = agent.goals.seen(torch.tensor(aims[t]), torch.tensor(observations[t])).numpy()
            # g' = s + g - s' of SPEC section 5, step by step
            expected = observations[begin] + (aims[begin] - observations[begin]) - observations[t]
            np.testing.assert_allclose(goal, expected, atol=1e-5)
            np.testing.assert_allclose(observations[t] + goal, aims[begin], atol=1e-5)
    assert (aims[C] != aims[C - 1]).any()


def test_a_skill_is_held_and_has_no_transition():
    agent = build("hiro_mi")
    observations, _, rows = act(agent, 3 * C)
    changed = [t for t in range(1, 3 * C) if (rows[t] != rows[t - 1]).any()]
    assert changed == [C, 2 * C] and rows.shape[-1] == 3 + 1 and np.abs(rows[..., :-1]).max() <= 2
    held = torch.tensor(rows[0, :, :-1])
    assert torch.equal(agent.goals.seen(held, torch.tensor(observations[3])), held)


@pytest.mark.parametrize("algorithm", NAMES)
def test_evaluation_is_without_noise_and_an_episode_plans_at_its_own_time(algorithm):
    agent = build(algorithm)
    first, again = act(agent, 12, explore=False), act(agent, 12, explore=False)
    assert np.array_equal(first[1], again[1]) and np.abs(first[1]).max() <= 1
    assert not np.array_equal(act(agent, 12)[1], first[1])
    observation = np.zeros((2, OBS), np.float32)
    carry = agent.initial_carry(2)
    for t in range(4):
        carry = agent.reset(carry, np.array([t == 3, False]))
        before = carry.aim.clone()
        _, carry = agent.policy(observation + t, carry)
    assert not torch.equal(carry.aim[0], before[0]) and torch.equal(carry.aim[1], before[1])
    with pytest.raises(ValueError, match="observation must be"):
        agent.policy(np.zeros((2, OBS + 1), np.float32), carry)


def test_the_low_level_is_paid_for_nearness():
    aim, reached = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(goal_reward(aim, reached), -torch.tensor([25 + 1e-10, 1e-10]).sqrt())


def test_goals_reach_twice_as_far_as_the_prefill_got():
    agent = build("hiro")
    rng = np.random.default_rng(0)
    replay = Replay(1000, OBS, ACTION, extras_dim=agent.extras_dim)
    moves = []
    for length in (C - 1, 2 * C, 35):
        walk = rng.normal(size=(length + 1, OBS)).cumsum(0).astype(np.float32)
        walk[:, 2] = 1.0  # never moves
        for t, observation in enumerate(walk):
            action, extras = np.zeros(ACTION, np.float32), np.zeros(agent.extras_dim, np.float32)
            replay.add(0, observation, action, 0.0, False, t == 0, t == length, extras)
        moves += [walk[t + C] - walk[t] for t in range(length + 1 - C)]
    agent.fit(replay)
    expected = 2 * np.std(np.array(moves, np.float64), axis=0)
    expected[2] = 1e-3
    np.testing.assert_allclose(agent.high.scale.numpy(), expected, rtol=1e-5)


# TD3


@pytest.mark.parametrize("level", ["high", "low"])
def test_td3_against_loops(level):
    agent = build("hiro")
    h = getattr(agent, level)
    h.scale.copy_(torch.rand(h.scale.shape) + 0.5)
    with torch.no_grad():
        for parameter in h.slow_critics.parameters():
            parameter.add_(0.1)
    g, n = torch.Generator().manual_seed(1), 7
    inputs, actions = h.actor.layers[0].weight.shape[1], len(h.scale)
    before, after = torch.randn(2, n, inputs, generator=g)
    action, noise = torch.randn(2, n, actions, generator=g) * 2
    reward, terminal = torch.randn(n, generator=g), (torch.rand(n, generator=g) < 0.4).float()

    scale, target, critic_loss, values = doubles(h.scale), [], 0.0, []
    for i in range(n):
        smoothing = np.clip(0.2 * doubles(noise[i]), -0.5, 0.5) * scale
        chosen = np.clip(scale * np.tanh(net(h.slow_actor, doubles(after[i]))) + smoothing, -scale, scale)
        x = np.concatenate([doubles(after[i]), chosen])
        lower = min(net(critic, x)[0] for critic in h.slow_critics)
        target.append(reward[i].item() + 0.99 * (1 - terminal[i].item()) * lower)
        for critic in h.critics:
            error = net(critic, np.concatenate([doubles(before[i]), doubles(action[i])]))[0] - target[i]
            critic_loss += (0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5) / n
        best = scale * np.tanh(net(h.actor, doubles(before[i])))
        values.append(net(h.critics[0], np.concatenate([doubles(before[i]), best]))[0])
    found = h.target(reward, terminal, after, noise)
    np.testing.assert_allclose(found, target, rtol=1e-4, atol=1e-5)
    assert h.critic_loss(before, action, found).item() == pytest.approx(critic_loss, rel=1e-4)
    assert h.actor_loss(before).item() == pytest.approx(-np.mean(values), rel=1e-4, abs=1e-6)


def test_gradients_against_finite_differences():
    agent = build("hiro", hiro__units=4)
    low = copy.deepcopy(agent.low).double()
    g = torch.Generator().manual_seed(2)
    before = torch.randn(3, low.actor.layers[0].weight.shape[1], generator=g).double()
    action = torch.randn(3, ACTION, generator=g).double()
    target = torch.randn(3, generator=g).double()
    for loss, module in (
        (lambda: low.critic_loss(before, action, target), low.critics[1]),
        (lambda: low.actor_loss(before), low.actor),
    ):
        weight = module.layers[1].weight
        [gradient] = torch.autograd.grad(loss(), [weight])
        for i, j in ((0, 0), (2, 3)):
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    weight[i, j] += step
                    values.append(loss().item())
                    weight[i, j] -= step
            assert gradient[i, j].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_each_optimiser_changes_its_own_and_the_slow_copies_follow():
    agent = build("hiro_mi")
    batch = next(batches(agent.config))
    owner = {id(p): name for name, o in agent.optimizers.items() for p in o.parameters}
    assert set(owner.values()) == {"high_actor", "high_critics", "low_actor", "low_critics", "predictor"}
    for name, optimizer in agent.optimizers.items():
        before = copy.deepcopy(agent.modules.state_dict())
        loss = sum((p**2).sum() for p in optimizer.parameters)
        optimizer.step(loss)
        changed = {k for k, v in agent.modules.state_dict().items() if not torch.equal(v, before[k])}
        assert changed and all(owner[id(agent.modules.get_parameter(k))] == name for k in changed)
    slow, learned = agent.low.slow_actor.layers[0].weight, agent.low.actor.layers[0].weight
    before = slow.clone()
    agent.update(batch)  # the first is the actors' turn
    torch.testing.assert_close(slow, before + 0.005 * (learned - before))
    actor, critic, high = (x.clone() for x in (learned, agent.low.critics[0].layers[0].weight,
                                               agent.high.critics[0].layers[0].weight))  # fmt: skip
    metrics = agent.update(batch)  # the second is not; nor is it the high level's
    assert torch.equal(learned, actor) and not torch.equal(agent.low.critics[0].layers[0].weight, critic)
    assert torch.equal(agent.high.critics[0].layers[0].weight, high) and "hiro/high_critic_loss" not in metrics
    turns = ["hiro/high_critic_loss" in agent.update(batch) for _ in range(2 * C)]
    assert [i + 2 for i, turn in enumerate(turns) if turn] == [C, 2 * C]


# Relabelling


def relabelled_by_loops(agent, batch, drawn, predicted):
    """SPEC section 5: eight draws, what was reached, the original; the low level's squared error decides."""
    obs, skills = doubles(batch.observation), isinstance(agent.goals, SkillGoals)
    scale, chosen, errors = doubles(agent.high.scale), [], []
    for b in range(len(obs)):
        centre = predicted[b] if skills else obs[b, -1] - obs[b, 0]
        given = batch.extras[b, 1, -1] > 0
        held = doubles(batch.extras[b, 1, :-1])
        original = (held if skills else held - obs[b, 0]) if given else centre
        tried = [np.clip(centre + 0.5 * scale * drawn[b, i], -scale, scale) for i in range(8)]
        tried += [np.clip(centre, -scale, scale), original]
        scores = []
        for goal in tried:
            error = 0.0
            for t in range(int(batch.steps[b])):
                now = goal if skills else obs[b, 0] + goal - obs[b, t]
                action = np.tanh(net(agent.low.actor, np.concatenate([obs[b, t], now])))
                error += ((doubles(batch.action[b, t + 1]) - action) ** 2).sum()
            scores.append(error)
        chosen.append(tried[int(np.argmin(scores))])
        errors.append(sorted(scores))
    return np.array(chosen), np.array(errors)


@pytest.mark.parametrize("algorithm", NAMES)
def test_relabelling_against_loops(algorithm):
    agent, other = build(algorithm, train__batch_size=20), build(algorithm, train__batch_size=20)
    batch = next(batches(agent.config))
    drawn = doubles(other.noise.normal("hiro/candidates", 20, 8, agent.goals.dim))
    predicted = None
    if isinstance(agent.goals, SkillGoals):
        other.goals.reached(batch, other.high.scale)  # the goal of a segment without one
        predicted = doubles(other.goals.reached(batch, other.high.scale))  # the candidates' centre
    expected, errors = relabelled_by_loops(agent, batch, drawn, predicted)
    goals, moved = agent.relabel(batch)
    clear = errors[:, 1] - errors[:, 0] > 1e-4
    if isinstance(
        agent.goals, SkillGoals
    ):  # where no goal was set, two looks through noise at the segment stand for it
        clear &= (batch.extras[:, 1, -1] > 0).numpy()
    assert clear.sum() >= 10
    np.testing.assert_allclose(doubles(goals)[clear], expected[clear], rtol=1e-4, atol=1e-4)
    assert 0 <= moved <= 1


@pytest.mark.parametrize("algorithm", NAMES)
def test_a_candidate_that_reproduces_the_actions_is_chosen(algorithm):
    agent = build(algorithm)
    with torch.no_grad():  # a low level that listens
        agent.low.actor.layers[0].weight.mul_(3)
    batch = next(batches(agent.config))
    size, tries = len(batch.reward), 10
    states = batch.observation[:, :-1]
    candidates = torch.randn(size, tries, agent.goals.dim, generator=torch.Generator().manual_seed(3))
    aims = candidates if isinstance(agent.goals, SkillGoals) else candidates + states[:, :1, agent.goals.entries]
    seen = agent.goals.seen(aims[:, :, None].expand(-1, -1, C, -1), states[:, None])
    true = torch.arange(size) % tries
    actions = agent.low.act(torch.cat([states, seen[torch.arange(size), true]], -1))
    steps = torch.full((size,), C)
    assert torch.equal(most_likely(candidates, actions, agent.low, states, seen, steps), true)
    actions[:, 3:], steps[:] = 7.0, 3  # what lies past the end of a short segment is not looked at
    assert torch.equal(most_likely(candidates, actions, agent.low, states, seen, steps), true)


def test_a_goal_that_was_obeyed_stays():
    """The original is a candidate: where the low level did what it asks for, it is chosen."""
    agent = build("hiro")
    observations, actions, rows = act(agent, C, rows=1, explore=False)
    first = torch.zeros(1, 1, ACTION)
    after = torch.cat([torch.tensor(observations[:, 0]), torch.zeros(1, OBS)])[None]
    extras = torch.tensor(np.concatenate([rows[:1], rows]))[:, 0][None]
    batch = type(next(batches(agent.config)))(
        after, torch.cat([first, torch.tensor(actions[:, 0])[None]], 1), torch.zeros(1, C + 1), torch.zeros(1, C + 1),
        torch.zeros(1, C + 1), extras, torch.tensor([C]),
    )  # fmt: skip
    goals, moved = agent.relabel(batch)
    assert moved == 0
    np.testing.assert_allclose(goals[0], rows[0, 0, :-1] - observations[0, 0], rtol=1e-6)


def test_random_actions_are_given_the_goal_they_reached():
    agent = build("hiro")
    batch = next(batches(agent.config))
    aim, given = agent.aims(batch)
    assert 0 < given.sum() < len(given)
    assert torch.equal(aim[~given], batch.observation[~given, -1])
    assert torch.equal(aim[given], batch.extras[given, 1, :-1])
    batch.extras[:, C // 2 :] += 1  # another goal from the middle on: learning had just begun
    assert not agent.aims(batch)[1].any()


def test_random_actions_are_given_the_skill_that_the_predictor_takes_them_for():
    agent, other = build("hiro_mi"), build("hiro_mi")
    batch = next(batches(agent.config))
    aim, given = agent.aims(batch)
    predicted = other.goals.reached(batch, other.high.scale)  # through the same noise
    assert 0 < given.sum() < len(given) and predicted.any()
    assert torch.equal(aim[~given], predicted[~given])
    assert torch.equal(aim[given], batch.extras[given, 1, :-1])


def test_the_predictor_learns_from_skills_that_were_set_and_pays_the_low_level():
    agent, other = build("hiro_mi", skill__beta=5.0), build("hiro_mi", skill__beta=5.0)
    batch = next(batches(agent.config))
    batch = batch._replace(extras=batch.extras.clone())
    batch.extras[..., -1] = 0
    before = [p.clone() for p in agent.goals.predictor.parameters()]
    assert agent.update(batch)["hiro/predictor_loss"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, agent.goals.predictor.parameters(), strict=True))

    batch = next(batches(other.config))
    seen = {}
    learn = td3.learn

    def spy(level, optimizers, before, action, reward, *rest, **more):
        seen.setdefault("low", reward)
        return learn(level, optimizers, before, action, reward, *rest, **more)

    noise = copy.deepcopy(other.noise)
    td3.learn = spy
    try:
        told = other.update(batch)["hiro/log_q"]
    finally:
        td3.learn = learn
    t = noise.words("hiro/step", len(batch.reward)) % C
    task = batch.reward[torch.arange(len(t)), t + 1]
    assert ((seen["low"] - task).mean() * C / 5).item() == pytest.approx(told.item(), rel=1e-4)


def test_a_segment_cut_short_pays_the_task_alone_and_teaches_no_predictor():
    agent = build("hiro_mi", skill__beta=5.0)
    batch = next(batches(agent.config))
    short = batch._replace(steps=torch.full_like(batch.steps, 4))
    aim, given = agent.aims(short)
    reward, metrics = agent.goals.reward(short, aim, given, short.reward[:, 1], short.observation[:, 1])
    assert torch.equal(reward, short.reward[:, 1]) and metrics["hiro/predictor_loss"] == 0
    assert given.any() and not torch.equal(agent.goals.reward(batch, aim, given, reward, reward)[0], reward)


def test_where_no_episode_lasts_a_goals_time_the_range_is_of_whole_ones():
    agent, rng = build("hiro"), np.random.default_rng(0)
    replay = Replay(1000, OBS, ACTION, extras_dim=agent.extras_dim)
    moves = []
    for length in (4, 4, 3, 4):
        walk = rng.normal(size=(length + 1, OBS)).astype(np.float32)
        for t, observation in enumerate(walk):
            action, extras = np.zeros(ACTION, np.float32), np.zeros(agent.extras_dim, np.float32)
            replay.add(0, observation, action, 0.0, t == length, t == 0, t == length, extras)
        moves += [walk[-1] - walk[0]] * (length == 4)
    agent.fit(replay)
    np.testing.assert_allclose(agent.high.scale.numpy(), 2 * np.std(moves, axis=0), rtol=1e-5)


@pytest.mark.parametrize("algorithm", NAMES)
def test_checkpoints_go_on_to_the_bit(algorithm):
    whole, first, then = build(algorithm), build(algorithm), build(algorithm)
    for i, batch in enumerate(batches(whole.config, 24)):
        whole.update(batch)
        if i < 13:
            first.update(batch)
        if i == 12:
            then.load_state_dict(copy.deepcopy(first.state_dict()))
        if i >= 13:
            then.update(batch)
    state = then.modules.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in whole.modules.state_dict().items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"obs": "pixels"}, "features only"),
        ({"skill__source": "planned"}, "HIRO has no plans"),
        ({"transfer__freeze_policy": True}, "not for HIRO"),
        ({"hiro__candidates": 1}, "hiro.candidates = 1"),
    ],
)
def test_what_hiro_cannot_do_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        build("hiro", **values)
