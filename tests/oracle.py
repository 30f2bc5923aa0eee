"""What lsp_fast must compute, once more: float64 NumPy loops written from the specification alone.

Nothing here imports lsp_fast or computes a gradient, and noise comes in as an argument. Section numbers are those of
the project's specification (§2 world model, §3 behaviour, §4 skills, §5 systems, §6 checks).

Weights are plain tuples and dicts of arrays:

- a linear layer is ``(weight [out, in], bias [out])``;
- a GRU cell is ``(w_ih [3D, in], w_hh [3D, D], b_ih [3D], b_hh [3D])``, gates in the order reset, update, new;
- an MLP is ``(hidden layers, output layer or None)``, with an ELU after each hidden layer;
- a recurrent state-space model ("rssm") is a dict of ``img_in``, ``gru``, ``img_out``, ``img_dist``, ``obs_out``
  and ``obs_dist``.
"""

import math

import numpy as np

LOGVAR_LO = 2.0 * math.log(0.1)
LOGVAR_HI = 2.0 * math.log(1.5)


# ---------------------------------------------------------------- functions and densities


def elu(x):
    """ELU with alpha = 1: x where x > 0, e^x - 1 elsewhere."""
    x = np.asarray(x, dtype=np.float64)
    return np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))


def softplus(x):
    """log(1 + e^x), without overflow."""
    x = np.asarray(x, dtype=np.float64)
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid(x):
    """1 / (1 + e^-x), without overflow."""
    x = np.asarray(x, dtype=np.float64)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0.0, 1.0 / (1.0 + e), e / (1.0 + e))


def linear(layer, x):
    """x [..., in] -> [..., out]."""
    weight, bias = layer
    return np.asarray(x, dtype=np.float64) @ weight.T + bias


def gru_cell(gru, x, h):
    """One step of torch.nn.GRUCell (§2): x [..., in], h [..., D] -> the new h [..., D]."""
    w_ih, w_hh, b_ih, b_hh = gru
    size = h.shape[-1]
    gate_x = x @ w_ih.T + b_ih  # [..., 3D]
    gate_h = h @ w_hh.T + b_hh  # [..., 3D]
    reset = sigmoid(gate_x[..., :size] + gate_h[..., :size])
    update = sigmoid(gate_x[..., size : 2 * size] + gate_h[..., size : 2 * size])
    new = np.tanh(gate_x[..., 2 * size :] + reset * gate_h[..., 2 * size :])
    return (1.0 - update) * new + update * h


def mlp(weights, x):
    """Hidden layers, each followed by an ELU; then the output layer, if there is one."""
    hidden, output = weights
    for layer in hidden:
        x = elu(linear(layer, x))
    return x if output is None else linear(output, x)


def soft_clamp_logvar(raw_logstd):
    """The log-variance that a head's raw log-std stands for (§2, fixed bounds, std from 0.1 to 1.5033)."""
    x = 2.0 * np.asarray(raw_logstd, dtype=np.float64)
    y = LOGVAR_HI - softplus(LOGVAR_HI - x)
    return LOGVAR_LO + softplus(y - LOGVAR_LO)


def normal_log_prob(x, mean, std):
    """log N(x; mean, std), elementwise."""
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2.0 * math.pi)


def diag_normal_kl(mean_p, std_p, mean_q, std_q):
    """KL(p || q) of diagonal Gaussians, summed over the last dimension."""
    each = np.log(std_q) - np.log(std_p) + (std_p**2 + (mean_p - mean_q) ** 2) / (2.0 * std_q**2) - 0.5
    return each.sum(-1)


# ---------------------------------------------------------------- weights to test with


def arrays(weights):
    """Nested tuples of tensors (or arrays) as nested tuples of float64 arrays; None and numbers stay."""
    if isinstance(weights, (tuple, list)):
        return tuple(arrays(w) for w in weights)
    if weights is None or isinstance(weights, (int, float)):
        return weights
    return np.asarray(weights.detach().cpu().numpy() if hasattr(weights, "detach") else weights, dtype=np.float64)


