"""The only source of randomness in torch code.

Every use of noise draws from a stream of its own, named by its purpose. A stream's numbers depend on the run's seed and
its name alone, so that switching one part off (say, the intrinsic reward) leaves every other part's noise, and
therefore its results, unchanged to the bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def stream_seed(seed: int, name: str) -> int:
    """A 63-bit seed that depends on the run's seed and a stream's name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class Noise:
    """Named streams of random numbers on one device.

    Args:
        seed: the run's seed.
        device: where the numbers are drawn; streams on different devices give different numbers.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.device = torch.device(device)
        self._streams: dict[str, torch.Generator] = {}

    def generator(self, stream: str) -> torch.Generator:
        """The generator of one stream, created at its first use."""
        if stream not in self._streams:
            generator = torch.Generator(self.device)
            generator.manual_seed(stream_seed(self.seed, stream))
            self._streams[stream] = generator
        return self._streams[stream]

    def generators(self) -> Iterable[torch.Generator]:
        """All streams used so far (a CUDA graph registers them before capture)."""
        return self._streams.values()

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Standard normal numbers, float32, of the given shape."""
        return torch.randn(shape, generator=self.generator(stream), device=self.device)

    def words(self, stream: str, *shape: int) -> Tensor:
        """Uniform words of 32 bits, int64, of the given shape: a generator's key."""
        return torch.randint(2**32, shape, generator=self.generator(stream), device=self.device)

    def choice(self, stream: str, total: int, count: int) -> Tensor:
        """`count` different indices below `total`, in random order, int64."""
        return torch.randperm(total, generator=self.generator(stream), device=self.device)[:count]

    def state_dict(self) -> dict[str, Tensor]:
        """Every stream's state, for a checkpoint."""
        return {name: generator.get_state() for name, generator in self._streams.items()}

    def continues(self, state: dict[str, Tensor]) -> bool:
        """Whether streams can go on from that state: it was taken on this kind of device."""
        size = torch.Generator(self.device).get_state().numel()
        return all(value.numel() == size for value in state.values())

    def load_state_dict(self, state: dict[str, Tensor], env_steps: int = 0) -> None:
        """Continue every stream where `state_dict` was taken; streams it does not name start anew.

        Generators stay the same objects: a captured graph draws on them.

        Args:
            env_steps: when it was taken. Streams of another kind of device cannot go on here; they begin anew, with
                numbers that depend on the seed, their names and this.
        """
        if not self.continues(state):
            moment = {name: stream_seed(self.seed, f"{name}@{env_steps}") for name in {*state, *self._streams}}
            for name, seed in moment.items():
                self.generator(name).manual_seed(seed)
            return
        for name, generator in self._streams.items():
            if name not in state:
                generator.manual_seed(stream_seed(self.seed, name))
        for name, value in state.items():
            self.generator(name).set_state(value)


class AskedNoise(Noise):
    """Another noise's numbers, which remembers what was asked for.

    Attributes:
        asked: method, stream and shape of every draw, in order.
    """

    def __init__(self, source: Noise) -> None:
        super().__init__(source.seed, source.device)
        self.source = source
        self.asked: list[tuple[str, str, tuple[int, ...]]] = []

    def normal(self, stream: str, *shape: int) -> Tensor:
        self.asked.append(("normal", stream, shape))
        return self.source.normal(stream, *shape)

    def words(self, stream: str, *shape: int) -> Tensor:
        self.asked.append(("words", stream, shape))
        return self.source.words(stream, *shape)

    def choice(self, stream: str, total: int, count: int) -> Tensor:
        self.asked.append(("choice", stream, (total, count)))
        return self.source.choice(stream, total, count)


class GivenNoise(Noise):
    """Numbers that were drawn before, in the order in which they are asked for: what draws them can be captured
    without its streams."""

    def __init__(self, numbers: Iterable[Tensor]) -> None:
        super().__init__(0)
        self._numbers = iter(numbers)

    def normal(self, stream: str, *shape: int) -> Tensor:
        return next(self._numbers)

    def words(self, stream: str, *shape: int) -> Tensor:
        return next(self._numbers)

    def choice(self, stream: str, total: int, count: int) -> Tensor:
        return next(self._numbers)
