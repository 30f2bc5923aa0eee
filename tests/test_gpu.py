"""What only a GPU can show: `pytest -m gpu`."""

import copy
import dataclasses

import learning_checks as checks
import pytest
import rollouts
import torch
from ops.test_observe import problem, run, weights
from torch.utils._pytree import tree_map_only

from lsp_fast import backends, ops
from lsp_fast.agents import ImaginationAgent
from lsp_fast.backends.cudagraph import WARMUP, capture
from lsp_fast.config import ALGORITHMS, make_config
from lsp_fast.models.conv import SHAPE
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.ops import philox
from lsp_fast.training.loop import train

pytestmark = pytest.mark.gpu


def build(algorithm="lsp", preset="smoke", **overrides):
    return ImaginationAgent(5, 2, make_config(preset, algorithm, device="cuda", **overrides))


def on_gpu(x):
    """Nested tuples of tensors."""
    return tree_map_only(torch.Tensor, torch.Tensor.cuda, x)


def error(got, want):
    return float((got.double().cpu() - want).norm() / want.norm())


def batch(seed, config):
    generator = torch.Generator().manual_seed(seed)
    shape = (config.train.batch_size, config.train.batch_length)
    observation, action = (torch.randn(*shape, n, generator=generator) for n in (5, 2))
    parts = (observation, action.tanh(), observation[..., 0], torch.zeros(shape), torch.zeros(shape, dtype=torch.bool))
    return SequenceBatch(*(x.cuda() for x in parts))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_on_a_gpu(tmp_path, algorithm):
    result = train(make_config("smoke", algorithm, device="cuda"), tmp_path / "run", progress=False)
    assert result.finished


def test_the_triton_returns_equal_the_reference():
    native = backends.get("triton", "cuda").lambda_return
    for shape in ((1, 3), (9, 1000), (4, 5, 7)):
        inputs = [torch.randn(shape, device="cuda", requires_grad=True) for _ in range(3)]
        inputs.append(torch.randn(shape[1:], device="cuda", requires_grad=True))
        expected, actual = ops.lambda_return(*inputs, 0.95), native(*inputs, 0.95)
        torch.testing.assert_close(actual, expected)
        grad = torch.randn_like(expected)
        wanted = torch.autograd.grad(expected, inputs, grad, allow_unused=True)
        for a, b in zip(torch.autograd.grad(actual, inputs, grad), wanted, strict=True):
            torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


def test_the_triton_elites_and_normals_equal_the_reference():
    triton = backends.get("triton", "cuda")
    values, plans = torch.randn(2500, 16, device="cuda"), torch.randn(2500, 16, 1, 3, device="cuda")
    values[::7, 3] = torch.nan
    mean, std = torch.zeros(2500, 1, 3, device="cuda"), torch.ones(2500, 1, 3, device="cuda")
    expected, actual = (f(values, plans, 4, mean, std) for f in (ops.select_elites, triton.select_elites))
    assert torch.equal(actual[2], expected[2])
    torch.testing.assert_close(actual[:2], expected[:2])
    key = torch.tensor([0xA4093822, 0x299F31D0])
    on_gpu = triton.normals(key.cuda(), 1, 3, 4, 1000, 42)
    assert torch.equal(on_gpu.cpu(), philox.normals(key, 1, 3, 4, 1000, 42))


def test_elites_break_ties_as_on_a_cpu():
    values = torch.tensor([[0.0, -0.0, 1.0, 1.0, float("nan"), float("inf")]])
    plans, zeros = torch.randn(1, 6, 1, 3), torch.zeros(1, 1, 3)
    for m in range(1, 7):
        cpu = ops.select_elites(values, plans, m, zeros, zeros)
        gpu = ops.select_elites(values.cuda(), plans.cuda(), m, zeros.cuda(), zeros.cuda())
        assert torch.equal(cpu[2], gpu[2].cpu())


