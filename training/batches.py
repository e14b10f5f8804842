"""Shuffled and shifted batches of a training set, and what the network is given of an image."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets import SIDE


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
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, seed: int, shift: int = 0) -> None:
        self.images = F.pad(images, (shift, shift, shift, shift))
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.shift = shift
        self.pixels = torch.arange(SIDE, device=labels.device)

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 images (B, 28, 28) and labels (B,) of that epoch, counted from 1."""
        order, corners = (one.to(self.labels.device) for one in self.draw(epoch))
        for start in range(0, len(order), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.take(order[part], corners[part])

    def draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return that epoch's order (N,) and where in its padded image each one begins, (N, 2), on the CPU."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.labels), generator=generator)
        return order, torch.randint(0, 2 * self.shift + 1, (len(self.labels), 2), generator=generator)

    def take(self, index: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and labels of an index (B,), the images cut out at these corners (B, 2)."""
        labels = self.labels[index]
        if self.shift == 0:
            return self.images[index], labels
        rows = (corners[:, :1] + self.pixels)[:, :, None]  # (B, 28, 1)
        columns = (corners[:, 1:] + self.pixels)[:, None, :]  # (B, 1, 28)
        return self.images[index[:, None, None], rows, columns], labels


def normalize(images: Tensor, mean: float, std: float) -> Tensor:
    """Return (images - mean) / std, gray levels 0 to 255, as float32 (B, 1, 28, 28), channels last."""
    normalized = (images.unsqueeze(1).float() - mean) / std
    return normalized.contiguous(memory_format=torch.channels_last)