def random_layer(rng, out, inp):
    """A linear layer from a NumPy generator."""
    return rng.normal(size=(out, inp)) / math.sqrt(inp), rng.normal(size=out) * 0.1


def random_mlp(rng, inp, hidden, out):
    """An MLP with hidden sizes ``hidden`` and ``out`` outputs, or no output layer where ``out`` is None."""
    layers = []
    for size in hidden:
        layers.append(random_layer(rng, size, inp))
        inp = size
    return layers, None if out is None else random_layer(rng, out, inp)


def random_rssm(rng, stoch, det, hidden, action, embed):
    """The six parts of a state-space model of these sizes."""
    w_ih, b_ih = random_layer(rng, 3 * det, hidden)
    w_hh, b_hh = random_layer(rng, 3 * det, det)
    return {
        "img_in": random_layer(rng, hidden, stoch + action),
        "gru": (w_ih, w_hh, b_ih, b_hh),
        "img_out": random_layer(rng, hidden, det),
        "img_dist": random_layer(rng, 2 * stoch, hidden),
        "obs_out": random_layer(rng, hidden, det + embed),
        "obs_dist": random_layer(rng, 2 * stoch, hidden),
    }


# ---------------------------------------------------------------- world model (§2)


def dist(layer, x):
    """A layer of 2S outputs as mean [..., S] and std = softplus(raw) + 0.1 [..., S]."""
    mean, raw = np.split(linear(layer, x), 2, axis=-1)
    return mean, softplus(raw) + 0.1


def feature(s, h):
    """feat = [s, h]."""
    return np.concatenate([s, h], axis=-1)


def prior_step(rssm, s, h, a, noise):
    """Linear([s, a]) ELU -> GRU -> Linear ELU -> mean, std; s = mean + std * noise. Rows [N, ...]."""
    x = elu(linear(rssm["img_in"], np.concatenate([s, a], axis=-1)))
    h = gru_cell(rssm["gru"], x, h)
    mean, std = dist(rssm["img_dist"], elu(linear(rssm["img_out"], h)))
    return {"h": h, "mean": mean, "std": std, "s": mean + std * noise}


def posterior_step(rssm, s, h, a, embed, noise, noise_prior=None):
    """The prior's step, then Linear([h, embed]) ELU -> mean, std on its h. Returns (posterior, prior).

    The posterior does not depend on the prior's sample; ``noise_prior=None`` makes that sample the prior's mean.
    """
    prior = prior_step(rssm, s, h, a, np.zeros_like(noise) if noise_prior is None else noise_prior)
    x = elu(linear(rssm["obs_out"], np.concatenate([prior["h"], embed], axis=-1)))
    mean, std = dist(rssm["obs_dist"], x)
    return {"h": prior["h"], "mean": mean, "std": std, "s": mean + std * noise}, prior


def observe(rssm, embeds, actions, is_first, noise_post, noise_prior=None):
    """Filter sequences: embeds [B, L, E], actions [B, L, A], is_first [B, L], noise_post [B, L, S].

    actions[:, t] is the action that led to observation t. Sequences start from a zero state; where an episode
    begins, the state and the previous action are zeroed. Returns (posteriors, priors), dicts of [B, L, ...].
    """
    batch, length = is_first.shape
    det, stoch = rssm["gru"][1].shape[1], noise_post.shape[-1]
    keys = {"h": det, "mean": stoch, "std": stoch, "s": stoch}
    posteriors = {key: np.full((batch, length, size), np.nan) for key, size in keys.items()}
    priors = {key: np.full((batch, length, size), np.nan) for key, size in keys.items()}
    for b in range(batch):
        s, h = np.zeros(stoch), np.zeros(det)
        for t in range(length):
            a = actions[b, t]
            if is_first[b, t]:
                s, h, a = np.zeros(stoch), np.zeros(det), np.zeros_like(a)
            prior_noise = None if noise_prior is None else noise_prior[b, t]
            post, prior = posterior_step(rssm, s, h, a, embeds[b, t], noise_post[b, t], prior_noise)
            for key in keys:
                posteriors[key][b, t] = post[key]
                priors[key][b, t] = prior[key]
            s, h = post["s"], post["h"]
    return posteriors, priors