@pytest.fixture
def matmul():
    """Sets what fp32 products multiply, for one test."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


SIZES = {
    "odd": {"rows": 5, "units": (9, 70, 7), "deter": 17, "stoch": 5},
    "one state": {"rows": 16, "stoch": 30, "deter": 200, "action": 12, "units": (400,) * 4, "steps": 10, "inner": 200},
    "many": {"rows": 4000, "stoch": 30, "deter": 200, "action": 12, "units": (400, 400), "steps": 10, "inner": 200},
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_triton_rollouts_err_at_most_twice_as_much_as_pytorchs(sizes, precision, matmul):
    arguments = rollouts.build(**SIZES[sizes])
    exact = ops.imagine_heads(*arguments)
    matmul("highest" if precision == "fp32" else "high")
    gpu = on_gpu(rollouts.to_float(arguments))
    kind = "bf16" if precision == "bf16" else "fp32"
    bound = max(2 * error(ops.imagine_heads(*gpu, kind), exact), 5e-7)
    triton = backends.get("triton", "cuda")
    assert error(triton.imagine_heads(*gpu, kind), exact) <= bound
    if SIZES[sizes]["rows"] <= 16 and len(set(SIZES[sizes]["units"])) == 1:
        start, prior, actor, skills, length, noise, heads = gpu
        whole = triton.pack_heads(prior, actor, heads, kind, True)
        first = whole(start, skills, length, noise)
        assert error(first, exact) <= bound
        # Programs that did not wait for each other would now and then be seen.
        for _ in range(200):
            assert torch.equal(whole(start, skills, length, noise), first)


@pytest.mark.parametrize("shape", [(5, 17, 5, 17, 33, 3), (50, 50, 30, 200, 200, 12), (3, 400, 30, 200, 200, 6)])
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_the_triton_filter_errs_at_most_twice_as_much_as_pytorchs(shape, precision, matmul):
    rssm, *rest = problem(*shape, torch.float64)
    exact = run(ops.observe, rssm, *rest)
    matmul("highest" if precision == "fp32" else "high")

    def on_card(function):
        floats = (x.detach().float().cuda().requires_grad_(x.requires_grad) for x in rest[:2])
        outside = [x.float() if x.is_floating_point() else x for x in rest[2:]]
        found = function(*floats, *(x.cuda() for x in outside), *weights(rssm))
        outputs = [y for part in found for y in part]
        generator = torch.Generator().manual_seed(1)
        draws = [torch.randn(y.shape, generator=generator).cuda() for y in outputs]
        gradients = torch.autograd.grad(outputs, list(rssm.parameters()), draws)
        return [y.detach() for y in outputs], gradients

    rssm = copy.deepcopy(rssm).float().cuda()
    triton, reference = on_card(backends.get("triton", "cuda").observe), on_card(ops.observe)
    names = [name for name, _ in rssm.named_parameters()]
    wanted = [y.detach() for y in exact[0].values()], [exact[1][name] for name in names]
    for got, plain, want in zip(*([*pair[0], *pair[1]] for pair in (triton, reference, wanted)), strict=True):
        assert error(got, want) <= max(2 * error(plain, want), 2e-6)
    # Programs that did not wait for each other would now and then be seen.
    for _ in range(50):
        again = on_card(backends.get("triton", "cuda").observe)
        assert all(torch.equal(a, b) for x, y in zip(again, triton, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("sizes", [*checks.SMALL["mlp"], *checks.LARGE["mlp"]], ids=str)
def test_the_triton_layers_err_at_most_twice_as_much_as_pytorchs(sizes, precision, matmul):
    matmul(precision)
    checks.check_mlp("cuda", sizes)


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("sizes", [*checks.SMALL["imagine"], *checks.LARGE["imagine"]], ids=str)
def test_the_triton_imagination_errs_at_most_twice_as_much_as_pytorchs(sizes, precision, matmul):
    matmul(precision)
    checks.check_imagine("cuda", sizes, times=50)


@pytest.mark.parametrize("shape", [*checks.SMALL["densities"], *checks.LARGE["densities"]], ids=str)
def test_the_triton_densities_err_at_most_twice_as_much_as_pytorchs(shape):
    checks.check_densities("cuda", shape)


def test_tritons_learning_keeps_what_is_not_a_number():
    checks.check_not_a_number("cuda")


def test_the_triton_adam_takes_pytorchs_steps():
    checks.check_adam("cuda")


def test_a_captured_step_of_adam_counts_and_goes_on_where_a_checkpoint_was_loaded():
    agents = [build(train__cuda_graph=False, backend=backend) for backend in ("triton", "reference")]
    optimizers = [agent.optimizers["world_model"] for agent in agents]
    for a, b in zip(*(o.parameters for o in optimizers), strict=True):
        b.data.copy_(a.data)
    generator = torch.Generator().manual_seed(0)
    shapes = [p.shape for p in optimizers[0].parameters]
    steps = [[torch.randn(shape, generator=generator).cuda() for shape in shapes] for _ in range(WARMUP + 4)]
    # The warm-up takes real steps.
    replay = capture(lambda *given: optimizers[0]._step(given), *steps[0])
    for _ in range(WARMUP):
        optimizers[1]._step([g.clone() for g in steps[0]])
    for i, given in enumerate(steps):
        if i == 3:
            optimizers[0].load_state_dict(copy.deepcopy(optimizers[1].adam.state_dict()))
        norm = replay(*given).clone()
        torch.testing.assert_close(norm, optimizers[1]._step([g.clone() for g in given]), rtol=1e-5, atol=0)
    for a, b in zip(*(o.parameters for o in optimizers), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        moments, others = optimizers[0].adam.state[a], optimizers[1].adam.state[b]
        assert moments["step"] == others["step"] == WARMUP + len(steps)


def test_kernels_run_on_the_stream_that_is_current():
    """Behind work that takes a while on a stream of their own, they read what it has written."""
    triton, side = backends.get("triton", "cuda"), torch.cuda.Stream()
    x, weights = checks.moved(checks.mlp_problem(*checks.SMALL["mlp"][1]), "cuda")
    expected, late = triton.mlp(x, weights), torch.zeros_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)  # cycles
        late.copy_(x)
        found = triton.mlp(late, weights)
    side.synchronize()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("algorithm", ["lsp", "dreamer"])
def test_an_update_by_triton_is_the_references(algorithm, matmul):
    """Every operation together: the same agent, data and noise, two updates from fresh weights."""
    agents = [build(algorithm, backend=name, planner__noise="philox") for name in ("triton", "reference")]
    matmul("highest")
    agents[1].load_state_dict(copy.deepcopy(agents[0].state_dict()))
    for seed in range(2):
        native, plain = (agent.update(batch(seed, agent.config)) for agent in agents)
        names = [name for name in plain if name.endswith(("loss", "grad_norm"))]
        assert len(names) >= 6
        for name in names:
            torch.testing.assert_close(native[name], plain[name], rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_an_agent_learns_on_the_second_gpu():
    before = torch.cuda.current_device()
    try:
        agent = ImaginationAgent(5, 2, make_config("smoke", device="cuda:1"))
        for seed in range(WARMUP + 2):
            metrics = agent.update(SequenceBatch(*(x.to("cuda:1") for x in batch(seed, agent.config))))
        assert all(x.isfinite() and x.device.index == 1 for x in metrics.values())
    finally:
        torch.cuda.set_device(before)


def test_a_graphed_update_never_waits_for_the_device():
    agent = build()
    for seed in range(WARMUP + 1):
        agent.update(batch(seed, agent.config))
    inputs = batch(9, agent.config)
    torch.cuda.set_sync_debug_mode("error")
    try:
        agent.update(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graphs_change_nothing_but_the_time():
    """The agent's own graphs, over steps, loads and other noise, against the same agent without."""
    agents = [build(train__cuda_graph=graphs, planner__noise="philox") for graphs in (True, False)]
    for seed in range(2 * WARMUP + 4):
        if seed == WARMUP + 3:
            state = copy.deepcopy(agents[1].state_dict())
            for agent in agents:
                agent.load_state_dict(copy.deepcopy(state))
        graphed, eager = (agent.update(batch(seed, agent.config)) for agent in agents)
        for name in ("world_model/loss", "behavior/actor_loss"):
            torch.testing.assert_close(graphed[name], eager[name], rtol=1e-3, atol=1e-4)
    assert agents[0]._learn[True, False, False]._replays
    carries = [agent.initial_carry(2, explore=True) for agent in agents]
    for t in range(WARMUP + 3):
        carries = [dataclasses.replace(carry, step=torch.zeros_like(carry.step)) for carry in carries]
        observation = torch.randn(2, 5, generator=torch.Generator().manual_seed(t))
        (a, carries[0]), (b, carries[1]) = (
            agent.policy(observation, carry) for agent, carry in zip(agents, carries, strict=True)
        )
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-3, atol=1e-3)
    assert agents[0].planner._graphs[True]._replays


