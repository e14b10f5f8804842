"""ArcFace and CosFace heads for PyTorch, in one file: copy it into your project.

ArcFace: Deng, Guo, Xue, Zafeiriou: ArcFace: Additive Angular Margin Loss for Deep Face
Recognition, CVPR 2019, eq. 3. CosFace: Wang et al.: CosFace: Large Margin Cosine Loss for Deep
Face Recognition, CVPR 2018, eq. 4. Needs torch and nothing else. MIT license.

    head = ArcFace(feat_dim=512, num_classes=10575, s=64.0, m=0.5)
    loss = F.cross_entropy(head(features, labels), labels)   # training: with the margin
    prediction = head(features).argmax(dim=1)                # evaluation: scaled cosines
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LABEL_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

# A feature is divided by sqrt(|x|² + 1e-6), not by |x|: at x = 0 the cosines are 0 and their
# gradient is at most 1000. Beyond |x| = 1 the difference is about the rounding of float32.
_NORM_EPSILON = 1e-3
_MIN_SIN_SQUARED = 1e-7  # lower bound of 1 - cos²θ: sqrt has no finite slope at 0


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context without autocast."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class MarginHead(nn.Module):
    """Class weights on the unit sphere; subclasses define what the margin does to the target's logit.

    Attributes:
        weight: ``nn.Parameter`` (C, D), normalized in every call.
    """

    def __init__(self, feat_dim: int, num_classes: int, s: float, m: float) -> None:
        super().__init__()
        if feat_dim < 1 or num_classes < 2:
            raise ValueError(
                f"feat_dim must be at least 1 and num_classes at least 2; got {feat_dim} and {num_classes}"
            )
        if not (math.isfinite(s) and s > 0):
            raise ValueError(f"s must be finite and positive; got {s}")
        self.feat_dim = feat_dim
        self.num_classes = num_classes
        self.s = s
        self.m = m
        self.weight = nn.Parameter(torch.empty(num_classes, feat_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits for cross-entropy, (B, C), float32 or wider, also under autocast.

        Args:
            features: floating point, (B, D).
            labels: integer, (B,), in [0, C): the margin is applied to these entries. Without
                labels, the logits are the plain scaled cosines.

        Raises:
            ValueError: for wrong shapes, dtypes and devices, and on the CPU for labels out of range. On CUDA, in
                a compiled graph and under torch.func only the index kernel checks the range.
        """
        self._check(features, labels)
        with _without_autocast(features.device):
            dtype = torch.promote_types(torch.promote_types(features.dtype, self.weight.dtype), torch.float32)
            features = features.to(dtype)
            scale = features.detach().abs().amax(dim=1, keepdim=True).clamp_min(1)  # the squares could overflow
            features = features / scale
            length = (features.square().sum(dim=1, keepdim=True) + (_NORM_EPSILON / scale) ** 2).sqrt()
            weight = F.normalize(self.weight.to(dtype), eps=_NORM_EPSILON)
            cosine = F.linear(features / length, weight).clamp(-1, 1)
            if labels is None:
                return self.s * cosine
            index = labels.long().unsqueeze(1)  # (B, 1)
            try:
                target = cosine.gather(1, index)
            except RuntimeError as error:
                raise ValueError(f"labels must lie in [0, {self.num_classes}): {error}") from error
            return self.s * cosine.scatter(1, index, self.with_margin(target))

    def _check(self, features: Tensor, labels: Tensor | None) -> None:
        """Raise ValueError for input that `forward` does not take."""
        for name, given in (("features", features), ("labels", labels)):
            if given is None:
                continue
            if not isinstance(given, Tensor):
                raise ValueError(f"{name} must be a tensor; got {type(given).__name__}: torch.as_tensor makes one")
            if given.device != self.weight.device:
                devices = f"{given.device} and {self.weight.device}: move the head with head.to(device)"
                raise ValueError(f"{name} and the head's weight must be on one device; got {devices}")
        if not features.is_floating_point():
            raise ValueError(f"features must be floating point; got {features.dtype}")
        if features.dim() != 2 or features.shape[1] != self.feat_dim:
            raise ValueError(f"features must have shape (B, {self.feat_dim}); got {tuple(features.shape)}")
        if labels is None:
            return
        if labels.shape != features.shape[:1]:
            raise ValueError(f"labels must have shape ({features.shape[0]},); got {tuple(labels.shape)}")
        if labels.dtype not in _LABEL_DTYPES:
            raise ValueError(f"labels must be integers (int64, int32, int16, int8 or uint8); got {labels.dtype}")

    def with_margin(self, cosine: Tensor) -> Tensor:
        """Return the target's logit before scaling, for its cosine in [-1, 1], any shape."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"feat_dim={self.feat_dim}, num_classes={self.num_classes}, s={self.s}, m={self.m}"


class ArcFace(MarginHead):
    r"""Additive angular margin: the target's logit is ``s * cos(θ + m)``, the others ``s * cos θ``.

    Beyond ``θ = π - m``, where ``cos(θ + m)`` would rise again, the target's logit is
    ``s * (cos θ - m sin m)``: so it falls over the whole range.

    Args:
        feat_dim: feature dimension D.
        num_classes: number of classes C. With D = 2, neighbors are ``2π/C`` apart, and all
            classes can keep their margin only if ``m < 2π/C`` (0.63 for 10 classes).
        s: scale, positive. The paper's value is 64; the default is for D = 2 and C = 10.
        m: margin in radians, in [0, π/2]. The paper's value is 0.5; the default is for D = 2.

    Raises:
        ValueError: for an argument outside its range.
    """

    def __init__(self, feat_dim: int = 2, num_classes: int = 10, s: float = 30.0, m: float = 0.2) -> None:
        if not 0 <= m <= math.pi / 2:
            raise ValueError(f"m must lie in [0, pi/2] radians; got {m}")
        super().__init__(feat_dim, num_classes, s, m)

    def with_margin(self, cosine: Tensor) -> Tensor:
        sine = (1 - cosine.square()).clamp_min(_MIN_SIN_SQUARED).sqrt()
        shifted = cosine * math.cos(self.m) - sine * math.sin(self.m)  # cos(θ + m)
        beyond = cosine - self.m * math.sin(self.m)
        return torch.where(cosine > math.cos(math.pi - self.m), shifted, beyond)


class CosFace(MarginHead):
    r"""Additive cosine margin: the target's logit is ``s * (cos θ - m)``, the others ``s * cos θ``.

    Args:
        feat_dim: feature dimension D.
        num_classes: number of classes C. With D = 2, all classes can keep their margin only if
            ``m < 1 - cos(2π/C)`` (0.19 for 10 classes).
        s: scale, positive. The paper's value is 64; the default is for D = 2 and C = 10.
        m: margin, in [0, 2). The paper's value is 0.35; the default is for D = 2.

    Raises:
        ValueError: for an argument outside its range.
    """

    def __init__(self, feat_dim: int = 2, num_classes: int = 10, s: float = 30.0, m: float = 0.1) -> None:
        if not 0 <= m < 2:
            raise ValueError(f"m must lie in [0, 2); got {m}")
        super().__init__(feat_dim, num_classes, s, m)

    def with_margin(self, cosine: Tensor) -> Tensor:
        return cosine - self.m
