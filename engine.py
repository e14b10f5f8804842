"""One epoch of training and one evaluation: the loop that reads like the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from center_loss import CenterLoss
from datasets import Batches, normalize
from margin_heads import ArcFace, CosFace, MarginHead
from models import SoftmaxHead, spread_directions

EVALUATION_BATCH = {"cpu": 250, "cuda": 2_000}  # more is no faster on a CPU
MARGIN_HEADS = {"arcface": ArcFace, "cosface": CosFace}
START_RADIUS = 5.0  # of class weights and centres alike, in feature units


class Diverged(Exception):
    """A loss that is not finite; the message names the batch."""


@dataclass(kw_only=True)
class Network:
    """Images → `model` → features → `head` → logits.

    `precision` returns the autocast context for the model's forward pass. The features, the
    logits and the losses are float32 in any precision.
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
        """Take up a `state_dict`; other entries are ignored."""
        for name in self.STATEFUL:
            getattr(self, name).load_state_dict(state[name])

    def features(self, images: Tensor) -> Tensor:
        """Return float32 features (B, D) of uint8 images (B, 28, 28)."""
        return self._features(images, self.model)

    def _features(self, images: Tensor, model: Callable[[Tensor], Tensor]) -> Tensor:
        with self.precision():
            return model(normalize(images, self.pixel_mean, self.pixel_std))

    @torch.no_grad()
    def evaluate(self, images: Tensor, labels: Tensor) -> Evaluation:
        """Return what the network makes of a whole set under the present weights."""
        self.model.eval()
        self.head.eval()
        features = torch.cat(
            [self.features(part) for part in images.split(EVALUATION_BATCH[images.device.type])]
        )  # (N, D)
        logits = self.head(features)  # (N, C), without a margin
        scores, predictions = logits.softmax(dim=1).max(dim=1)
        return Evaluation(
            features=features,
            logits=logits,
            labels=labels,
            predictions=predictions,
            scores=scores,
            loss=float(F.cross_entropy(logits, labels)),
            accuracy=100 * float((predictions == labels).double().mean()),
        )


@dataclass(kw_only=True)
class Trainer(Network):
    """What a run trains: a network, and the centres.

    `spread` computes the model's features while training: the model itself, or it over several
    processes (parallel.py).
    """

    spread: Callable[[Tensor], Tensor]
    center_loss: CenterLoss
    optimizer_model: torch.optim.Optimizer
    optimizer_center: torch.optim.Optimizer
    scheduler_model: torch.optim.lr_scheduler.LRScheduler
    scheduler_center: torch.optim.lr_scheduler.LRScheduler
    clip: float | None

    STATEFUL = ("model", "head", "center_loss", "optimizer_model", "optimizer_center", "scheduler_model", "scheduler_center")  # fmt: skip

    def train_epoch(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[float, Tensor]]:
        """Train on the batches; after each yield the learning rate and (loss_xent, loss_center).

        The losses stay on the device, detached and unweighted: reading them waits for the device.
        """
        self.model.train()
        self.head.train()
        for images, labels in batches:
            lr = self.optimizer_model.param_groups[0]["lr"]
            features = self._features(images, self.spread)  # (B, D)
            logits = self.head(features, labels)  # (B, C)
            loss_xent = F.cross_entropy(logits, labels)
            loss = loss_xent + self.center_loss(features, labels)  # eq. 5; the loss holds λ

            self.optimizer_model.zero_grad()
            self.optimizer_center.zero_grad()
            loss.backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_([*self.model.parameters(), *self.head.parameters()], self.clip)
            self.optimizer_model.step()
            self.optimizer_center.step()  # λ does not reach the centres
            self.scheduler_model.step()
            self.scheduler_center.step()
            yield lr, torch.stack([loss_xent.detach(), self.center_loss.last_value])


@dataclass(frozen=True)
class Evaluation:
    """Features (N, D), logits (N, C), labels and predictions (N,), the top softmax score (N,), all on
    the device; the mean cross-entropy without margin, and the accuracy in percent."""

    features: Tensor
    logits: Tensor
    labels: Tensor
    predictions: Tensor
    scores: Tensor
    loss: float
    accuracy: float


def build_network(
    settings: dict[str, Any], num_classes: int, precision: Callable[[], AbstractContextManager[Any]]
) -> Network:
    """Return the network that resolved settings name, newly initialized, on the CPU."""
    model = models.create(
        settings["model"],
        feat_dim=settings["feat_dim"],
        init=settings["init"],
        feature_prelu=settings["feature_prelu"],
        overlapping_pool=settings["overlapping_pool"],
    )
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Network(
        model=model,
        head=build_head(settings, num_classes),
        precision=precision,
        pixel_mean=settings["pixel_mean"],
        pixel_std=settings["pixel_std"],
    )


