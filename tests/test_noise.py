"""Every stream depends on the seed and its name alone."""

import copy

import torch

from lsp_fast.noise import Noise, stream_seed


def test_streams_do_not_depend_on_each_other():
    alone, among = Noise(3), Noise(3)
    among.normal("other", 100)
    assert torch.equal(alone.normal("a", 5), among.normal("a", 5))
    among.words("other", 7)
    assert torch.equal(alone.normal("a", 5), among.normal("a", 5))


def test_seeds_and_names_tell_streams_apart():
    draws = [Noise(seed).normal(name, 4) for seed in (0, 1) for name in ("a", "b")]
    assert len({tuple(x.tolist()) for x in draws}) == 4
    assert stream_seed(1, "2") != stream_seed(12, "")


def test_a_restored_state_goes_on_where_it_was_taken():
    noise = Noise(0)
    noise.normal("a", 3)
    state = copy.deepcopy(noise.state_dict())
    expected = noise.normal("a", 8), noise.normal("b", 8)
    restored = Noise(0)
    restored.normal("b", 2)  # a stream that the state does not name starts anew
    generators = list(restored.generators())
    restored.load_state_dict(state)
    assert list(restored.generators())[: len(generators)] == generators
    assert torch.equal(restored.normal("a", 8), expected[0]) and torch.equal(restored.normal("b", 8), expected[1])


def test_a_state_of_another_kind_of_device_begins_streams_anew():
    gpu = {"a": torch.zeros(16, dtype=torch.uint8)}  # what CUDA's generators hold: a seed and an offset
    drawn = []
    for env_steps in (0, 500, 500):
        noise = Noise(0)
        assert not noise.continues(gpu) and noise.continues(noise.state_dict())
        noise.normal("b", 2)
        noise.load_state_dict(gpu, env_steps)
        drawn.append([noise.normal(name, 4) for name in ("a", "b")])
    assert all(torch.equal(x, y) for x, y in zip(drawn[1], drawn[2], strict=True))
    fresh = Noise(0)
    for first, later, name in zip(drawn[0], drawn[1], ("a", "b"), strict=True):
        assert not torch.equal(first, later) and not torch.equal(later, fresh.normal(name, 4))


def test_what_is_drawn_is_what_is_named():
    noise = Noise(0)
    normal, words = noise.normal("n", 100_000), noise.words("w", 100_000)
    assert abs(normal.mean()) < 0.02 and abs(normal.std() - 1) < 0.02
    assert words.min() >= 0 and words.max() < 2**32 and abs(words.double().mean() / 2**32 - 0.5) < 0.01
    choice = noise.choice("c", 10, 4)
    assert len(set(choice.tolist())) == 4 and choice.min() >= 0 and choice.max() < 10