def test_an_update_from_frames_is_captured():
    config = make_config("smoke", device="cuda", obs="pixels")
    agent, generator = ImaginationAgent(SHAPE, 2, config), torch.Generator().manual_seed(0)
    for seed in range(WARMUP + 3):
        features = batch(seed, config)
        shape = (*features.reward.shape, *SHAPE)
        frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).cuda()
        metrics = agent.update(features._replace(observation=frames))
    assert agent._learn[True, False, False]._replays and all(x.isfinite() for x in metrics.values())


def test_five_hundred_updates_stay_finite_and_take_no_more_memory():
    agent = build(planner__precision="bf16", planner__noise="philox", train__matmul="tf32")
    for seed in range(20):
        metrics = agent.update(batch(seed, agent.config))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for seed in range(500):
        metrics = agent.update(batch(seed, agent.config))
    torch.cuda.synchronize()
    assert all(value.isfinite() for value in metrics.values())
    assert torch.cuda.memory_allocated() <= before[0] + 2**20 and torch.cuda.memory_reserved() <= before[1] + 2**21


@pytest.mark.parametrize("algorithm", ["lsp", "dreamer"])
def test_a_captured_update_learns_what_an_eager_one_does(algorithm):
    eager, graphed = (build(algorithm, train__cuda_graph=False) for _ in range(2))

    def update(*arrays):
        return graphed.update(SequenceBatch(*arrays))

    replay = capture(update, *batch(0, graphed.config), generators=graphed.noise.generators)
    eager.update(batch(0, eager.config))  # so that it has moments to load into
    eager.load_state_dict(copy.deepcopy(graphed.state_dict()))
    for seed in range(1, 4):
        expected = eager.update(batch(seed, eager.config))
        actual = replay(*batch(seed, graphed.config))
        for name in ("world_model/loss", "behavior/actor_loss"):
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=1e-4)
