"""Center loss for PyTorch, in one file: copy it into your project.

Wen, Zhang, Li, Qiao: A Discriminative Feature Learning Approach for Deep Face
Recognition, ECCV 2016. Needs torch and nothing else. MIT license.

    center_loss = CenterLoss(num_classes=10, feat_dim=2)
    optimizer_center = torch.optim.SGD(center_loss.parameters(), lr=0.5)

    loss = F.cross_entropy(logits, labels) + weight * center_loss(features, labels)
"""

from __future__ import annotations

import math
import warnings
from numbers import Integral

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

_LABEL_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _whole(name: str, value: object, low: float = -math.inf) -> None:
    """Raise ValueError unless a value is a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        least = f" of at least {low}" if math.isfinite(low) else ""
        raise ValueError(f"{name} must be a whole number{least}; got {value!r}")


def _one_of(name: str, value: object, first: str, second: str) -> None:
    if value not in (first, second):
        raise ValueError(f"{name} must be {first!r} or {second!r}; got {value!r}")


class CenterLoss(nn.Module):
    r"""Pull every feature towards the learned center of its class.

    .. math:: L_C = k \sum_{i=1}^{B} \lVert x_i - c_{y_i} \rVert^2

    (Wen et al., eq. 2) with ``k = 1/B`` for the mean and ``k = 1`` for the sum, times ½ if ``half``. The features
    receive its gradient (eq. 3). The centers receive

    - with ``update="gradient"`` its gradient too, as in the widely copied implementation: an SGD step moves a center
      by ``lr * 2 * n / B`` of the way to the mean of its ``n`` samples;
    - with ``update="paper"`` the step of eq. 4, whatever ``half`` and ``reduction`` are,

      .. math:: \Delta c_j = \frac{\sum_i \delta(y_i = j)\,(c_j - x_i)}{1 + \sum_i \delta(y_i = j)}

      so that ``torch.optim.SGD(center_loss.parameters(), lr=alpha)``, without momentum and weight decay, performs
      ``c_j <- c_j - alpha * Δc_j``.

    Loss scaling, or any factor on the loss, multiplies both gradients; ``weight`` multiplies only that of the features.
    Under SGD without momentum and weight decay, a class that is absent from the batch keeps its center.

    Args:
        num_classes: number of classes C, at least 1.
        feat_dim: feature dimension D, at least 1.
        use_gpu: ``True`` puts the centers on CUDA, or warns if there is none. ``.to(device)`` moves them, too.
        update: ``"gradient"`` or ``"paper"``, see above.
        weight: λ of eq. 5, at least 0. It scales the value and the gradient of the features, not that of the centers:
            with 0 the centers still learn.
        half: whether to multiply by the ½ of eq. 2; by default only with ``update="paper"``.
        reduction: ``"mean"`` or ``"sum"`` over the batch.
        init: ``"normal"`` (standard normal), ``"zeros"``, ``"circle"`` (evenly spaced on a circle in the first two
            dimensions), or an array or tensor of shape (C, D).
        radius: radius of that circle, in feature units.
        sparse: whether the centers get a sparse gradient: a step then costs O(B·D), not O(C·D). Works with
            ``torch.optim.SGD`` without momentum and weight decay, and with ``SparseAdam``.
        exchange: whether processes exchange their batches where that is needed, see below; False if every process
            gets the gathered features of all processes.
        ignore_index: samples with this label count neither in the mean nor for the centers, as with
            ``cross_entropy``, whose default is -100; by default (``None``) every sample counts.

    Attributes:
        centers: ``nn.Parameter`` (C, D). Keep them in float32: in bfloat16 small steps are lost.
        last_value: the loss of the last call without ``weight``, a detached scalar; NaN before the first call. Calls
            under ``torch.compile`` set it; calls inside a transform of torch.func or from an exported program do not.

    Under DistributedDataParallel wrap the loss as well as the network. With ``sparse=True`` do not wrap it, because it
    exchanges the rows itself, over the default process group: start it from the same centers in every process. The
    centers then stay the same in every process.

    They are the centers of one process with all the samples: always with ``update="paper"``, and with ``sparse=True``
    and the mean; otherwise if all batches have the same size and no sample is ignored, since DistributedDataParallel
    takes the mean of the processes' means. The mean loss and the gradients are then those of one process, too. With
    ``reduction="sum"`` and ``update="gradient"`` the centers move by the mean of their sums.

    Raises:
        ValueError: for an argument outside its range.
    """

    def __init__(
        self,
        num_classes: int = 10,
        feat_dim: int = 2,
        use_gpu: bool | None = None,
        *,
        update: str = "gradient",
        weight: float = 1.0,
        half: bool | None = None,
        reduction: str = "mean",
        init: str | Tensor = "normal",
        radius: float = 1.0,
        sparse: bool = False,
        exchange: bool = True,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        _one_of("update", update, "gradient", "paper")
        _one_of("reduction", reduction, "mean", "sum")
        if ignore_index is not None:
            _whole("ignore_index", ignore_index)
        if half is not None and not isinstance(half, bool):
            raise ValueError(f"half must be True, False or None; got {half!r}")
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight must be finite and at least 0; got {weight}")
        self.num_classes = num_classes
        self.feat_dim = feat_dim
        self.update = update
        self.weight = weight
        self.has_half = (update == "paper") if half is None else half
        self.reduction = reduction
        self.sparse = sparse
        self.exchange = exchange
        self.ignore_index = ignore_index
        self.centers = nn.Parameter(_initial_centers(num_classes, feat_dim, init, radius))
        self.last_value = torch.tensor(math.nan)
        if use_gpu and torch.cuda.is_available():
            self.cuda()
        elif use_gpu:
            warnings.warn("CenterLoss(use_gpu=True): no CUDA device here, the centers stay on the CPU", stacklevel=2)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return ``weight`` times the center loss of a batch, a scalar.

        Args:
            features: floating point, (B, D) or (B, D, 1, 1). Half precision is converted to float32 first. An empty
                batch gives 0.
            labels: integer, (B,), in [0, C).

        Raises:
            ValueError: for wrong shapes, dtypes or devices, and on the CPU for labels out of range. On CUDA, and in a
                compiled graph, an assertion on the device checks the range instead: it ends the program with a
                RuntimeError at the next synchronization. Reading the labels would stall every step.
        """
        features, labels = self._checked(features, labels)
        dtype = torch.promote_types(torch.promote_types(features.dtype, self.centers.dtype), torch.float32)
        features = features.to(dtype)
        classes, k = labels, self._factor(max(labels.numel(), 1))
        if self.ignore_index is not None:  # put ignored samples on a center, in an extra class C
            kept = labels != self.ignore_index
            k = self._factor(kept.sum().clamp(min=1).to(dtype))
            classes = torch.where(kept, labels, self.num_classes)
            labels = _without_ignored(labels, kept)
        centers = self._gather(labels).to(dtype)  # (B, D)
        if self.ignore_index is not None:
            features = torch.where(kept.unsqueeze(1), features, centers.detach())

        # The gradient of the features: eq. 2, and by autograd eq. 3. mse_loss sums the squares in one pass.
        alone = self.update == "gradient" and self.weight == 1 and not self._exchanges()
        value = k * F.mse_loss(features, centers if alone else centers.detach(), reduction="sum")
        if not _is_transformed():
            self.last_value = value.detach()
        if alone:
            return value

        # The gradient of the centers: a term that has it, and whose value is 0.
        felt = self.weight * value if self.weight else (0 * features).sum()  # 0 even where the value overflows
        return felt + self._pull(features.detach(), centers, classes, k) if torch.is_grad_enabled() else felt

    def _factor(self, count: int | Tensor) -> float | Tensor:
        """Return k of eq. 2 for this number of samples, times ½ if wanted."""
        k = 1.0 / count if self.reduction == "mean" else 1.0
        return 0.5 * k if self.has_half else k

    def _pull(self, features: Tensor, centers: Tensor, labels: Tensor, k: float | Tensor) -> Tensor:
        """Return 0, with the gradient that the centers receive."""
        gap = centers.detach() - features  # (B, D)
        if self._exchanges():
            gap, labels = _all_gather_batch(gap, labels, self.num_classes)
            kept = labels != self.num_classes
            centers = self._gather(_without_ignored(labels, kept)).to(gap.dtype)
            # Every process applies all rows: their mean, or like DistributedDataParallel the mean of the sums.
            k = self._factor(kept.sum().clamp(min=1).to(gap.dtype)) if self.reduction == "mean" else k / _world_size()
        if self.update == "gradient":
            received = 2 * k * gap
        else:
            ordered = labels.sort().values
            count = torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels)
            received = gap / (1 + count).unsqueeze(1)  # eq. 4
        return (received * (centers - centers.detach())).sum()

    def _exchanges(self) -> bool:
        """Return whether processes exchange their batches here: eq. 4 needs the counts of the global batch, and
        DistributedDataParallel reduces no sparse gradient but that of an embedding."""
        wanted = self.exchange and (self.update == "paper" or self.sparse)
        return wanted and torch.is_grad_enabled() and self.centers.requires_grad and _world_size() > 1

    def _gather(self, labels: Tensor) -> Tensor:
        """Return each sample's center, (B, D); on the CPU the index kernel checks the range."""
        if torch.compiler.is_compiling() or labels.is_cuda:
            in_range = ((labels >= 0) & (labels < self.num_classes)).all()
            torch._assert_async(in_range, f"labels must lie in [0, {self.num_classes})")
        try:
            return F.embedding(labels, self.centers, sparse=self.sparse)
        except IndexError:
            if _is_transformed():
                raise ValueError(f"labels must lie in [0, {self.num_classes})") from None
            wrong = int(labels[(labels < 0) | (labels >= self.num_classes)][0])
            hint = f"; ignore_index={wrong} leaves such samples out" if wrong == -100 else ""
            raise ValueError(f"labels must lie in [0, {self.num_classes}); got {wrong}{hint}") from None

    def _checked(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return features as (B, D) and labels as int64, or raise ValueError."""
        for name, given in (("features", features), ("labels", labels)):
            if not isinstance(given, Tensor):
                raise ValueError(f"{name} must be a tensor; got {type(given).__name__}: torch.as_tensor makes one")
        if not features.is_floating_point():
            swapped = "; the order is center_loss(features, labels)" if features.dim() == 1 else ""
            raise ValueError(f"features must be floating point; got {features.dtype}{swapped}")
        if labels.dtype not in _LABEL_DTYPES:
            raise ValueError(f"labels must be integers (int64, int32, int16, int8 or uint8); got {labels.dtype}")
        if features.shape[2:] == (1, 1):
            features = features.flatten(1)
        if features.dim() != 2:
            raise ValueError(f"features must have shape (B, D) or (B, D, 1, 1); got {tuple(features.shape)}")
        if features.shape[1] != self.feat_dim:
            raise ValueError(f"features must have feat_dim={self.feat_dim} columns; got {features.shape[1]}")
        if labels.dim() != 1 or labels.shape[0] != features.shape[0]:
            raise ValueError(f"labels must have shape (B,) = ({features.shape[0]},); got {tuple(labels.shape)}")
        if not features.device == labels.device == self.centers.device:
            devices = f"{features.device}, {labels.device} and {self.centers.device}"
            hint = "move the loss with center_loss.to(device)"
            raise ValueError(f"features, labels and centers must be on one device; got {devices}: {hint}")
        return features, labels.long()

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, feat_dim={self.feat_dim}, update={self.update!r}, "
            f"weight={self.weight}, half={self.has_half}, reduction={self.reduction!r}, sparse={self.sparse}, "
            f"exchange={self.exchange}, ignore_index={self.ignore_index}"
        )


def _initial_centers(num_classes: int, feat_dim: int, init: str | Tensor, radius: float) -> Tensor:
    _whole("num_classes", num_classes, 1)
    _whole("feat_dim", feat_dim, 1)
    if not isinstance(init, str):
        init = torch.as_tensor(init)
        if init.shape != (num_classes, feat_dim):
            want = f"(num_classes, feat_dim) = ({num_classes}, {feat_dim})"
            raise ValueError(f"init must have shape {want}; got {tuple(init.shape)}")
        if not bool(init.isfinite().all()):
            raise ValueError("init must be finite; got a tensor with nan or infinity")
        return init.detach().to(torch.float32, copy=True)
    if init == "normal":
        return torch.randn(num_classes, feat_dim)
    if init == "zeros":
        return torch.zeros(num_classes, feat_dim)
    if init == "circle":
        if feat_dim < 2:
            raise ValueError(f"init='circle' needs feat_dim of at least 2; got {feat_dim}")
        if not math.isfinite(radius):
            raise ValueError(f"radius must be finite; got {radius}")
        angle = torch.arange(num_classes) * (2 * math.pi / num_classes)
        return F.pad(radius * torch.stack([angle.cos(), angle.sin()], dim=1), (0, feat_dim - 2))
    raise ValueError(f"init must be 'normal', 'zeros', 'circle' or a tensor; got {init!r}")


def _is_transformed() -> bool:
    """Return whether this runs inside a transform of torch.func, whose values cannot be read and do not last."""
    return torch._C._functorch.maybe_current_level() is not None


def _without_ignored(labels: Tensor, kept: Tensor) -> Tensor:
    """Return labels with the largest kept one in place of the others: so a sparse gradient has no further row."""
    return torch.where(kept, labels, F.pad(torch.where(kept, labels, 0), (0, 1)).amax())


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _all_gather_batch(gap: Tensor, labels: Tensor, nothing: int) -> tuple[Tensor, Tensor]:
    """Return the rows and labels of all P processes, (P·B, D) and (P·B,), where B is the largest of their batches;
    smaller ones are filled up with rows of the class `nothing`.

    Costs O(P·B·D), whatever C is. Reading the largest B is a step's only synchronization.
    """
    largest = labels.new_tensor(labels.numel())
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    missing = int(largest) - labels.numel()
    gathered = []
    for rows in (F.pad(gap, (0, 0, 0, missing)), F.pad(labels, (0, missing), value=nothing)):
        gathered.append(torch.cat([rows] * _world_size()))
        dist.all_gather_into_tensor(gathered[-1], rows.contiguous())
    return gathered[0], gathered[1]
