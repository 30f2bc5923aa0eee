"""Batches on their way to the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


class Upload:
    """Copies arrays to the device; to a GPU through pinned memory on a stream of its own, beside what is computed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
        tensors = [torch.as_tensor(x) for x in arrays]
        if self.stream is None:
            return [x.to(self.device) for x in tensors]
        with torch.cuda.stream(self.stream):
            copies = [x.pin_memory().to(self.device, non_blocking=True) for x in tensors]
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for x in copies:
            x.record_stream(current)  # else its memory would be taken for the next copy while it is read
        return copies
