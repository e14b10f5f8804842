"""LeNet++'s 5×5 convolutions through the frequency domain, for CPUs, in float32 or bfloat16.

The convolution theorem: on a cyclic grid a correlation is a product, frequency by frequency. Let x̂ and ŵ be
the discrete Fourier transforms of the maps and of the kernels. Each frequency then has its own small complex
matrix product:

    ŷ[k, l] = conj(ŵ[k, l]) x̂[k, l]        (C', B) = (C', C) (C, B)

An S×S map with zero padding is put on an n×n grid with n ≥ S + 2: two rows of zeros separate the edges, which
would touch on a cyclic grid. A direct 5×5 kernel costs 25 multiplications for each output and pair of channels;
here it is about 3.

Everything is a matrix product of real numbers, the fastest operation of processors:

- The maps lie in memory as (S, S, C, B), the batch innermost. A transform along rows or columns is then a
  product from the left, with rows of N = C·B numbers.
- x is real, so along the rows the frequencies k from 0 to n/2 suffice (K = n//2 + 1), each with a real and an
  imaginary part. Along the columns the transform is complex, and all l from 0 to n - 1 are needed. Together
  these are P = K·n complex frequencies.
- A complex matrix (re, im) acts as the real matrix ((re, im), (-im, re)) on re and im stacked: a spectrum is
  (P, 2C, B), a filter bank (P, 2C', 2C).
- Frequencies k other than 0 and n/2 count twice, because they also stand for their complex conjugates. If these
  are scaled by √2, and everything by 1/n, the transform A has AᵀA = 1. So Aᵀ is its inverse, and the same two
  functions, `to_spectrum` and `to_maps`, compute values and gradients:

    y = Aᵀ F A x        dx = Aᵀ Fᵀ A dy        dF = (A dy) (A x)ᵀ

  x is transformed once, for the values and the kernels' gradient; dy is transformed once, for both gradients.
"""

from __future__ import annotations

import functools
import math
import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

GRIDS = {28: 30, 14: 16, 7: 9}  # side S of the maps: side n of the grid
TAPS = 5


