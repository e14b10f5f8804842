"""Shuffled, shifted and warped batches of a training set, and the network's input for an image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from idx import SIDE


@dataclass(frozen=True)
class Warp:
    """The largest rotation (degrees), scaling and shearing (shares) of an image, in both directions. Amounts are drawn
    uniformly."""

    rotation: float = 0.0
    scaling: float = 0.0
    shearing: float = 0.0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return a matrix per image, float32 (count, 2, 2), that maps places in the result to places in the image, in
        units of half its side."""
        turn, size, slant = torch.rand(3, count, generator=generator).mul(2).sub(1)
        angle = turn * math.radians(self.rotation)
        cos, sin, shear = angle.cos(), angle.sin(), slant * self.shearing
        matrix = torch.stack([cos, cos * shear - sin, sin, sin * shear + cos], 1).view(-1, 2, 2)  # turned and sheared
        return matrix / (1 + size * self.scaling)[:, None, None]


def warped(images: Tensor, matrices: Tensor) -> Tensor:
    """Return float32 images (B, 28, 28), warped as `Warp.draw` drew it; beyond the edges an image is 0."""
    places = F.affine_grid(F.pad(matrices, (0, 1)), [len(images), 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(images.unsqueeze(1).float(), places, align_corners=False).squeeze(1)


class Batches:
    """Shuffled batches of a training set in a device's memory.

    The order, shifts and warps of an epoch depend on seed and epoch only, on every device: so a
    resumed run sees the same batches as one that was never stopped.

    Args:
        images: uint8 (N, 28, 28).
        labels: int64 (N,), on the same device.
        batch_size: B; the last batch of an epoch may be smaller.
        seed: seed of the order, the shifts and the warps.
        shift: largest shift of an image along each axis, in pixels; the rest is filled with 0.
        warp: largest warp about the image's middle, after the shift.
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

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, 28, 28), uint8 or, if warped, float32 gray levels, and labels (B,); epochs count from 1."""
        drawn = [one.to(self.labels.device) for one in self.draw(epoch)]
        for start in range(0, len(self.labels), self.batch_size):
            yield self.take(*(one[start : start + self.batch_size] for one in drawn))

    def draw(self, epoch: int) -> tuple[Tensor, ...]:
        """Return an epoch's order (N,), each image's corner in the padded image (N, 2) and, if warped, its matrix
        (N, 2, 2), on the CPU."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        count = len(self.labels)
        order = torch.randperm(count, generator=generator)
        corners = torch.randint(0, 2 * self.shift + 1, (count, 2), generator=generator)
        return (order, corners) if self.warp is None else (order, corners, self.warp.draw(count, generator))

    def take(self, index: Tensor, corners: Tensor, matrices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the images and labels at the indices (B,), the images cut out at these corners and warped."""
        labels = self.labels[index]
        if self.shift == 0:
            images = self.images[index]
        else:
            rows = (corners[:, :1] + self.pixels)[:, :, None]  # (B, 28, 1)
            columns = (corners[:, 1:] + self.pixels)[:, None, :]  # (B, 1, 28)
            images = self.images[index[:, None, None], rows, columns]
        if matrices is not None:
            images = warped(images, matrices)
        return images, labels


def normalize(images: Tensor, mean: float, std: float) -> Tensor:
    """Return (images - mean) / std for gray levels 0 to 255: float32 (B, 1, 28, 28), channels last on CPUs and CUDA."""
    normalized = (images.unsqueeze(1).float() - mean) / std
    fast = images.device.type in ("cpu", "cuda")
    return normalized.contiguous(memory_format=torch.channels_last if fast else torch.contiguous_format)
