"""The world model of frames and numbers together, against the two models that know one of them."""

import functools

import numpy as np
import pytest
import torch

from lsp_fast import backends
from lsp_fast.config import ModelConfig
from lsp_fast.learning import compiled
from lsp_fast.learning.world_model import world_model_loss
from lsp_fast.models import conv
from lsp_fast.models.world_model import SequenceBatch, WorldModel
from lsp_fast.observed import Observed

V, B, L = 3, 2, 4
BOTH = Observed(V, conv.SHAPE)


def build(observation, **values):
    sizes = {"stoch": 3, "deter": 5, "hidden": 6, "encoder_units": 7, "decoder_units": 8, "reward_units": 6}
    config = ModelConfig(**sizes, free_nats=0.0, **values)
    model = WorldModel(observation, 2, config, 0.99, torch.Generator().manual_seed(0))
    for name, p in model.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(p, std=0.1)
    return model


def batch(seed=0):
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (B, L, *conv.SHAPE), dtype=np.uint8)
    vector = rng.normal(size=(B, L, V)).astype(np.float32)
    rest = torch.rand(B, L, 2), torch.rand(B, L), torch.zeros(B, L), torch.zeros(B, L, dtype=torch.bool)
    both = torch.from_numpy(BOTH.pack({"frame": frame, "vector": vector}))
    return SequenceBatch(both, *rest), torch.from_numpy(frame), torch.from_numpy(vector)


@pytest.fixture(params=[{}, {"norm": True}, {"normaliser": "symlog", "normalize_observations": True}])
def models(request):
    """Of both, of frames and of numbers, with the same encoders and decoders."""
    both, frames, numbers = (build(x, **request.param) for x in (BOTH.plain, conv.SHAPE, V))
    frames.encoder, frames.decoder = both.encoder, both.decoder
    numbers.encoder, numbers.decoder = both.vector_encoder, both.vector_decoder
    for model in (both, numbers):
        model.fit_normalizer(torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0]))
    return both, frames, numbers


def test_embeddings_lie_beside_each_other_and_likelihoods_are_summed(models):
    both, frames, numbers = models
    b, frame, vector = batch()
    embedded = both.embed(b.observation)
    assert embedded.shape == (B, L, 1024 + 7)
    torch.testing.assert_close(embedded, torch.cat([frames.embed(frame), numbers.embed(vector)], -1))
    feature = torch.randn(B, L, 8)
    found = both.observation_nll(feature, both.normalize(b.observation))
    expected = frames.observation_nll(feature, frames.normalize(frame))
    expected = expected + numbers.observation_nll(feature, numbers.normalize(vector))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-2)


def test_the_normalised_numbers_are_as_of_features_to_the_bit(models):
    both, frames, numbers = models
    b, frame, vector = batch()
    target = both.normalize(b.observation)
    assert target.shape == (B, L, 12288 + V)
    assert torch.equal(target[..., 12288:], numbers.normalize(vector))
    assert torch.equal(target[..., :12288], frames.normalize(frame).flatten(-3))
    assert torch.equal(both.truth(b.observation), frame / 255)


def test_gradients_reach_every_parameter():
    model = build(BOTH.plain)
    world_model_loss(model, batch()[0], torch.randn(L, B, 3)).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_there_are_no_tuples_of_weights_for_whole_losses():
    """Neither for the C++ nor for any other that knows an encoder of features alone."""
    assert build(BOTH.plain).weights() is None and build(V).weights() is not None


def test_the_cpp_backend_computes_the_same_from_parts():
    native = backends.get("cpp", torch.device("cpu"))
    model, b, noise = build(BOTH.plain), batch()[0], torch.randn(L, B, 3)
    losses = [world_model_loss(model, b, noise, backend) for backend in (backends.REFERENCE, native)]
    gradients = [torch.autograd.grad(found.loss, list(model.parameters())) for found in losses]
    torch.testing.assert_close(losses[1].loss, losses[0].loss, rtol=1e-5, atol=1e-3)
    for ours, theirs in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_frames_and_numbers_alone_draw_the_weights_that_they_drew_before_there_were_both():
    """The order of what is drawn: encoder, RSSM, decoder, reward."""
    for observation in (V, conv.SHAPE):
        names = [name.split(".")[0] for name, _ in build(observation).named_parameters()]
        assert list(dict.fromkeys(names)) == ["encoder", "rssm", "decoder", "reward"]


def test_predictions_know_both_up_to_where_they_have_seen_them():
    model, (b, *_), noise = build(BOTH.plain), batch(), torch.randn(L, B, 3)
    before = model.open_loop(b, noise, 2)
    assert before.shape == (L, B, *conv.SHAPE)
    later, earlier = b.observation.clone(), b.observation.clone()
    later[:, 2:] = 0
    earlier[:, 1, 12288:] = 0  # the numbers alone
    assert torch.equal(model.open_loop(b._replace(observation=later), noise, 2), before)
    changed = model.open_loop(b._replace(observation=earlier), noise, 2)
    assert torch.equal(changed[0], before[0]) and not torch.equal(changed[1:], before[1:])


@pytest.mark.slow
def test_both_are_traced_whole_for_the_compiler(monkeypatch):
    """Numbers are read out of bytes there, too."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    model, b, noise = build(BOTH.plain), batch()[0], torch.randn(L, B, 3)
    traced = compiled.compiled(functools.partial(world_model_loss, model))(b, noise)
    torch.testing.assert_close(traced.loss, world_model_loss(model, b, noise).loss)


def test_both_learn_under_autocast():
    model, b, noise = build(BOTH.plain), batch()[0], torch.randn(L, B, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = world_model_loss(model, b, noise)
    exact = world_model_loss(model, b, noise).loss
    assert found.loss.item() == pytest.approx(exact.item(), rel=1e-2)
    found.loss.backward()
