"""Adam along clipped gradients in C++: against PyTorch, and against float64 by the paper; odd sizes, NaN, resuming."""

import copy
import warnings

import numpy as np
import pytest
import torch

from lsp_fast import backends, ops
from lsp_fast.backends import cpp, cpp_adam, fallback
from lsp_fast.config import make_config
from lsp_fast.learning.optimizer import Optimizer

SHAPES = [(1,), (7,), (4097,), (33, 129), (0,), (3, 5, 2)]
MANY = [(600, 1100), (130,), (4097,)]  # numbers enough for several threads
RATE, EPS = 1e-2, 1e-5


def parameters(shapes=SHAPES, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def gradients(count, shapes=SHAPES, scale=1.0, dtype=torch.float32):
    """Those of `count` steps."""
    g = torch.Generator().manual_seed(2)
    return [[(scale * torch.randn(s, generator=g)).to(dtype) for s in shapes] for _ in range(count)]


def holder(tensors, **options):
    return torch.optim.Adam(tensors, lr=RATE, eps=EPS, fused=True, **options)


def run(adam, steps, max_norm=1e9, tensors=None, **options):
    """Parameters, state and norms after a step along each of the gradients."""
    tensors = parameters() if tensors is None else tensors
    held = holder(tensors, **options)
    step = adam(held, max_norm)
    norms = [step([g.clone() for g in given]) for given in steps]
    return tensors, held, torch.stack(norms)


def everything(tensors, held):
    return [*tensors, *(x for p in tensors for _, x in sorted(held.state[p].items()))]


def same(a, b):
    """To the bit, NaN included."""
    return all(torch.equal(x.view(torch.int32), y.view(torch.int32)) for x, y in zip(a, b, strict=True))


def assert_close(got, want, bound=2e-6):
    for a, b in zip(got, want, strict=True):
        scale = b.abs().max().item() if b.numel() else 0.0
        assert (a.detach().double() - b.detach().double()).abs().le(bound * scale).all()


def oracle(steps, max_norm, beta1=0.9, beta2=0.999):
    """Kingma and Ba's algorithm 1, number by number in float64, and the norms."""
    theta = [p.detach().double().numpy().copy() for p in parameters()]
    m, v = [np.zeros_like(x) for x in theta], [np.zeros_like(x) for x in theta]
    norms = []
    for t, given in enumerate(steps, 1):
        g = [x.double().numpy() for x in given]
        norms.append(np.sqrt(sum((x**2).sum() for x in g)))
        factor = min(1.0, max_norm / (norms[-1] + 1e-6))
        for i, x in enumerate(g):
            m[i] = beta1 * m[i] + (1 - beta1) * factor * x
            v[i] = beta2 * v[i] + (1 - beta2) * (factor * x) ** 2
            theta[i] -= RATE * (m[i] / (1 - beta1**t)) / (np.sqrt(v[i] / (1 - beta2**t)) + EPS)
    return [torch.from_numpy(x) for x in theta], norms


# The gradients' norms are about 90.
@pytest.mark.parametrize("max_norm", [1e9, 90.0, 1.0])
def test_twenty_steps_are_pytorchs(max_norm):
    steps = gradients(20)
    got, got_held, got_norms = run(cpp_adam.adam, steps, max_norm)
    want, want_held, want_norms = run(ops.adam, steps, max_norm)
    assert_close(everything(got, got_held), everything(want, want_held))
    torch.testing.assert_close(got_norms, want_norms, rtol=1e-6, atol=0)


@pytest.mark.parametrize("adam", [ops.adam, cpp_adam.adam], ids=["reference", "C++"])
@pytest.mark.parametrize("max_norm", [1e9, 1.0])
def test_twenty_steps_are_those_of_float64(adam, max_norm):
    steps = gradients(20)
    got, _, norms = run(adam, steps, max_norm)
    want, want_norms = oracle(steps, max_norm)
    assert_close(got, want)
    np.testing.assert_allclose(norms, want_norms, rtol=1e-6)


def test_the_norm_is_that_before_clipping_and_gradients_stay():
    tensors = [torch.zeros(2, requires_grad=True), torch.zeros((), requires_grad=True)]
    given = [torch.tensor([3.0, 0.0]), torch.tensor(4.0)]
    norm = cpp_adam.adam(holder(tensors), 1.0)(given)
    assert norm.shape == () and norm.dtype == torch.float32 and norm == 5.0
    assert given[0].tolist() == [3.0, 0.0] and given[1] == 4.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_spreads_as_pytorchs(bad):
    steps = gradients(3)
    steps[1][2][4096] = bad
    got, got_held, got_norms = run(cpp_adam.adam, steps, 1.0)
    want, want_held, want_norms = run(ops.adam, steps, 1.0)
    torch.testing.assert_close(got_norms, want_norms, equal_nan=True)
    for a, b in zip(everything(got, got_held), everything(want, want_held), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_large_and_small_gradients():
    for scale in (1e-30, 1e-8, 1e12):
        steps = gradients(3, scale=scale)
        got, _, norms = run(cpp_adam.adam, steps, 100.0)
        want, want_norms = oracle(steps, 100.0)
        assert_close(got, want)
        np.testing.assert_allclose(norms, want_norms, rtol=1e-6)


def test_the_number_of_threads_changes_no_bit():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            tensors, held, norms = run(cpp_adam.adam, gradients(5, MANY), 1.0, parameters(MANY))
            found.append([*everything(tensors, held), norms])
    finally:
        torch.set_num_threads(before)
    assert all(same(other, found[0]) for other in found[1:])


def test_a_parameter_without_a_gradient_stays():
    steps = gradients(3)
    for given in steps:
        given[3].zero_()
    got, held, _ = run(cpp_adam.adam, steps)
    assert torch.equal(got[3], parameters()[3])
    assert not held.state[got[3]]["exp_avg"].any() and held.state[got[3]]["step"] == 3


def test_the_state_is_made_as_pytorchs():
    tensors, plain = parameters(), parameters()
    held, other = holder(tensors), holder(plain)
    step, given = cpp_adam.adam(held, 1.0), gradients(1)[0]
    assert not held.state
    step(given)
    ops.adam(other, 1.0)(given)
    a, b = held.state_dict(), other.state_dict()
    assert a["param_groups"] == b["param_groups"] and a["state"].keys() == b["state"].keys()
    for i in a["state"]:
        assert list(a["state"][i]) == list(b["state"][i])
        for name, x in a["state"][i].items():
            y = b["state"][i][name]
            assert (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())


# Resuming, and tensors that move


def optimizer(tensors, backend):
    module = torch.nn.ParameterList(tensors)
    c = make_config("smoke", "lsp", device="cpu", optimizer__grad_clip=1.0, optimizer__eps=EPS)
    return Optimizer(module, RATE, c, torch.device("cpu"), backends.get(backend))


def along(given):
    """The step along these gradients, by a loss."""
    return lambda o: o.step(sum((p * g).sum() for p, g in zip(o.parameters, given, strict=True)))


@pytest.mark.parametrize("taken", [0, 4])
@pytest.mark.parametrize("after", ["cpp", "reference"])
@pytest.mark.parametrize("before", ["cpp", "reference"])
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_checkpoint_goes_on(before, after, taken, used):
    """Of either backend by either, in a fresh optimiser or in one that has moved on: to the bit by the same one."""
    steps = [along(x) for x in gradients(8)]
    first = optimizer(parameters(), before)
    for step in steps[:taken]:
        step(first)
    state, weights = copy.deepcopy(first.adam.state_dict()), [p.detach().clone() for p in first.parameters]
    second = optimizer([p.detach().clone().requires_grad_() for p in weights], after)
    if used:
        for step in steps[:2]:
            step(second)
        with torch.no_grad():
            for p, w in zip(second.parameters, weights, strict=True):
                p.copy_(w)
    second.load_state_dict(state)
    for step in steps[taken:]:
        step(first), step(second)
    a, b = (everything(o.parameters, o.adam) for o in (first, second))
    assert_close(b, a)
    assert before != after or same(a, b)


def test_an_optimiser_restored_by_pytorch_alone_uses_the_new_state():
    steps = gradients(6)
    tensors, held, _ = run(cpp_adam.adam, steps[:3], 1.0)
    other = parameters()
    copied = holder(other)
    step = cpp_adam.adam(copied, 1.0)
    step(gradients(1)[0])
    copied.load_state_dict(copy.deepcopy(held.state_dict()))
    with torch.no_grad():
        for p, q in zip(other, tensors, strict=True):
            p.copy_(q)
    for given in steps[3:]:
        step(given)
    wanted, wanted_held, _ = run(cpp_adam.adam, steps, 1.0)
    assert same(everything(other, copied), everything(wanted, wanted_held))


def test_tensors_that_moved_are_found():
    steps = gradients(6)
    tensors = parameters()
    held = holder(tensors)
    step = cpp_adam.adam(held, 1.0)
    for i, given in enumerate(steps):
        step(given)
        for p in tensors if i == 1 else []:
            p.data = p.data.clone()
        for p in tensors if i == 2 else []:
            held.state[p]["exp_avg"] = held.state[p]["exp_avg"].clone()
        for p in tensors if i == 3 else []:
            held.state[p] = {name: x.clone() for name, x in reversed(held.state[p].items())}
    wanted, wanted_held, _ = run(cpp_adam.adam, steps, 1.0)
    assert same(everything(tensors, held), everything(wanted, wanted_held))


def test_rates_are_read_at_every_step():
    results = []
    for adam in (cpp_adam.adam, ops.adam):
        tensors = parameters()
        held = holder(tensors)
        step = adam(held, 1.0)
        for rate, given in zip((1e-2, 1e-3, 0.1), gradients(3), strict=True):
            held.param_groups[0]["lr"] = rate
            step(given)
        results.append(tensors)
    assert_close(*results)


# What the reference computes, and what is refused


def test_anything_else_is_the_references():
    def strided(dtype=torch.float32):
        return [torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=dtype).t().requires_grad_()]

    shapes = [(4, 6)]
    fallback.say_once.cache_clear()
    told = []
    for make, options in (
        (lambda: parameters(shapes, torch.float64), {}),
        (strided, {}),
        (lambda: parameters(shapes), {"weight_decay": 0.1}),
        (lambda: parameters(shapes), {"amsgrad": True}),
        (lambda: parameters(shapes), {"maximize": True}),
    ):
        (dtype,) = {p.dtype for p in make()}
        steps = gradients(3, shapes, dtype=dtype)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got, want = (run(adam, steps, 1.0, make(), **options) for adam in (cpp_adam.adam, ops.adam))
        told += [str(w.message).split(";")[0] for w in caught]
        assert all(w.filename == __file__ for w in caught)
        assert all(torch.equal(a, b) for a, b in zip(everything(*got[:2]), everything(*want[:2]), strict=True))
        assert torch.equal(got[2], want[2])
    assert told == [
        "adam: the reference computes for several groups, or other tensors than dense ones in float32 on its device",
        "adam: the reference computes with weight decay, AMSGrad or maximising",
    ]


def test_a_module_that_becomes_float32_is_taken_up():
    tensors, given = parameters(dtype=torch.float64), gradients(1)[0]
    held = holder(tensors)
    step = cpp_adam.adam(held, 1.0)
    step([g.double() for g in given])
    for p in tensors:
        p.data = p.data.float()
        held.state[p] = {name: x.float() for name, x in held.state[p].items()}
    step(given)
    assert all(p.dtype == torch.float32 and held.state[p]["step"] == 2 for p in tensors)
    assert_close(tensors, run(ops.adam, [given, given], 1.0)[0])


def test_gradients_of_any_layout_and_origin():
    tensors, plain = parameters([(5, 8), (6,), (3, 2)]), parameters([(5, 8), (6,), (3, 2)])
    array = np.linspace(-1, 1, 12, dtype=np.float32)
    given = [torch.randn(8, 5).t(), torch.from_numpy(array)[::2], torch.ones(()).expand(3, 2)]
    cpp_adam.adam(holder(tensors), 1.0)(given)
    ops.adam(holder(plain), 1.0)([g.contiguous() for g in given])
    assert_close(tensors, plain)


@pytest.mark.parametrize("spoil", [lambda x: x[:-1], lambda x: [*x[:-1], x[-1][:1]], lambda x: [g.double() for g in x]])
def test_gradients_that_do_not_fit_are_refused(spoil):
    tensors = parameters()
    step = cpp_adam.adam(holder(tensors), 1.0)
    with pytest.raises(ValueError, match="gradient"):
        step(spoil(gradients(1)[0]))
    assert same(tensors, parameters())


def test_arrays_that_do_not_fit_are_refused():
    def tensor(**changed):
        arrays = {name: np.zeros(3, np.float32) for name in ("parameter", "exp_avg", "exp_avg_sq")}
        return tuple((arrays | {"step": np.zeros((), np.float32)} | changed).values())

    read_only = np.zeros(3, np.float32)
    read_only.flags.writeable = False
    make = cpp.load().Adam
    make((tensor(),))
    for changed, named in (
        ({"parameter": np.zeros(3)}, "parameter"),
        ({"exp_avg": np.zeros(4, np.float32)}, "exp_avg"),
        ({"exp_avg_sq": np.zeros(6, np.float32)[::2]}, "exp_avg_sq"),
        ({"exp_avg_sq": [0.0, 0.0, 0.0]}, "exp_avg_sq"),
        ({"parameter": read_only}, "parameter"),
        ({"step": np.zeros(3, np.float32)}, "step"),
    ):
        with pytest.raises(ValueError, match=named):
            make((tensor(**changed),))
    for wrong in ((tensor()[:3],), (1.0,)):
        with pytest.raises(ValueError):
            make(wrong)
    with pytest.raises(ValueError, match="addresses"):
        make((tensor(),)).step((), 0.1, 0.9, 0.999, 1e-5, 1.0, 1)


# Within the optimiser


def test_a_step_counts_as_a_change_of_every_parameter():
    o = optimizer(parameters(), "cpp")
    before = [p._version for p in o.parameters]
    along(gradients(1)[0])(o)
    assert all(p._version > v for p, v in zip(o.parameters, before, strict=True))


def test_a_parameter_that_the_loss_does_not_use_is_an_error():
    o = optimizer(parameters(), "cpp")
    with pytest.raises(RuntimeError, match="not have been used"):
        o.step(o.parameters[0].sum())
    assert same(o.parameters, parameters())


def test_a_backend_that_is_cpp_steps_natively(monkeypatch):
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: pytest.fail("PyTorch stepped"))
    along(gradients(1)[0])(optimizer(parameters(), "cpp"))


