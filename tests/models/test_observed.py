"""What the encoder is given and the decoder is asked for: standardised observations, symlog, normed layers."""

import dataclasses
import math

import numpy as np
import oracle
import pytest
import torch
from models.test_world_model import GAMMA, SMALL, batch_of, build, oracle_model, sequences

from lsp_fast.config import ModelConfig
from lsp_fast.learning.world_model import world_model_loss
from lsp_fast.models.world_model import WorldModel, symlog


def test_normaliser_standardises_what_is_encoded_and_predicted():
    model = build()
    observations, *rest = sequences()
    want = world_model_loss(model, *batch_of(observations, *rest)).loss
    mean, std = torch.arange(4.0).double(), torch.tensor([0.5, 1.0, 2.0, 3.0]).double()
    model.fit_normalizer(mean, std)
    got = world_model_loss(model, *batch_of(observations * std.numpy() + mean.numpy(), *rest)).loss
    assert got.item() == pytest.approx(want.item(), rel=1e-12)


def test_symlog_by_hand():
    x = torch.tensor([-(math.e**2) + 1, -1.0, 0.0, 1e-9, 66.0], dtype=torch.float64)
    np.testing.assert_allclose(symlog(x), [-2, -math.log(2), 0, 1e-9, math.log(67)], rtol=1e-8)


def test_symlog_comes_after_standardising():
    model, plain = build(dataclasses.replace(SMALL, normaliser="symlog")), build()
    observations, *rest = sequences()
    mean, std = torch.arange(4.0).double(), torch.tensor([0.03, 1.0, 2.0, 3.0]).double()
    model.fit_normalizer(mean, std)
    got = world_model_loss(model, *batch_of(observations, *rest)).loss
    standard = (observations - mean.numpy()) / std.numpy()
    known = np.sign(standard) * np.log(1 + np.abs(standard))
    assert np.abs(standard).max() > 50 > 5 > np.abs(known).max()
    want = oracle.world_model_loss(oracle_model(plain), known, *rest)["loss"]
    assert got.item() == pytest.approx(want, rel=1e-10)


def test_normed_layers_by_hand():
    model = build(dataclasses.replace(SMALL, norm=True))
    with torch.no_grad():
        for norm in (*model.encoder.norms, *model.decoder.norms):
            norm.weight.copy_(torch.linspace(0.5, 2, len(norm.weight)))

    def by_hand(mlp, x):
        layers, out = oracle.arrays(mlp.weights())
        for layer, norm in zip(layers, mlp.norms, strict=True):
            y = oracle.linear(layer, x)
            y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-3)
            x = oracle.elu(y * norm.weight.detach().numpy() + norm.bias.detach().numpy())
        return x if out is None else oracle.linear(out, x)

    rng = np.random.default_rng(0)
    observation, feature = rng.normal(size=(5, 4)) * 66, rng.normal(size=(5, 8))
    embedded = model.encode(torch.tensor(observation))
    np.testing.assert_allclose(embedded.detach(), by_hand(model.encoder, observation), rtol=1e-10)
    nll = model.observation_nll(torch.tensor(feature), torch.tensor(observation))
    mean, raw = np.split(by_hand(model.decoder, feature), 2, axis=-1)
    want = -oracle.normal_log_prob(observation, mean, np.exp(0.5 * oracle.soft_clamp_logvar(raw))).sum(-1)
    np.testing.assert_allclose(nll.detach(), want, rtol=1e-10)
    loss = world_model_loss(model, *batch_of(*sequences())).loss
    assert all(x.abs().sum() > 0 for x in torch.autograd.grad(loss, [*model.encoder.norms.parameters()]))


def test_frames_are_not_standardised_by_symlog():
    model = WorldModel((64, 64, 3), 2, ModelConfig(normaliser="symlog"), GAMMA, torch.Generator().manual_seed(0))
    frame = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)
    assert torch.equal(model.normalize(frame), torch.full((1, 64, 64, 3), 0.5))
