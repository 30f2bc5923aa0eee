"""Frames: shapes, gradients and the likelihood of the convolutional world model (SPEC section 2, pixels)."""

import math

import pytest
import torch

from lsp_fast.config import make_config
from lsp_fast.errors import ConfigError
from lsp_fast.learning.world_model import world_model_loss
from lsp_fast.models import conv
from lsp_fast.models.world_model import SequenceBatch, WorldModel
from lsp_fast.ops import layers
from lsp_fast.ops.types import State, features


@pytest.fixture
def model():
    c = make_config("smoke", model__free_nats=0.0)
    return WorldModel(conv.SHAPE, 2, c.model, c.behavior.gamma, torch.Generator().manual_seed(0))


def batch(sequences=2, length=4):
    g = torch.Generator().manual_seed(1)
    shape = (sequences, length)
    first = torch.zeros(shape, dtype=torch.bool)
    first[:, 0] = True
    return SequenceBatch(
        torch.randint(0, 256, (*shape, *conv.SHAPE), generator=g, dtype=torch.uint8),
        torch.rand(*shape, 2, generator=g),
        torch.rand(shape, generator=g),
        torch.zeros(shape),
        first,
    )


def noise(model, length=4, sequences=2):
    return torch.randn(length, sequences, model.config.stoch, generator=torch.Generator().manual_seed(2))


def test_sizes_are_the_papers(model):
    x = torch.rand(3, *conv.SHAPE).permute(0, 3, 1, 2)
    sides = []
    for layer in model.encoder.layers:
        x = layer(x)
        sides.append((x.shape[1], x.shape[2]))
    assert sides == [(32, 31), (64, 14), (128, 6), (256, 2)]
    assert model.encoder(torch.rand(3, *conv.SHAPE)).shape == (3, 1024)
    x, sides = torch.rand(3, 1024, 1, 1), []
    for layer in model.decoder.layers:
        x = layer(x)
        sides.append((x.shape[1], x.shape[2]))
    assert sides == [(128, 5), (64, 13), (32, 30), (3, 64)]
    feature = torch.rand(2, 5, model.config.stoch + model.config.deter)
    assert model.frames(feature).shape == (2, 5, *conv.SHAPE)
    with pytest.raises(ConfigError, match="frames must be of shape"):
        WorldModel((32, 32, 3), 2, model.config, 0.99, torch.Generator())


def test_weights_are_glorots_and_biases_zero(model):
    weight = model.encoder.layers[1].weight
    bound = math.sqrt(6 / ((32 + 64) * 16))
    assert weight.shape == (64, 32, 4, 4) and 0.95 * bound < weight.abs().max() <= bound
    assert not any(layer.bias.any() for layer in [*model.encoder.layers, *model.decoder.layers])


def test_frames_are_scaled_on_the_device_they_are_on(model):
    frame = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 64, 64, 3)
    assert torch.allclose(model.normalize(frame)[0, 0, 0], torch.tensor([-0.5, -0.3, 0.5]))
    embedded = model.embed(frame)
    assert torch.equal(embedded, model.encoder(model.normalize(frame))) and embedded.shape == (1, 1024)


def test_the_likelihood_sums_over_a_frame_and_averages_over_frames(model):
    b, z = batch(), noise(model)
    found = world_model_loss(model, b, z)
    feature = torch.cat(found.states, -1)
    mean = model.frames(feature)
    target = (b.observation.double() / 255 - 0.5).transpose(0, 1)
    each = 0.5 * (target - mean.double()) ** 2 + 0.5 * math.log(2 * math.pi)
    expected = each.sum((-3, -2, -1)).mean()
    assert found.metrics["observation_nll"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradients_reach_every_parameter(model):
    world_model_loss(model, batch(), noise(model)).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_predictions_know_frames_up_to_where_they_have_seen_them(model):
    b, z = batch(3, 6), noise(model, 6, 3)
    before = model.open_loop(b, z, 2)
    assert before.shape == (6, 3, *conv.SHAPE)
    later, earlier = b.observation.clone(), b.observation.clone()
    later[:, 2:] = 0
    earlier[:, 1] = 0
    assert torch.equal(model.open_loop(b._replace(observation=later), z, 2), before)
    changed = model.open_loop(b._replace(observation=earlier), z, 2)
    assert torch.equal(changed[0], before[0]) and not torch.equal(changed[1:], before[1:])


def test_the_networks_are_torchs_own(model):
    frames = torch.rand(2, *conv.SHAPE)
    x = frames.permute(0, 3, 1, 2)
    for layer in model.encoder.layers:
        x = torch.relu(torch.nn.functional.conv2d(x, layer.weight, layer.bias, stride=2))
    torch.testing.assert_close(model.encoder(frames), x.flatten(1))
    feature = torch.randn(2, model.config.stoch + model.config.deter)
    x = torch.nn.functional.linear(feature, model.decoder.inp.weight, model.decoder.inp.bias)[..., None, None]
    for i, layer in enumerate(model.decoder.layers):
        x = torch.nn.functional.conv_transpose2d(torch.relu(x) if i > 0 else x, layer.weight, layer.bias, stride=2)
    torch.testing.assert_close(model.frames(feature), x.permute(0, 2, 3, 1))


@torch.no_grad()
def test_open_loop_follows_its_own_actions(model):
    data, drawn = batch(length=5), noise(model, 5)
    seen = model.open_loop(data, drawn, 2)
    state = model.rssm.initial(2)
    zero = torch.zeros(2, 2)
    for t in range(5):
        action = zero if t == 0 else data.action[:, t]
        if t < 2:
            frame = data.observation[:, t]
            state = model.filter(state, action, frame, drawn[t])
        else:
            prior = layers.prior(h := layers.advance(state, action, model.rssm.prior_weights()),
                                 model.rssm.prior_weights())  # fmt: skip
            state = State(prior.mean + prior.std * drawn[t], h)
        torch.testing.assert_close(seen[t], model.frames(features(state)), rtol=1e-4, atol=1e-5)
