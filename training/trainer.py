"""One step, one epoch, one evaluation: a loop that reads like the paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from center_loss import CenterLoss
from margin_heads import MarginHead
from models.heads import row_of
from models.lenet_pp import SoftmaxHead
from training.batches import normalize
from utils import UserError

EVALUATION_BATCH, ON_CPU = 2_000, 250  # images; more are not faster on a CPU

Schedule = Callable[[int], tuple[float, float]]  # iteration → factors on the rates of the model and of the centers


class Diverged(UserError):
    """A loss is not finite; the message names the batch and says what to do."""

    status = 1

    def __init__(self, epoch: int, batch: int) -> None:
        super().__init__(
            f"the loss is not finite at batch {batch} of epoch {epoch}. Start again with a smaller --lr-model, "
            f"a smaller --weight-cent or --precision fp32"
        )


@dataclass(kw_only=True)
class Network:
    """Images → `model` → features → `head` → logits.

    `precision` returns the autocast context for the model's forward pass. Features, logits and
    losses are float32 in any precision.
    """

    model: nn.Module
    head: SoftmaxHead | MarginHead
    precision: Callable[[], AbstractContextManager[Any]]
    pixel_mean: float
    pixel_std: float

    STATEFUL: ClassVar[tuple[str, ...]] = ("model", "head")

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes."""
        return {name: getattr(self, name).state_dict() for name in self.STATEFUL}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the entries of a `state_dict` that belong here; ignore others."""
        for name in self.STATEFUL:
            getattr(self, name).load_state_dict(state[name])

    def decision(self) -> Tensor:
        """Return the matrix (C, D + 1) that decides: a feature f belongs to the class whose row·(f, 1) is largest."""
        weight, bias = self.head.weight.detach(), getattr(self.head, "bias", None)
        if row_of(self.head).cosine:
            weight = F.normalize(weight)  # neither the scale nor the feature's length changes the order
        return torch.cat([weight, weight.new_zeros(len(weight), 1) if bias is None else bias.detach()[:, None]], dim=1)

    def features(self, images: Tensor, forward: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return float32 features (B, D) of images (B, 28, 28), gray levels 0 to 255, computed by `forward` or else by
        the model."""
        with self.precision():
            images = normalize(images, self.pixel_mean, self.pixel_std)
            return self.model(images) if forward is None else forward(images)

    @torch.no_grad()
    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, D) and logits (N, C), without a margin, of a whole set, with the present weights."""
        training = self.model.training
        self.model.eval()
        self.head.eval()
        parts = images.split(ON_CPU if images.device.type == "cpu" else EVALUATION_BATCH)
        features = torch.cat([self.features(part) for part in parts])
        logits = self.head(features)
        self.model.train(training)
        self.head.train(training)
        return features, logits

    def evaluate(self, images: Tensor, labels: Tensor) -> Evaluation:
        """Return the network's results for a whole set, with the present weights."""
        features, logits = self.outputs(images)
        scores, predictions = logits.softmax(dim=1).max(dim=1)
        return Evaluation(
            features=features,
            labels=labels,
            predictions=predictions,
            scores=scores,
            loss=float(F.cross_entropy(logits, labels)),
            accuracy=100 * (int((predictions == labels).sum()) / len(labels)),
        )


@dataclass(kw_only=True)
class Trainer(Network):
    """What a run trains: a network and the centers.

    `forward` computes the model's features during training: it is the model itself, or compiled, or
    spread over several processes (parallel.py).
    """

    forward: Callable[[Tensor], Tensor]
    center_loss: CenterLoss
    optimizer_model: torch.optim.Optimizer
    optimizer_center: torch.optim.Optimizer
    schedule: Schedule
    clip: float | None

    STATEFUL = ("model", "head", "center_loss", "optimizer_model", "optimizer_center")

    def train_epoch(
        self, batches: Iterator[tuple[Tensor, Tensor]], iteration: int = 0
    ) -> Iterator[tuple[float, Tensor]]:
        """Train on the batches; after each, yield the learning rate and (loss_xent, loss_center).

        The losses are detached and unweighted, and stay on the device: reading them waits for the device. `iteration`
        is the number of batches that the run has trained before.
        """
        self.model.train()
        self.head.train()
        for number, (images, labels) in enumerate(batches, iteration):
            lr = self.set_rates(number)
            yield lr, self.step(images, labels)

    def set_rates(self, iteration: int) -> float:
        """Set the learning rates of an iteration, counted from 0; return that of the model."""
        optimizers = (self.optimizer_model, self.optimizer_center)
        for optimizer, factor in zip(optimizers, self.schedule(iteration), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
        return self.optimizer_model.param_groups[0]["lr"]

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Train on images (B, 28, 28) of gray levels 0 to 255 and labels (B,) at the present rates; return their two
        losses, (2,)."""
        features = self.features(images, self.forward)  # (B, D)
        logits = self.head(features, labels)  # (B, C)
        loss_xent = F.cross_entropy(logits, labels)
        loss = loss_xent + self.center_loss(features, labels)  # eq. 5; the loss holds λ

        self.optimizer_model.zero_grad()
        self.optimizer_center.zero_grad()
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_([*self.model.parameters(), *self.head.parameters()], self.clip)
        self.optimizer_model.step()
        self.optimizer_center.step()  # the gradient of the centers does not contain λ
        return torch.stack([loss_xent.detach(), self.center_loss.last_value])


@dataclass(frozen=True)
class Evaluation:
    """Features (N, D), labels and predictions (N,), the top softmax score (N,), all on the device; the mean
    cross-entropy without margin, and the accuracy in percent."""

    features: Tensor
    labels: Tensor
    predictions: Tensor
    scores: Tensor
    loss: float
    accuracy: float