class Transform:
    """The matrices of the transform of S×S maps on an n×n grid."""

    def __init__(self, side: int, grid: int, dtype: torch.dtype) -> None:
        assert grid >= side + TAPS // 2, "the kernel would wrap around"
        self.side, self.grid, self.half = side, grid, grid // 2 + 1
        rows = torch.arange(self.half, dtype=torch.float64) * (2 * math.pi / grid)  # radians per pixel
        columns = torch.arange(grid, dtype=torch.float64) * (2 * math.pi / grid)
        twice = torch.full((self.half, 1), math.sqrt(2), dtype=torch.float64)
        twice[0] = 1
        if grid % 2 == 0:
            twice[-1] = 1
        step = torch.arange(side, dtype=torch.float64)
        angle = rows[:, None] * step  # (K, S)
        by_row = torch.stack([angle.cos(), -angle.sin()], 1) * twice[:, None] / math.sqrt(grid)  # (K, 2, S)
        angle = columns[:, None] * step  # (n, S)
        re, im = angle.cos() / math.sqrt(grid), -angle.sin() / math.sqrt(grid)
        by_column = torch.stack([torch.stack([re, -im], 1), torch.stack([im, re], 1)], 1)  # (n, 2, 2, S)
        self.by_row = by_row.reshape(2 * self.half, side).to(dtype)
        self.by_column = by_column.reshape(2 * grid, 2 * side).to(dtype)

        # A tap at (i, j) from the middle shifts the phase by k·i + l·j, and conj(ŵ) by the opposite.
        offset = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
        phase = (rows[:, None, None, None] * offset[:, None]) + (columns[:, None, None] * offset)  # (K, n, 5, 5)
        turn = phase.view(-1, TAPS * TAPS)
        self.of_taps = torch.stack([turn.cos(), turn.sin()], 1).view(-1, TAPS * TAPS).to(dtype)  # (2P, 25)

    def to_spectrum(self, maps: Tensor, out: Tensor | None = None) -> Tensor:
        """Return A x, (P, 2C, B), of maps (S, S, C, B)."""
        side, (channels, batch) = self.side, maps.shape[2:]
        numbers = channels * batch
        rows = scratch("rows", maps.dtype, 2 * self.half, side * numbers)
        torch.mm(self.by_row, maps.view(side, side * numbers), out=rows)
        if out is None:
            out = maps.new_empty(self.half * self.grid, 2 * channels, batch)
        torch.bmm(
            self.by_column.expand(self.half, -1, -1),
            rows.view(self.half, 2 * side, numbers),
            out=out.view(self.half, 2 * self.grid, numbers),
        )
        return out

    def to_maps(self, spectrum: Tensor) -> Tensor:
        """Return Aᵀ X, maps (S, S, C, B), of a spectrum (P, 2C, B)."""
        side, channels, batch = self.side, spectrum.shape[1] // 2, spectrum.shape[2]
        numbers = channels * batch
        rows = scratch("rows", spectrum.dtype, self.half, 2 * side, numbers)
        torch.bmm(
            self.by_column.t().expand(self.half, -1, -1),
            spectrum.view(self.half, 2 * self.grid, numbers),
            out=rows,
        )
        maps = torch.mm(self.by_row.t(), rows.view(2 * self.half, side * numbers))
        return maps.view(side, side, channels, batch)

    def filters(self, weight: Tensor) -> Tensor:
        """Return the kernels (C', C, 5, 5) as real matrices (P, 2C', 2C)."""
        weight = weight.to(self.of_taps.dtype)
        outputs, inputs = weight.shape[:2]
        taps = weight.permute(2, 3, 0, 1).reshape(TAPS * TAPS, outputs * inputs)
        parts = scratch("parts", self.of_taps.dtype, self.half * self.grid, 2, outputs, inputs)
        torch.mm(self.of_taps, taps, out=parts.view(-1, outputs * inputs))
        bank = weight.new_empty(self.half * self.grid, 2, outputs, 2, inputs)
        bank[:, 0, :, 0] = parts[:, 0]
        bank[:, 1, :, 1] = parts[:, 0]
        bank[:, 1, :, 0] = parts[:, 1]
        bank[:, 0, :, 1] = parts[:, 1].neg_()
        return bank.view(-1, 2 * outputs, 2 * inputs)

    def filters_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient of the kernels (C', C, 5, 5), given the gradient of their `filters`."""
        outputs, inputs = gradient.shape[1] // 2, gradient.shape[2] // 2
        d = gradient.view(-1, 2, outputs, 2, inputs)
        parts = scratch("parts", self.of_taps.dtype, self.half * self.grid, 2, outputs, inputs)
        torch.add(d[:, 0, :, 0], d[:, 1, :, 1], out=parts[:, 0])
        torch.sub(d[:, 1, :, 0], d[:, 0, :, 1], out=parts[:, 1])
        taps = torch.mm(self.of_taps.t(), parts.view(-1, outputs * inputs))
        return taps.view(TAPS, TAPS, outputs, inputs).permute(2, 3, 0, 1)


@functools.cache
def transform(side: int, dtype: torch.dtype) -> Transform:
    """Return the transform for maps of that side."""
    return Transform(side, GRIDS[side], dtype)


_local = threading.local()


def scratch(name: str, dtype: torch.dtype, *shape: int) -> Tensor:
    """Return memory that the next call with this name reuses: new memory costs page faults."""
    there = vars(_local).setdefault("buffers", {})
    size = math.prod(shape)
    if (name, dtype) not in there or there[name, dtype].numel() < size:
        there[name, dtype] = torch.empty(size, dtype=dtype)
    return there[name, dtype][:size].view(shape)


class _Convolution(torch.autograd.Function):
    """Maps (S, S, C, B), kernels (C', C, 5, 5) and bias (C',) to maps (S, S, C', B)."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        t = transform(maps.shape[0], maps.dtype)
        spectrum, bank = t.to_spectrum(maps), t.filters(weight)
        product = torch.bmm(bank, spectrum, out=scratch("product", maps.dtype, len(bank), bank.shape[1], maps.shape[3]))
        product[0, : len(bias)] += t.grid * bias[:, None]  # a constant has frequency 0 only
        ctx.save_for_backward(spectrum, bank)
        ctx.transform, ctx.weight_dtype = t, weight.dtype
        return t.to_maps(product)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        spectrum, bank = ctx.saved_tensors
        t: Transform = ctx.transform
        shape = (len(bank), bank.shape[1], gradient.shape[3])
        d = t.to_spectrum(gradient.contiguous(), scratch("gradient", bank.dtype, *shape))
        of_bias = t.grid * d[0, : shape[1] // 2].float().sum(1)
        of_bank = torch.bmm(d, spectrum.transpose(1, 2), out=scratch("product", bank.dtype, *bank.shape))
        of_weight = t.filters_gradient(of_bank).to(ctx.weight_dtype)
        of_maps = None
        if ctx.needs_input_grad[0]:
            product = scratch("product", bank.dtype, *spectrum.shape)
            of_maps = t.to_maps(torch.bmm(bank.transpose(1, 2), d, out=product))
        return of_maps, of_weight, of_bias


class _FirstConvolution(torch.autograd.Function):
    """Images (S, S, 1, B) to maps (S, S, C', B), directly: one channel is little work.

    Each pixel is the product of the kernels with their bias, (C', 26), and the patches, (26, B).
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        side, _, _, batch = images.shape
        padded = nn.functional.pad(images[:, :, 0], (0, 0, 2, 2, 2, 2))  # (S + 4, S + 4, B)
        row, column, one = padded.stride()
        patches = images.new_ones(side, side, TAPS * TAPS + 1, batch)
        windows = padded.as_strided((side, side, TAPS, TAPS, batch), (row, column, row, column, one))
        patches[:, :, :-1].unflatten(2, (TAPS, TAPS)).copy_(windows)
        patches = patches.view(side * side, -1, batch)
        kernels = torch.cat([weight.flatten(1), bias[:, None]], 1).to(images.dtype)
        ctx.save_for_backward(patches)
        return torch.bmm(kernels.expand(side * side, -1, -1), patches).view(side, side, -1, batch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        (patches,) = ctx.saved_tensors
        side, _, outputs, batch = gradient.shape
        d = gradient.contiguous().view(side * side, outputs, batch)
        of_kernels = torch.bmm(d, patches.transpose(1, 2)).float().sum(0)
        return None, of_kernels[:, :-1].reshape(outputs, 1, TAPS, TAPS), of_kernels[:, -1]


class _Pooling(torch.autograd.Function):
    """2×2 max-pooling of maps (S, S, C, B) without overlap. Among equal numbers the first is the maximum, as in torch;
    an odd last row or column is left out."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        a, b, c, d = _corners(maps)
        upper, lower = torch.maximum(a, b), torch.maximum(c, d)
        ctx.save_for_backward(upper >= lower, a >= b, c >= d)
        ctx.shape = maps.shape
        return torch.maximum(upper, lower)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        up, left_above, left_below = ctx.saved_tensors
        of_maps = gradient.new_zeros(ctx.shape) if ctx.shape[0] % 2 else gradient.new_empty(ctx.shape)
        a, b, c, d = _corners(of_maps)
        upper = gradient * up
        lower = gradient - upper
        torch.mul(upper, left_above, out=a)
        torch.sub(upper, a, out=b)
        torch.mul(lower, left_below, out=c)
        torch.sub(lower, c, out=d)
        return of_maps


def _corners(maps: Tensor) -> list[Tensor]:
    """Return the upper left, upper right, lower left and lower right number of each square."""
    even = maps.shape[0] // 2 * 2
    maps = maps[:even, :even]
    return [maps[row::2, column::2] for row in (0, 1) for column in (0, 1)]


# ---------------------------------------------------------------- the layers


class FourierConv2d(nn.Conv2d):
    """`nn.Conv2d` with 5×5 kernels and padding 2, through the frequency domain for maps whose side is in `GRIDS`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, C', S, S) for maps (B, C, S, S), in autocast's dtype, with the batch innermost in memory."""
        if x.shape[2] != x.shape[3] or x.shape[2] not in GRIDS:
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        assert self.bias is not None
        function = _FirstConvolution if x.shape[1] == 1 and not x.requires_grad else _Convolution
        return _outwards(function.apply(_inwards(x), self.weight, self.bias))


class InnermostMaxPool2d(nn.MaxPool2d):
    """2×2 max-pooling of maps whose batch is innermost in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return _outwards(_Pooling.apply(_inwards(x)))


class PoolingFirst(nn.Sequential):
    """The same layers, but a PReLU before a max-pooling runs after it, with a quarter of the work. A PReLU whose slope
    is above 0 keeps the order of numbers, so the maximum is the same."""

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            following = layers[0] if layers else None
            if isinstance(layer, nn.PReLU) and isinstance(following, nn.MaxPool2d) and bool((layer.weight > 0).all()):
                x = layers.pop(0)(x)
            x = layer(x)
        return x


def _inwards(x: Tensor) -> Tensor:
    """Return maps (B, C, S, S) as (S, S, C, B)."""
    return x.permute(2, 3, 1, 0).contiguous()


def _outwards(maps: Tensor) -> Tensor:
    """Return maps (S, S, C, B) as (B, C, S, S)."""
    return maps.permute(3, 2, 0, 1)


def through_frequency(model: nn.Module) -> None:
    """Let a model compute its 5×5 convolutions through the frequency domain, and its 2×2 poolings to match. The
    parameters stay as they are."""
    for layer in model.modules():
        if type(layer) is nn.Conv2d and layer.kernel_size == (5, 5) and layer.padding == (2, 2):
            layer.__class__ = FourierConv2d
        elif type(layer) is nn.Sequential:
            layer.__class__ = PoolingFirst
        elif type(layer) is nn.MaxPool2d and layer.kernel_size == layer.stride == 2:
            layer.__class__ = InnermostMaxPool2d
