"""Triton's operations of learning against the reference in float64, on a card or under Triton's interpreter.

Outputs and gradients may err twice as much as PyTorch's own in the same precision on the same device.
"""

import copy
import itertools

import rollouts
import torch
from torch.utils._pytree import tree_map_only

from lsp_fast import backends, ops
from lsp_fast.ops import densities
from lsp_fast.ops.types import Dense, MLPWeights, Normal

# A machine with a card need not have the C++ extension: nothing here imports its tests.
NEAR = 2e-6  # of a whole tensor's norm
ROUNDED = 1e-2  # the same, where the interpreter rounds factors to tf32 and PyTorch beside it does not


def error(got, want):
    return float((got.double().cpu() - want).norm() / want.norm().clamp(min=1e-12))


def outcome(outputs, leaves):
    """Outputs, and the gradients of a sum in which each number weighs its own."""
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, leaves, draws, materialize_grads=True)]


def near(got, plain, want, what):
    rounded = plain[0].device.type == "cpu" and torch.get_float32_matmul_precision() != "highest"
    bound = ROUNDED if rounded else NEAR
    for i, (a, b, c) in enumerate(zip(got, plain, want, strict=True)):
        assert error(a, c) <= max(2 * error(b, c), bound), (what, i, error(a, c), error(b, c))


def same(call, times):
    """Programs that did not wait for each other would now and then be seen."""
    first = call()
    for _ in range(times):
        assert all(torch.equal(a, b) for a, b in zip(call(), first, strict=True))
    return first


def moved(x, device):
    """Nested tuples of tensors, float64 as float32."""
    return tree_map_only(torch.Tensor, lambda y: y.to(device, torch.float32 if y.is_floating_point() else None), x)


def with_leaves(nested):
    """A copy of nested tuples whose tensors ask for gradients, and these."""
    leaves = []

    def leaf(x):
        leaves.append(x.detach().clone().requires_grad_())
        return leaves[-1]

    made = tree_map_only(torch.Tensor, leaf, nested)
    return leaves, made


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def mlp_problem(rows, width, hidden, out):
    generator = torch.Generator().manual_seed(rows)
    widths = [width, *hidden, *([] if out is None else [out])]
    layers = [
        Dense(normal(generator, b, a) / a**0.5, 0.3 * normal(generator, b)) for a, b in itertools.pairwise(widths)
    ]
    last = None if out is None else layers.pop()
    return normal(generator, rows, width), MLPWeights(tuple(layers), last)


DIFFERENTIABLE = {"log_prob": 1, "kl_divergence": 4, "entropy": 2}
"""How many of the tensors are."""


def densities_problem(shape):
    generator = torch.Generator().manual_seed(len(shape))
    x, y, noise = (normal(generator, *shape) for _ in range(3))
    std, other = (normal(generator, *shape).exp() for _ in range(2))
    raw = 2 * normal(generator, *shape[:-1], 2 * shape[-1])
    return {"log_prob": (raw, x), "kl_divergence": (x, std, y, other), "entropy": (2 * x, std, noise)}


def call(module, name, tensors):
    if name == "log_prob":
        return module.log_prob(*tensors, 0.1, 1.5)
    if name == "kl_divergence":
        return module.kl_divergence(Normal(*tensors[:2]), Normal(*tensors[2:]))
    return module.entropy(Normal(*tensors[:2]), tensors[2])


def check_mlp(device, sizes, times=2):
    problem = mlp_problem(*sizes)

    def run(function, problem):
        leaves, made = with_leaves(problem)
        return outcome([function(*made)], leaves)

    given = moved(problem, device)
    triton = backends.get("triton", device).mlp
    got = same(lambda: run(triton, given), times)
    near(got, run(ops.mlp, given), run(ops.mlp, problem), sizes)


def check_densities(device, shape):
    triton = backends.get("triton", device)
    for name, tensors in densities_problem(shape).items():
        tensors = [x.float().double() for x in tensors]

        def run(module, given, name=name):
            # A batch that is not laid out first, and halves of one output.
            given = [torch.cat([x, x], -1)[..., : x.shape[-1]].transpose(0, -2).detach() for x in given]
            leaves = [x.requires_grad_() for x in given[: DIFFERENTIABLE[name]]]
            return outcome([call(module, name, given)], leaves)

        floats = moved(tensors, device)
        got = same(lambda run=run, floats=floats: run(triton, floats), 2)
        near(got, run(densities, floats), run(densities, tensors), (name, shape))
        # A mean's gradient is one number for all rows.
        pair = []
        for module in (triton, densities):
            leaf = floats[0].clone().requires_grad_()
            pair.append(torch.autograd.grad(call(module, name, [leaf, *floats[1:]]).mean(), leaf)[0])
        torch.testing.assert_close(*pair, rtol=2e-5, atol=2e-6)