def test_tensors_that_began_at_different_times_have_their_own_steps():
    shapes, found = [(40,), (50,), (7,)], []
    for adam in (cpp_adam.adam, ops.adam):
        tensors = parameters(shapes)
        held = holder(tensors)
        step = adam(held, 1e9)
        first, *others = gradients(5, shapes)
        step([g.clone() for g in first])
        held.state[tensors[1]]["step"].fill_(900.0)
        for given in others:
            step([g.clone() for g in given])
        found.append(everything(tensors, held))
    assert_close(*found)


def test_a_tiny_bound_of_the_norm_is_pytorchs():
    steps = gradients(3, scale=1e-9)
    assert_close(run(cpp_adam.adam, steps, 1e-7)[0], run(ops.adam, steps, 1e-7)[0])


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_a_copied_optimiser_steps_the_copied_module(backend):
    module = torch.nn.Linear(3, 2)
    made = Optimizer(module, RATE, make_config("smoke"), torch.device("cpu"), backends.get(backend))
    made.step(module(torch.ones(4, 3)).sum())
    other, copied = copy.deepcopy((module, made))
    before = [p.detach().clone() for p in module.parameters()]
    copied.step(other(torch.ones(4, 3)).sum())
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_a_gradient_of_another_shape_is_refused():
    tensors = parameters([(3, 5)])
    step = cpp_adam.adam(holder(tensors), 1.0)
    with pytest.raises(ValueError, match="of its shape"):
        step([torch.zeros(5, 3)])
