"""One optimiser a module (SPEC sections 2 to 4); where several processes train, of their mean gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lsp_fast import processes
from lsp_fast.backends import Backend
from lsp_fast.config import Config


class Optimizer:
    """Adam over one module, with the gradient's norm clipped; it touches that module's parameters only."""

    def __init__(
        self, module: nn.Module, learning_rate: float, config: Config, device: torch.device, backend: Backend
    ) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]  # a slow copy's are not learned
        self.adam = torch.optim.Adam(
            self.parameters, lr=learning_rate, eps=config.optimizer.eps, fused=True, capturable=device.type == "cuda"
        )
        self._step = backend.adam(self.adam, config.optimizer.grad_clip)

    def step(self, loss: Tensor, retain_graph: bool = False) -> Tensor:
        """Take one step down the loss and return the gradient's norm before clipping, 0-d."""
        gradients = processes.average(torch.autograd.grad(loss, self.parameters, retain_graph=retain_graph))
        norm = self._step(gradients)
        # Such a step does not count as a change by itself; whoever holds copies of weights goes by it.
        torch.autograd.graph.increment_version(self.parameters)
        return norm

    def load_state_dict(self, state: dict) -> None:
        """Restore Adam's moments, in place where there are some already: a captured graph goes on using them."""
        held = {parameter: dict(moments) for parameter, moments in self.adam.state.items()}
        capturable = [group["capturable"] for group in self.adam.param_groups]
        self.adam.load_state_dict(state)
        for group, value in zip(self.adam.param_groups, capturable, strict=True):
            group["capturable"] = value  # the device's matter, not the checkpoint's
        for parameter, moments in held.items():
            restored = self.adam.state[parameter]
            for name, tensor in moments.items():
                # What Adam has not stepped yet has no moments: they are zero.
                restored[name] = tensor.copy_(restored[name]) if name in restored else tensor.zero_()

    def norm(self, objective: Tensor) -> Tensor:
        """Norm of an objective's gradient, 0-d, without taking a step; the graph is kept."""
        gradients = processes.average(torch.autograd.grad(objective, self.parameters, retain_graph=True))
        return nn.utils.get_total_norm(gradients)