def check_imagine(device, sizes, times=1):
    problem = rollouts.build(**sizes)[:-1]

    def with_actor_leaves(arguments):
        start, prior, actor, *rest = arguments
        leaves, layers = with_leaves(actor.mlp)
        return leaves, (start, prior, actor._replace(mlp=layers), *rest)

    def run(function, arguments):
        leaves, given = with_actor_leaves(arguments)
        found = function(*given)
        return outcome([*found.states, found.actions, *found.policy], leaves)

    given = moved(problem, device)
    triton = backends.get("triton", device).imagine
    got = same(lambda: run(triton, given), times)
    near(got, run(ops.imagine, given), run(ops.imagine, problem), sizes)
    # Gradients that lie apart, as those of features do, and of some outputs alone.

    def features(function, arguments):
        leaves, arguments = with_actor_leaves(arguments)
        loss = (torch.cat(function(*arguments).states, -1) ** 2).mean()
        return torch.autograd.grad(loss, leaves)

    near(*(features(*pair) for pair in ((triton, given), (ops.imagine, given), (ops.imagine, problem))), "features")


def check_not_a_number(device):
    """NaN lies where it lies in PyTorch's: hardware's minimum and maximum would lose it."""
    triton = backends.get("triton", device)
    x, weights = moved(mlp_problem(13, 17, (33, 48), 3), device)
    x[4, 7] = torch.nan
    pairs = [[f(x, weights) for f in (triton.mlp, ops.mlp)]]
    start, prior, actor, skills, k, noise = moved(rollouts.build(rows=17)[:-1], device)
    noise.stoch[2, 1, 1] = torch.nan
    rolled = [f(start, prior, actor, skills, k, noise) for f in (triton.imagine, ops.imagine)]
    pairs += zip(*((*found.states, found.actions, *found.policy) for found in rolled), strict=True)
    for name, tensors in moved(densities_problem((6, 5)), device).items():
        for which in range(len(tensors)):
            given = [x.clone() for x in tensors]
            given[which][2, 4] = torch.nan
            pairs.append([call(module, name, given) for module in (triton, densities)])
    for got, want in pairs:
        assert want.isnan().any() and torch.equal(got.isnan(), want.isnan())


def check_adam(device):
    """Steps of both, each going on where the other stopped; clipped, not clipped, and along nothing and NaN."""
    shapes, generator = [(1,), (4097,), (33, 129), (0,), (3, 5, 2)], torch.Generator().manual_seed(0)
    begin = [normal(generator, *shape).to(device, torch.float32) for shape in shapes]
    steps = [[normal(generator, *shape).to(device, torch.float32) for shape in shapes] for _ in range(8)]
    steps[2] = [torch.zeros_like(g) for g in steps[2]]

    def made():
        tensors = [p.clone().requires_grad_() for p in begin]
        capturable = torch.device(device).type == "cuda"
        return tensors, torch.optim.Adam(tensors, lr=1e-2, eps=1e-5, fused=True, capturable=capturable)

    def everything(tensors, held):
        return [p.detach() for p in tensors] + [x for p in tensors for _, x in sorted(held.state[p].items())]

    triton = backends.get("triton", device).adam
    for max_norm in (1e9, 1.0):
        for order in ((triton, ops.adam), (ops.adam, triton), (triton, triton)):
            want, want_held = made()
            plain = ops.adam(want_held, max_norm)
            got, got_held = made()
            for i, given in enumerate(steps):
                if i % 4 == 0:  # a checkpoint of the one, read by the other
                    state = copy.deepcopy(got_held.state_dict())
                    tensors, got_held = made()
                    with torch.no_grad():
                        for p, q in zip(tensors, got, strict=True):
                            p.copy_(q)
                    got = tensors
                    got_held.load_state_dict(state)
                    step = order[i // 4](got_held, max_norm)
                norms = step([g.clone() for g in given]), plain([g.clone() for g in given])
                torch.testing.assert_close(*norms, rtol=5e-6, atol=0)
            for a, b in zip(everything(got, got_held), everything(want, want_held), strict=True):
                assert a.numel() == 0 or (a - b).abs().max() <= 1e-5 * b.abs().max()
            assert all(got_held.state[p]["step"] == 8 for p in got)
    steps[1][1][4096] = torch.nan
    found = []
    for make in (triton, ops.adam):
        tensors, held = made()
        step = make(held, 1.0)
        for given in steps[:2]:
            step([g.clone() for g in given])
        found.append(everything(tensors, held))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)


SMALL = {
    "mlp": [(1, 1, (1,), None), (17, 8, (6, 130), 2)],
    "densities": [(1, 1), (6, 4, 5)],
    "imagine": [
        {"rows": 1, "steps": 1, "plan": 1, "stoch": 1, "deter": 1, "action": 1, "skill": 1, "units": (1,), "heads": 0},
        {"rows": 17, "steps": 3, "units": (7, 6, 19), "heads": 0},
        {"rows": 2, "steps": 2, "skill": 0, "sampled": False, "heads": 0},
    ],
}
PAPER = {"stoch": 30, "deter": 200, "units": (400,) * 4, "inner": 200, "plan": 6, "heads": 0}
LARGE = {
    "mlp": [(2500, 230, (400,) * 4, 1), (27500, 230, (400, 400), None)],
    "densities": [(50, 50, 30), (27500, 6), (3, 200)],
    "imagine": [
        {"rows": 50, "steps": 11, "stoch": 30, "deter": 64, "action": 21, "units": (65, 130), "plan": 6, "heads": 0},
        {"rows": 2500, "steps": 11, "action": 12, **PAPER},
    ],
}