def build_head(settings: dict[str, Any], num_classes: int) -> SoftmaxHead | MarginHead:
    """Return the head that the settings name, features (B, D) → logits (B, C)."""
    feat_dim = settings["feat_dim"]
    if settings["head"] == "softmax":
        bias, init = settings["head_bias"], settings["head_init"]
        return SoftmaxHead(feat_dim, num_classes, bias=bias, init=init, radius=START_RADIUS)
    head = MARGIN_HEADS[settings["head"]](feat_dim, num_classes, s=settings["scale"], m=settings["margin"])
    if settings["head_init"] == "spread":
        with torch.no_grad():
            head.weight.copy_(spread_directions(num_classes, feat_dim))
    return head


def initial_centers(name: str, head_weight: Tensor) -> Tensor:
    """Return where the centres start, (C, D).

    ``head``: in the directions of the class weights, at radius 5. ``normal``: standard normal.
    ``xavier``: uniform with variance 1/D, Caffe's filler.
    """
    if name == "head":
        return START_RADIUS * F.normalize(head_weight.detach())
    if name == "xavier":
        bound = math.sqrt(3 / head_weight.shape[1])
        return torch.empty(head_weight.shape).uniform_(-bound, bound)
    return torch.randn(head_weight.shape)


def build_optimizers(
    model: nn.Module, head: nn.Module, center_loss: CenterLoss, settings: dict[str, Any], batches: Batches
) -> dict[str, Any]:
    """Return SGD for model and head, SGD for the centres, and a schedule for each, per iteration,
    under the names that `Trainer` has for them.

    Args:
        settings: a resolved recipe (see recipes.py).
        batches: what the run trains on; its number of batches sets the schedules' time scale.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}  # by learning rate and weight decay
    for module in (model, head):
        for name, parameter in module.named_parameters():
            groups.setdefault(_rate_and_decay(name, settings), []).append(parameter)
    optimizer_model = torch.optim.SGD(
        [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()],
        lr=settings["lr_model"],
        momentum=settings["momentum"],
    )
    optimizer_center = torch.optim.SGD(
        center_loss.parameters(), lr=settings["lr_cent"], momentum=settings["momentum_cent"]
    )
    _, iterations = length_of_run(settings, len(batches))
    factor = lr_schedule(settings, iterations, len(batches))
    hold = settings["center_hold"] * iterations

    def center_factor(iteration: int) -> float:
        if iteration < hold:
            return 0.0
        return factor(iteration) if settings["center_schedule"] else 1.0

    return {
        "optimizer_model": optimizer_model,
        "optimizer_center": optimizer_center,
        "scheduler_model": torch.optim.lr_scheduler.LambdaLR(optimizer_model, factor),
        "scheduler_center": torch.optim.lr_scheduler.LambdaLR(optimizer_center, center_factor),
    }


def _rate_and_decay(name: str, settings: dict[str, Any]) -> tuple[float, float]:
    """Return the learning rate and the weight decay of the parameter of that name."""
    rate, decay = settings["lr_model"], settings["weight_decay"]
    if name.startswith("fc."):
        rate *= settings["feature_lr_factor"]
    if name.endswith("bias"):
        rate *= settings["bias_lr_factor"]
        decay = decay if settings["bias_decay"] else 0.0
    return rate, decay


def lr_schedule(settings: dict[str, Any], iterations: int, batches: int) -> Callable[[int], float]:
    """Return the factor on the learning rate at an iteration counted from 0.

    ``one-cycle`` rises linearly over the first `warmup` of the run, then falls linearly to 0.
    ``step`` multiplies by `gamma` every `stepsize`, or at each of several `stepsize`s.

    Args:
        settings: a resolved recipe.
        iterations: of the whole run.
        batches: iterations of an epoch.
    """
    if settings["schedule"] == "one-cycle":
        top = max(1.0, settings["warmup"] * iterations)
        return lambda i: min((i + 1) / top, max(0.0, (iterations - i) / (iterations - top + 1)))
    gamma = settings["gamma"]
    steps = [step * (batches if settings["step_unit"] == "epoch" else 1) for step in settings["stepsize"]]
    if len(steps) == 1:
        return lambda i: gamma ** (i // steps[0])
    return lambda i: gamma ** sum(i >= step for step in steps)


def length_of_run(settings: dict[str, Any], batches: int) -> tuple[int, int]:
    """Return the run's epochs and iterations, for epochs of so many batches.

    A recipe that counts in iterations may cut its last epoch short.
    """
    if settings["max_epoch"] is not None:
        return settings["max_epoch"], settings["max_epoch"] * batches
    return math.ceil(settings["max_iterations"] / batches), settings["max_iterations"]
