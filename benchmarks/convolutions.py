"""LeNet++'s convolutions one by one: direct (oneDNN's) against through the frequency domain.

    python benchmarks/convolutions.py > benchmarks/results/convolutions.txt

Forward and backward of a batch of 128 in milliseconds, the two in turn, the median of --rounds; and the largest
error of values and gradients against float64, over the largest value.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import by_turns, machine
from benchmarks.train import BATCH
from models.fourier import FourierConv2d

CONVOLUTIONS = ((1, 32, 28), (32, 32, 28), (32, 64, 14), (64, 64, 14), (64, 128, 7), (128, 128, 7))  # in, out, side


def layer(inputs: int, outputs: int, fourier: bool) -> nn.Conv2d:
    """Return a layer; two of the same shape have the same weights."""
    torch.manual_seed(0)
    made = nn.Conv2d(inputs, outputs, 5, padding=2)
    if fourier:
        made.__class__ = FourierConv2d
    return made.to(memory_format=torch.channels_last)


def run(made: nn.Module, x: Tensor, dy: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Return the values and the gradients of kernels and, but for images, of the maps."""
    made.zero_grad()
    x = x.detach().requires_grad_(x.shape[1] > 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = made(x)
    y.backward(dy.to(y.dtype))
    return [y.detach(), made.weight.grad, *([x.grad] if x.grad is not None else [])]


def exact(made: nn.Conv2d, x: Tensor, dy: Tensor) -> list[Tensor]:
    """Return the same in float64."""
    x, w, b = (t.detach().double().requires_grad_() for t in (x, made.weight, made.bias))
    y = F.conv2d(x, w, b, padding=2)
    y.backward(dy.double())
    return [y.detach(), w.grad, *([x.grad] if x.shape[1] > 1 else [])]


def largest_error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Return the largest error of any tensor, over its largest value."""
    errors = [(one - right).abs().max() / right.abs().max() for one, right in zip(found, wanted, strict=True)]
    return float(max(errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    args = parser.parse_args()
    print(f"{machine()}; batch {BATCH}, n = {args.rounds}")
    print("| convolution | precision | direct, ms | fourier, ms | error, direct | error, fourier |")
    print("|---|---|---|---|---|---|")
    for inputs, outputs, side in CONVOLUTIONS:
        x = torch.randn(BATCH, inputs, side, side).contiguous(memory_format=torch.channels_last)
        dy = torch.randn(BATCH, outputs, side, side)
        innermost = [t.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1) for t in (x, dy)]
        rivals = [layer(inputs, outputs, fourier) for fourier in (False, True)]
        wanted = exact(rivals[0], x, dy)
        for dtype in (torch.float32, torch.bfloat16):
            given = [(x, dy.contiguous(memory_format=torch.channels_last)), tuple(innermost)]
            works = [partial(run, made, *some, dtype) for made, some in zip(rivals, given, strict=True)]
            errors = [largest_error(work(), wanted) for work in works]
            seconds = by_turns(dict(zip(("direct", "fourier"), works, strict=True)), args.rounds)
            direct, fourier = (1000 * statistics.median(taken) for taken in seconds.values())
            name, precision = f"{inputs}→{outputs} at {side}×{side}", str(dtype).split(".")[1]
            print(f"| {name} | {precision} | {direct:.1f} | {fourier:.1f} | {errors[0]:.1e} | {errors[1]:.1e} |")


if __name__ == "__main__":
    main()