def world_model_loss(model, obs, actions, rewards, is_first, noise_post, free_nats=3.0, reward_scale=1.0):
    """The loss for features (§2): max(mean KL, free nats) - mean log p(o) - reward_scale mean log p(r).

    model: dict of encoder (MLP without an output layer), rssm, decoder (MLP, 2 O outputs: mean, raw log-std) and
    reward (MLP, 1 output). obs [B, L, O], rewards [B, L]. Log-densities sum over dimensions and average over batch
    and time; the free nats apply after averaging.
    """
    batch, length, _ = obs.shape
    posteriors, priors = observe(model["rssm"], mlp(model["encoder"], obs), actions, is_first, noise_post)
    kls, obs_nlls, reward_nlls = [], [], []
    for b in range(batch):
        for t in range(length):
            post = {key: posteriors[key][b, t] for key in posteriors}
            prior = {key: priors[key][b, t] for key in priors}
            feat = feature(post["s"], post["h"])
            mean, raw = np.split(mlp(model["decoder"], feat), 2)
            std = np.exp(0.5 * soft_clamp_logvar(raw))
            reward_mean = mlp(model["reward"], feat)[0]
            kls.append(diag_normal_kl(post["mean"], post["std"], prior["mean"], prior["std"]))
            obs_nlls.append(-normal_log_prob(obs[b, t], mean, std).sum())
            reward_nlls.append(-normal_log_prob(rewards[b, t], reward_mean, 1.0))
    kl, obs_nll, reward_nll = np.mean(kls), np.mean(obs_nlls), np.mean(reward_nlls)
    loss = max(kl, free_nats) + obs_nll + reward_scale * reward_nll
    return {"loss": loss, "kl": kl, "obs_nll": obs_nll, "reward_nll": reward_nll}


# ---------------------------------------------------------------- behaviour (§3)


def actor_dist(actor, feat, z=None, init_std=5.0, min_std=1e-4):
    """The Gaussian under the tanh, for input [feat, z]: 5 tanh(m / 5), softplus(x + log(e^init_std - 1)) + min_std."""
    x = feat if z is None else np.concatenate([feat, z], axis=-1)
    m, raw = np.split(mlp(actor, x), 2, axis=-1)
    return 5.0 * np.tanh(m / 5.0), softplus(raw + math.log(math.exp(init_std) - 1.0)) + min_std


def act(mean, std, noise):
    """a = tanh(mean + std * noise)."""
    return np.tanh(mean + std * noise)


def tanh_normal_log_prob(a, mean, std):
    """log density of a = tanh(u), u ~ N(mean, std), summed over the last dimension; |a| < 1."""
    each = normal_log_prob(np.arctanh(a), mean, std) - np.log1p(-(a**2))
    return each.sum(-1)


def lambda_return(rewards, values, discounts, bootstrap, lam):
    """R_t = r_t + d_t ((1 - lam) v_{t+1} + lam R_{t+1}); v_T and R_T are the bootstrap (§3).

    rewards, values, discounts [T, ...]; values[t] belongs to the same state as rewards[t], so values[0] is not used.
    """
    length = len(rewards)
    returns = np.full(np.shape(rewards), np.nan)
    for t in reversed(range(length)):
        next_value = bootstrap if t == length - 1 else values[t + 1]
        next_return = bootstrap if t == length - 1 else returns[t + 1]
        returns[t] = rewards[t] + discounts[t] * ((1.0 - lam) * next_value + lam * next_return)
    return returns


