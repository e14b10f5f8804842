"""PReLU that is fast on CPUs, too."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class PReLU(nn.PReLU):
    """`nn.PReLU` with one slope: the same values and gradients, and on a CPU a backward pass of
    operations that torch vectorizes, as its own is not."""

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, 0) + slope · min(x, 0), of the shape and dtype of x."""
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return _PReLU.apply(x, self.weight.to(x.dtype))


class _PReLU(torch.autograd.Function):
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
