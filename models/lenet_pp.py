"""LeNet++ (Wen et al., table 1) and the plain softmax head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LeNetPP(nn.Module):
    """LeNet++: three stages with 32, 64 and 128 channels, then a fully connected layer to the features.

    A stage is [conv 5×5, PReLU] twice and 2×2 max-pooling. 80.9 M multiply-adds per image.

    Args:
        feat_dim: feature dimension D, at least 1.
        init: ``"kaiming"`` (normal, for PReLU), ``"xavier"`` (uniform over the fan-in, Caffe's),
            or ``"torch"`` (each layer's own default). Biases start at 0 except with ``"torch"``.
        feature_prelu: whether a PReLU follows the feature layer.
        overlapping_pool: whether the third pooling is 3×3 with stride 2 instead of 2×2.

    Raises:
        ValueError: for a `feat_dim` below 1 or another `init`.
    """

    def __init__(
        self,
        feat_dim: int = 2,
        *,
        init: str = "kaiming",
        feature_prelu: bool = False,
        overlapping_pool: bool = False,
    ) -> None:
        super().__init__()
        if feat_dim < 1:
            raise ValueError(f"feat_dim must be at least 1; got {feat_dim}")
        last_pool = nn.MaxPool2d(3, stride=2) if overlapping_pool else nn.MaxPool2d(2)
        self.stages = nn.Sequential(
            *_stage(1, 32, nn.MaxPool2d(2)),  # (B, 32, 14, 14)
            *_stage(32, 64, nn.MaxPool2d(2)),  # (B, 64, 7, 7)
            *_stage(64, 128, last_pool),  # (B, 128, 3, 3)
        )
        self.fc = nn.Linear(128 * 3 * 3, feat_dim)
        self.fc_prelu = nn.PReLU() if feature_prelu else nn.Identity()
        self._initialize(init)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D) in float32 for normalized images (B, 1, 28, 28).

        The last layer runs in float32 even under autocast: this costs nothing, and in bfloat16
        each feature would have only three digits.
        """
        maps = self.stages(images).flatten(1)  # (B, 1152)
        with torch.autocast(images.device.type, enabled=False):
            return self.fc_prelu(self.fc(maps.to(self.fc.weight.dtype)))

    def _initialize(self, init: str) -> None:
        if init not in ("kaiming", "xavier", "torch"):
            raise ValueError(f"init must be 'kaiming', 'xavier' or 'torch'; got {init!r}")
        if init == "torch":
            return
        for layer in self.modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            assert layer.bias is not None, "every layer of LeNet++ has a bias"
            nn.init.zeros_(layer.bias)
            if init == "xavier":  # Caffe's: variance 1 / fan-in
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
            elif isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)  # PReLU starts with slope 0.25
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")


def _stage(channels_in: int, channels: int, pool: nn.Module) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels, kernel_size=5, padding=2),
        nn.PReLU(),
        nn.Conv2d(channels, channels, kernel_size=5, padding=2),
        nn.PReLU(),
        pool,
    ]


class SoftmaxHead(nn.Linear):
    """The linear layer from features (B, D) to logits (B, C); it ignores the labels.

    Args:
        feat_dim: feature dimension D.
        num_classes: number of classes C.
        bias: whether there is a bias. Without one the classes lie around a circle.
        init: ``"spread"`` (see `spread_directions`), ``"xavier"`` or ``"torch"``.
        radius: initial length of the class weights, with ``"spread"``.

    Raises:
        ValueError: for another `init`.
    """

    def __init__(
        self, feat_dim: int, num_classes: int, *, bias: bool = False, init: str = "spread", radius: float = 5.0
    ) -> None:
        super().__init__(feat_dim, num_classes, bias=bias)
        if init not in ("spread", "xavier", "torch"):
            raise ValueError(f"init must be 'spread', 'xavier' or 'torch'; got {init!r}")
        if init == "torch":
            return
        if init == "spread":
            with torch.no_grad():
                self.weight.copy_(radius * spread_directions(num_classes, feat_dim))
        else:
            nn.init.kaiming_uniform_(self.weight, nonlinearity="linear")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(features)


def spread_directions(num_classes: int, feat_dim: int) -> Tensor:
    """Return C unit vectors (C, D) that point apart: with alternating signs for D = 1, evenly around
    the circle for D = 2, and for D > 2 orthogonal if C ≤ D."""
    if feat_dim == 1:
        return torch.tensor([1.0, -1.0]).repeat((num_classes + 1) // 2)[:num_classes, None]
    if feat_dim == 2:
        angle = torch.arange(num_classes) * (2 * math.pi / num_classes)
        return torch.stack([angle.cos(), angle.sin()], dim=1)
    directions = torch.empty(num_classes, feat_dim)
    nn.init.orthogonal_(directions)
    return nn.functional.normalize(directions)