def imagine(s, h, rssm, actor, skills, state_noise, action_noise, init_std=5.0, min_std=1e-4):
    """Roll the prior out from s [N, S], h [N, D] under the actor (§3, §4).

    skills [H, N, Z] or None, state_noise [H, N, S], action_noise [H, N, A] or None for a = tanh(mean). a_t comes
    from state t and skill t. Returns feats [H, N, F], the states after each step (the start is not among them),
    and actions [H, N, A].
    """
    feats, actions = [], []
    for t in range(len(state_noise)):
        z = None if skills is None else skills[t]
        mean, std = actor_dist(actor, feature(s, h), z, init_std, min_std)
        a = np.tanh(mean) if action_noise is None else act(mean, std, action_noise[t])
        state = prior_step(rssm, s, h, a, state_noise[t])
        s, h = state["s"], state["h"]
        feats.append(feature(s, h))
        actions.append(a)
    return np.stack(feats), np.stack(actions)


def behavior_losses(rewards, values, discounts, lam):
    """Actor and value loss over imagined states (§3): rewards, values, discounts [T, N].

    Returns R_t over rewards[:-1], values[:-1], with bootstrap values[-1]; weight_t is the product of the discounts
    before t, gamma^t when they are constant.
    """
    returns = lambda_return(rewards[:-1], values[:-1], discounts[:-1], values[-1], lam)  # [T-1, N]
    weights = np.ones_like(returns)
    for t in range(1, len(returns)):
        weights[t] = weights[t - 1] * discounts[t - 1]
    return {
        "returns": returns,
        "weights": weights,
        "actor_loss": -np.mean(weights * returns),
        "value_loss": -np.mean(weights * normal_log_prob(returns, values[:-1], 1.0)),
    }


# ---------------------------------------------------------------- skills (§4)


def select_elites(values, plans, num_elites, mean, std, floor=1e-6):
    """Refit each state's plan distribution to its best candidates (§4).

    values [N, G], plans [N, G, P, Z], mean and std [N, P, Z] (the distribution the plans were drawn from). Ties go to
    the lower index, infinities are ordinary values, NaN is never elected. With fewer than M candidates left those
    there are count; with none, mean and std stay. Returns mean, std, indices [N, M], best first, -1 where absent.
    """
    mean, std = np.array(mean, dtype=np.float64), np.array(std, dtype=np.float64)
    indices = np.full((len(values), num_elites), -1, dtype=np.int64)
    for n in range(len(values)):
        left = [g for g in range(values.shape[1]) if not math.isnan(values[n, g])]
        elites = []
        while left and len(elites) < num_elites:
            best = left[0]
            for g in left:
                if values[n, g] > values[n, best]:
                    best = g
            left.remove(best)
            elites.append(best)
        if not elites:
            continue
        indices[n, : len(elites)] = elites
        chosen = [np.asarray(plans[n, g], dtype=np.float64) for g in elites]
        center = sum(chosen) / len(chosen)
        variance = sum((plan - center) ** 2 for plan in chosen) / len(chosen)
        mean[n], std[n] = center, np.sqrt(variance + floor)
    return mean, std, indices


def plan_values(rewards, values, gamma, lam, objective):
    """The value of each rollout, rewards and values [H, N] at its imagined states -> [N] (§4).

    "lambda_return": R at the first imagined state, over rewards[:-1], values[:-1] with bootstrap values[-1] (for
    H = 1 nothing but the bootstrap is left). "sum": sum of gamma^t r_t, t = 0 .. H-1, plus gamma^H v at the last state.
    """
    horizon = len(rewards)
    if objective == "lambda_return":
        if horizon == 1:
            return np.array(values[-1], dtype=np.float64)
        discounts = np.full(rewards[:-1].shape, gamma)
        return lambda_return(rewards[:-1], values[:-1], discounts, values[-1], lam)[0]
    if objective == "sum":
        return sum(gamma**t * rewards[t] for t in range(horizon)) + gamma**horizon * values[-1]
    raise ValueError(objective)


