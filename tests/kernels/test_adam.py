"""Adam in Triton under its interpreter: against float64 by the paper and against PyTorch; odd sizes, NaN, resuming."""

PROGRAM = """
import copy
import warnings
import torch
from ops.test_adam_native import (
    RATE, along, assert_close, everything, gradients, holder, optimizer, oracle, parameters, run, same,
)
from lsp_fast import backends, ops
from lsp_fast.backends import fallback

adam = backends.get("triton").adam
poison, like = torch.empty, torch.empty_like
torch.empty = lambda *shape, **options: poison(*shape, **options).fill_(torch.nan)
torch.empty_like = lambda x, **options: like(x, **options).fill_(torch.nan)

for max_norm in (1e9, 1.0):
    steps = gradients(6)
    kept = copy.deepcopy(steps)
    got, held, norms = run(adam, steps, max_norm)
    assert all(torch.equal(a, b) for x, y in zip(steps, kept, strict=True) for a, b in zip(x, y, strict=True))
    want, want_norms = oracle(steps, max_norm)
    assert_close(got, want)
    torch.testing.assert_close(norms.double(), torch.tensor(want_norms, dtype=torch.float64), rtol=1e-6, atol=0)
    theirs = run(ops.adam, steps, max_norm)
    assert_close(everything(got, held), everything(theirs[0], theirs[1]))
    assert list(held.state[got[0]]) == list(theirs[1].state[theirs[0][0]])
    again, other, _ = run(adam, steps, max_norm)
    assert same(everything(again, other), everything(got, held))
tensors = [torch.zeros(2, requires_grad=True), torch.zeros((), requires_grad=True)]
norm = adam(holder(tensors), 1.0)([torch.tensor([3.0, 0.0]), torch.tensor(4.0)])
assert norm.shape == () and norm.dtype == torch.float32 and norm == 5.0

for bad in (float("nan"), float("inf"), -float("inf")):
    steps = gradients(2)
    steps[1][2][4096] = bad
    got, held, norms = run(adam, steps, 1.0)
    want, want_held, want_norms = run(ops.adam, steps, 1.0)
    torch.testing.assert_close(norms, want_norms, equal_nan=True)
    for a, b in zip(everything(got, held), everything(want, want_held), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)

# Storage stays, also where a checkpoint of either backend is loaded; it goes on to the bit by the same one.
steps = [along(x) for x in gradients(6)]
for before, after in (("triton", "triton"), ("reference", "triton"), ("triton", "reference")):
    first, second = optimizer(parameters(), before), None
    for step in steps[:3]:
        step(first)
    second = optimizer([p.detach().clone().requires_grad_() for p in first.parameters], after)
    if after == before:
        steps[0](second)
        with torch.no_grad():
            for p, q in zip(second.parameters, first.parameters, strict=True):
                p.copy_(q)
    places = [x.data_ptr() for x in everything(second.parameters, second.adam)] if after == before else None
    second.load_state_dict(copy.deepcopy(first.adam.state_dict()))
    for step in steps[3:]:
        step(first), step(second)
    a, b = (everything(o.parameters, o.adam) for o in (first, second))
    assert_close(b, a)
    assert before != after or (same(a, b) and places == [x.data_ptr() for x in b])

# Tensors that moved are found, rates are read at every step, and steps are each tensor's own.
found = []
for make in (adam, ops.adam):
    tensors = parameters()
    held = holder(tensors)
    step = make(held, 50.0)
    for i, given in enumerate(gradients(5)):
        held.param_groups[0]["lr"] = RATE / (i + 1)
        step([g.clone() for g in given])
        for p in tensors if i == 1 else []:
            p.data = p.data.clone()
            held.state[p]["exp_avg"] = held.state[p]["exp_avg"].clone()
        held.state[tensors[1]]["step"].fill_(900.0)
    found.append(everything(tensors, held))
assert_close(*found)
twin, step = copy.deepcopy((tensors, step))
before = [p.detach().clone() for p in tensors]
step(gradients(1)[0])
assert same(before, tensors) and not same(twin[:3], before[:3])

# Layouts of gradients, what does not fit, and what the reference computes, which is said once.
tensors, plain = parameters([(5, 8), (6,), (3, 2)]), parameters([(5, 8), (6,), (3, 2)])
given = [torch.randn(8, 5).t(), torch.arange(12.0)[::2], torch.ones(()).expand(3, 2)]
adam(holder(tensors), 1.0)(given)
ops.adam(holder(plain), 1.0)([g.contiguous() for g in given])
assert_close(tensors, plain)
for spoiled in (given[:-1], [*given[:-1], torch.ones(2, 3)], [g.double() for g in given]):
    try:
        adam(holder(parameters([(5, 8), (6,), (3, 2)])), 1.0)(spoiled)
    except ValueError as error:
        assert "gradient" in str(error)
    else:
        raise AssertionError
fallback.say_once.cache_clear()
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for dtype, options in ((torch.float64, {}), *((torch.float32, {name: True}) for name in ("amsgrad", "maximize"))):
        given = gradients(2, [(4, 6)], dtype=dtype)
        a, b = (run(make, given, 1.0, parameters([(4, 6)], dtype), **options) for make in (adam, ops.adam))
        assert all(torch.equal(x, y) for x, y in zip(everything(*a[:2]), everything(*b[:2]), strict=True))
assert len(told) == 2 and all("adam: the reference computes" in str(w.message) for w in told)
print("equal")
"""


def test_triton_takes_the_steps_of_float64(interpreted):
    interpreted(PROGRAM)
