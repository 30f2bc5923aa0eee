"""The pretended GPU itself: each rule is broken once, and says so by name."""

import pickle

import numpy as np
import pytest
import torch
from fake_gpu.cuda import fake_gpu

from lsp_fast.backends.cudagraph import WARMUP, Graphed
from lsp_fast.noise import Noise
from lsp_fast.training.upload import Upload

CUDA = torch.device("cuda", 0)


@pytest.fixture
def broken():
    """A GPU whose rules may be broken."""
    with fake_gpu() as device:
        yield device


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda x: x + torch.ones(2), "same device: aten.add.Tensor"),
        (lambda x: torch.stack([x[0], torch.ones(())]), "same device: aten.stack"),
        (lambda x: torch.cat([x, torch.ones(2)]), "same device: aten.cat"),
        (lambda x: torch.ones(2)[x.long()], "same device: aten.index"),
        (lambda x: torch.ones(2).lerp_(x, 0.5), "same device: aten.lerp_"),
        (lambda x: torch.zeros(2, device="cuda"), "device cuda is not cuda:0"),
        (lambda x: torch.ones(2).to("cuda"), "device cuda is not cuda:0"),
        (lambda x: torch.zeros(2, device="cuda:1"), "device cuda:1 is not cuda:0"),
        (lambda x: torch.randn(2, device=CUDA), "another generator"),
        (lambda x: x.normal_(), "another generator"),
    ],
)
def test_what_a_gpu_refuses(break_it, told, broken):
    x = torch.zeros(2, device=CUDA)
    with pytest.raises(RuntimeError, match=told):
        break_it(x)
    assert len(broken.faults) == 1


@pytest.mark.parametrize(
    ("do", "kind"),
    [
        (lambda x: x.sum().item(), "host read"),
        (lambda x: bool((x > 0).all()), "host read"),
        (lambda x: x[x > 0], "host read"),
        (lambda x: x.nonzero(), "host read"),
        (lambda x: x.cpu(), "host read"),
        (lambda x: x.to("cpu"), "host read"),
        (lambda x: torch.zeros(2).copy_(x), "host read"),
        (lambda x: torch.cuda.synchronize(), "host read"),
        (lambda x: torch.ones(2).to(CUDA), "pageable copy"),
        (lambda x: torch.ones(2).to(x), "pageable copy"),
        (lambda x: torch.as_tensor([1.0], device=CUDA), "pageable copy"),
        (lambda x: x.copy_(torch.ones(2)), "pageable copy"),
        (lambda x: x[torch.tensor([0, 1])], "pageable copy"),
        (lambda x: x[[0, 1]], "pageable copy"),
        (lambda x: torch.ones(2).pin_memory().to(CUDA), "waiting copy"),
        (lambda x: x * torch.ones(()), "host scalar"),
    ],
)
def test_what_a_gpu_does_slowly_and_a_capture_refuses(do, kind, broken):
    x = torch.ones(2, device=CUDA)
    broken.events.clear()
    do(x)
    assert [(event.kind, event.where) for event in broken.events] == [(kind, "a test")]
    graphed = Graphed(lambda y: (do(y), y + 1)[1], "doing")
    with pytest.warns(UserWarning, match=f"doing goes on without a CUDA graph: {kind} while capturing"):
        for _ in range(WARMUP + 1):
            assert graphed(x).inner.tolist() == [2, 2]
    assert len(broken.faults) == 1


@pytest.mark.parametrize(
    "do",
    [
        lambda x: x * 2 + 1,
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: x.clamp(min=0),
        lambda x: torch.ones(2).pin_memory().to(CUDA, non_blocking=True),
        lambda x: torch.empty(2, pin_memory=True).copy_(x, non_blocking=True),
        lambda x: x.repeat_interleave(2),
        lambda x: x.new_zeros(3),
        lambda x: torch.full_like(x, 3.0),
        lambda x: x.pow(2).sqrt(),
    ],
)
def test_what_a_gpu_likes(do, gpu):
    x = torch.ones(2, device=CUDA)
    do(x)
    assert gpu.events == []


def test_a_capture_runs_nothing_and_its_replays_go_on(gpu):
    noise, kept = Noise(3, CUDA), torch.zeros(2, device=CUDA)

    def function(x):
        kept.add_(x)
        return kept * 2, noise.normal("some", 2)

    twin = Noise(3, CUDA)
    graphed = Graphed(function, "adding", noise.generators)
    for call in range(1, WARMUP + 4):
        doubled, drawn = graphed(torch.ones(2, device=CUDA))
        assert doubled.inner.tolist() == [2 * call] * 2
        assert torch.equal(drawn.inner, twin.normal("some", 2).inner)
    assert (gpu.captures, gpu.replays) == (1, 3)


def test_what_another_stream_makes_must_be_waited_for(broken):
    side, x = torch.cuda.Stream(), torch.ones(2, device=CUDA)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = x + 1
    with pytest.raises(RuntimeError, match="does not wait for the stream that makes its input"):
        _ = y + 1
    event = torch.cuda.Event()
    event.record(side)
    event.wait()
    _ = y + 1
    with torch.cuda.stream(side):
        y.add_(1)
    with pytest.raises(RuntimeError, match="does not wait"):
        _ = y + 1
    torch.cuda.current_stream().wait_stream(side)
    _ = y + 1


def test_a_batch_is_kept_until_the_stream_that_reads_it_is_done(gpu):
    [x] = Upload(CUDA)([np.ones(3, np.float32)])
    assert x.recorded == [torch.cuda.current_stream()] and x.stream not in x.recorded
    assert (x + 1).inner.tolist() == [2, 2, 2] and gpu.events == []


def test_a_generator_that_the_graph_does_not_know_is_refused(broken):
    noise = Noise(3, CUDA)
    graphed = Graphed(lambda x: x + noise.normal("some", 2), "adding")
    with pytest.warns(UserWarning, match="a generator that the graph does not know"):
        for _ in range(WARMUP + 1):
            graphed(torch.ones(2, device=CUDA))


def test_gradients_have_the_numbers_of_a_cpu(gpu):
    x = torch.arange(6.0, device=CUDA).view(2, 3).requires_grad_()
    y = x.detach().inner.clone().requires_grad_()
    for z in (x, y):
        z[:, 1:].exp().cumsum(1)[:, ::2].sum().backward()
    assert x.grad.is_cuda and torch.equal(x.grad.inner, y.grad)


def test_what_nobody_has_written_is_nan(gpu):
    assert torch.empty(2, device=CUDA).inner.isnan().all()


def test_autocast_multiplies_in_bfloat16(gpu):
    x = torch.ones(2, 2, device=CUDA)
    with torch.autocast("cuda", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16 and (x @ x).exp().dtype == torch.float32
    with torch.autocast("cuda", torch.bfloat16, enabled=False):
        assert (x @ x).dtype == torch.float32


def test_a_tensor_is_stored_as_a_cpus(gpu):
    x = torch.arange(4.0, device=CUDA)[1:]
    assert pickle.loads(pickle.dumps(x)).tolist() == [1, 2, 3]


def test_afterwards_there_is_no_gpu():
    with fake_gpu():
        x = torch.ones(2, device=CUDA)
        assert torch.cuda.is_available()
    with pytest.raises(RuntimeError, match="after the GPU is gone"):
        _ = x + 1