def cem(score, noise, mean0, std0, num_elites, floor=1e-6, clip=None):
    """The cross-entropy method for every start state on its own (§4, §5).

    score(n, plans [G, P, Z], iteration) -> values [G]; noise [I, N, G, P, Z]; mean0, std0 [N, P, Z]. ``clip=c``
    clips plans to [-c, c] before they are scored and refitted. Returns mean and std [N, P, Z].
    """
    mean, std = np.array(mean0, dtype=np.float64), np.array(std0, dtype=np.float64)
    for n in range(len(mean)):
        for i in range(len(noise)):
            plans = mean[n] + std[n] * noise[i, n]  # [G, P, Z]
            if clip is not None:
                plans = np.clip(plans, -clip, clip)
            values = np.asarray(score(n, plans, i))
            new_mean, new_std, _ = select_elites(
                values[None], plans[None], num_elites, mean[n][None], std[n][None], floor
            )
            mean[n], std[n] = new_mean[0], new_std[0]
    return mean, std


def hold_skills(plan, skill_length, steps):
    """Plans [N, P, Z] as skills [steps, N, Z]: each held for K steps, the last one to the end (§4)."""
    last = plan.shape[1] - 1
    return np.stack([plan[:, min(t // skill_length, last)] for t in range(steps)])


def predictor_states(skill_length):
    """Which of the states s_1 .. s_K the predictor sees, counted from 1: all up to K = 10, else 10 evenly spaced."""
    if skill_length <= 10:
        return list(range(1, skill_length + 1))
    if skill_length % 10:
        raise ValueError("10 evenly spaced states need a multiple of 10")
    gap = skill_length // 10
    return [gap * i for i in range(1, 11)]


def predictor_log_prob(predictor, feats, feat0, z, input_noise=None):
    """log q(z | s_1 .. s_K, s_0) [N] (§4).

    predictor: MLP with 2Z outputs, mean and raw log-std (soft clamp of §2). feats [K, N, F], feat0 [N, F], z [N, Z];
    input_noise is what is added to the input (its std already in it), as wide as concat(feat_1 .. feat_K, feat_0).
    """
    seen = [feats[k - 1] for k in predictor_states(len(feats))]
    x = np.concatenate([*seen, feat0], axis=-1)
    if input_noise is not None:
        x = x + input_noise
    mean, raw = np.split(mlp(predictor, x), 2, axis=-1)
    return normal_log_prob(z, mean, np.exp(0.5 * soft_clamp_logvar(raw))).sum(-1)


def composed_information(rssm, actor, s, h, feat, s_next, skills, init_std=5.0, min_std=1e-4):
    """r^i of mi = compose [N] (§4): log p(s'|s, a_own) - log mean_j p(s'|s, a_j), a_j = tanh(mean) under skill j.

    s [N, S], h [N, D]: the states that the skills act in; feat [N, F]: the same as the actor sees them (apart, since no
    gradient flows from its input); s_next [N, S]; skills [J, N, Z], the own one first.
    """
    rewards = []
    for n in range(len(s)):
        scores = []
        for j in range(len(skills)):
            mean, _ = actor_dist(actor, feat[n], skills[j, n], init_std, min_std)
            prior = prior_step(rssm, s[n], h[n], np.tanh(mean), np.zeros_like(s[n]))
            scores.append(normal_log_prob(s_next[n], prior["mean"], prior["std"]).sum())
        rewards.append(scores[0] - (np.logaddexp.reduce(scores) - math.log(len(scores))))
    return np.array(rewards)


def intrinsic_reward(log_q, skill_length, horizon, form):
    """log q of each segment [segments, N] as rewards [T, N] at the imagined states (§4).

    T is H + 1 for "spread" and "end" (one state more, which earns nothing), H for "every". Segment j is the states
    jK .. jK + K - 1, counted from 0 at the first imagined state. A segment of the H steps shorter than K gets none.
    """
    length = horizon if form == "every" else horizon + 1
    rewards = np.zeros((length, log_q.shape[1]))
    for j in range(horizon // skill_length):
        first, last = j * skill_length, (j + 1) * skill_length - 1
        if form == "end":
            rewards[last] = log_q[j]
            continue
        for t in range(first, last + 1):
            rewards[t] = {"spread": log_q[j] / skill_length, "every": log_q[j]}[form]
    return rewards
