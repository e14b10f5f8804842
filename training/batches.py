"""Shuffled and shifted batches of a training set, and what the network is given of an image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets import SIDE

KNOTS = 5  # of a bent image, along each side


@dataclass(frozen=True)
class Warp:
    """How far images are turned (degrees), scaled and sheared (shares) and bent (pixels), each drawn evenly to both
    sides.

    Bending is the elastic deformation of Simard et al. (ICDAR 2003): here the knots of a 5×5 grid over the image are
    moved, and what lies between them follows smoothly (bicubic).
    """

    rotation: float = 0.0
    scaling: float = 0.0
    shearing: float = 0.0
    bending: float = 0.0

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return for each image the matrix (count, 2, 2) that leads from a place in the result to one in the image,
        and if they are bent how its knots move, (count, 2, 5, 5), x and y, both in half sides of the image."""
        turn, size, slant = torch.rand(3, count, generator=generator).mul(2).sub(1)
        angle = turn * math.radians(self.rotation)
        cos, sin, shear = angle.cos(), angle.sin(), slant * self.shearing
        matrix = torch.stack([cos, cos * shear - sin, sin, sin * shear + cos], 1).view(-1, 2, 2)  # turned and sheared
        matrix = matrix / (1 + size * self.scaling)[:, None, None]
        if self.bending == 0:
            return (matrix,)
        knots = torch.rand(count, 2, KNOTS, KNOTS, generator=generator).mul(2).sub(1)
        return matrix, knots * (self.bending * 2 / SIDE)


def between_knots() -> Tensor:
    """Return (28, 5): what each knot along a side adds to each pixel's movement."""
    return F.interpolate(torch.eye(KNOTS)[None, None], size=(SIDE, KNOTS), mode="bicubic", align_corners=True)[0, 0]


def warped(images: Tensor, matrices: Tensor, knots: Tensor | None, between: Tensor) -> Tensor:
    """Return float32 images (B, 28, 28) after what `Warp.draw` drew for them; what comes from outside is 0."""
    places = F.affine_grid(F.pad(matrices, (0, 1)), [len(images), 1, SIDE, SIDE], align_corners=False)
    if knots is not None:
        places = places + (between @ knots @ between.T).permute(0, 2, 3, 1)  # (B, 28, 28, 2)
    return F.grid_sample(images.unsqueeze(1).float(), places, align_corners=False).squeeze(1)


class Batches:
    """Shuffled batches of a training set that lies on a device.

    The order and the shifts of an epoch follow from seed and epoch alone, on every device: a run
    that is resumed sees what it would have seen.

    Args:
        images: uint8 (N, 28, 28).
        labels: int64 (N,), on the same device.
        batch_size: B; the last batch of an epoch may be smaller.
        seed: of the shuffling.
        shift: each image is moved by up to so many pixels in both directions, filled with 0.
        warp: and then, about its middle, by so much.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, batch_size: int, seed: int, shift: int = 0, warp: Warp | None = None
    ) -> None:
        self.images = F.pad(images, (shift, shift, shift, shift))
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.shift = shift
        self.warp = None if warp == Warp() else warp
        self.pixels = torch.arange(SIDE, device=labels.device)
        self.between = between_knots().to(labels.device)

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, 28, 28), gray levels, uint8 unless they are warped, and labels (B,) of that epoch,
        counted from 1."""
        drawn = [one.to(self.labels.device) for one in self.draw(epoch)]
        for start in range(0, len(self.labels), self.batch_size):
            yield self.take(*(one[start : start + self.batch_size] for one in drawn))

    def draw(self, epoch: int) -> tuple[Tensor, ...]:
        """Return that epoch's order (N,), where in its padded image each one begins, (N, 2), and if they are warped
        what `Warp.draw` returns, on the CPU."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        count = len(self.labels)
        order = torch.randperm(count, generator=generator)
        corners = torch.randint(0, 2 * self.shift + 1, (count, 2), generator=generator)
        return (order, corners) if self.warp is None else (order, corners, *self.warp.draw(count, generator))

    def take(
        self, index: Tensor, corners: Tensor, matrices: Tensor | None = None, knots: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the images and labels of an index (B,), the images cut out at these corners and warped."""
        labels = self.labels[index]
        if self.shift == 0:
            images = self.images[index]
        else:
            rows = (corners[:, :1] + self.pixels)[:, :, None]  # (B, 28, 1)
            columns = (corners[:, 1:] + self.pixels)[:, None, :]  # (B, 1, 28)
            images = self.images[index[:, None, None], rows, columns]
        if matrices is not None:
            images = warped(images, matrices, knots, self.between)
        return images, labels


def normalize(images: Tensor, mean: float, std: float) -> Tensor:
    """Return (images - mean) / std, gray levels 0 to 255, as float32 (B, 1, 28, 28), channels last on CPUs and CUDA."""
    normalized = (images.unsqueeze(1).float() - mean) / std
    fast = images.device.type in ("cpu", "cuda")
    return normalized.contiguous(memory_format=torch.channels_last if fast else torch.contiguous_format)
