"""From `Settings` to what trains: network, head, centers, optimizers and schedules on the device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from center_loss import CenterLoss
from datasets import Digits
from margin_heads import MarginHead
from models.fourier import through_frequency
from models.heads import HEADS
from models.lenet_pp import LeNetPP, SoftmaxHead, spread_directions
from models.prelu import vectorize_prelu
from training.batches import Batches, Warp
from training.class_order import around_the_circle, confusions
from training.hardware import UNTESTED, autocast, compiled, make_deterministic
from training.parallel import Group
from training.settings import START_RADIUS, Plan, Settings
from training.trainer import Network, Schedule, Trainer


@dataclass
class Training:
    """All that a training run works with: data on the device, batches, trainer; and how far it is."""

    data: Digits
    batches: Batches
    trainer: Trainer
    epochs: int
    iterations: int
    epoch: int = 0  # the last that is finished
    best: float = -1.0  # best test accuracy so far, percent; -1 before the first
    elapsed: float = 0.0  # seconds, with earlier sessions

    def steps(self, epoch: int) -> tuple[Iterator[tuple[float, Tensor]], int]:
        """Return an iterator that trains an epoch, and the number of batches; the last epoch may be cut short. The
        iterator is that of `Trainer.train_epoch`."""
        before = (epoch - 1) * len(self.batches)
        count = min(len(self.batches), self.iterations - before)
        return self.trainer.train_epoch(itertools.islice(self.batches.epoch(epoch), count), before), count


def build_training(plan: Plan, data: Digits, group: Group) -> Training:
    """Return what trains a run, the same in every process of the group; of the whole data set `data` it takes the
    run's classes, without the images held out."""
    settings = plan.settings
    data, _, _ = data.for_training(settings.known_classes, settings.hold_out)
    data = data.to(group.device)
    warp = Warp(settings.rotation, settings.scaling, settings.shearing)
    batches = Batches(data.train_images, data.train_labels, settings.batch_size, settings.seed, settings.shift, warp)
    trainer = build_trainer(plan, batches, len(data.classes), group)
    return Training(data, batches, trainer, *length_of_run(settings, len(batches)))


def build_trainer(plan: Plan, batches: Batches, num_classes: int, group: Group) -> Trainer:
    """Return network, head, losses and optimizers on the group's device, from the seed."""
    settings = plan.settings
    prepare(plan, group.device)
    torch.manual_seed(settings.seed)
    network = build_network(settings, num_classes, autocast(settings.precision, group.device))
    if settings.class_order == "similar":
        order = group.agree(lambda: around_the_circle(confusions(batches.images, batches.labels, num_classes)))
        with torch.no_grad():
            network.head.weight[list(order)] = network.head.weight.clone()
    center_loss = CenterLoss(
        num_classes,
        settings.feat_dim,
        update=settings.center_update,
        weight=settings.weight_cent,
        init=initial_centers(settings.center_init, network.head.weight),
        exchange=False,  # over several processes each has the whole batch's features
    )
    for module in (network.model, network.head, center_loss):
        module.to(group.device)
    specialize(network.model, plan, group.device)
    forward = group.over_all(network.model)
    if plan.compile == "on":
        forward = compiled(forward, settings.batch_size, group.device)
    optimizer_model, optimizer_center = build_optimizers(network.model, network.head, center_loss, settings)
    return Trainer(
        **vars(network),
        forward=forward,
        center_loss=center_loss,
        optimizer_model=optimizer_model,
        optimizer_center=optimizer_center,
        schedule=schedule_of(settings, len(batches)),
        clip=settings.clip,
    )


def prepare(plan: Plan, device: torch.device) -> None:
    """Set what holds for the whole process in torch: kernels and threads."""
    if plan.deterministic:
        make_deterministic()
    elif device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # the batches of a run have one size
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)


def specialize(model: Any, plan: Plan, device: torch.device) -> None:
    """Give a model the layers that are fast on this device, with the same parameters."""
    if device.type == "cpu" and plan.compile == "off":
        vectorize_prelu(model)
    if device.type == "cpu" and plan.convolutions == "fourier":
        through_frequency(model)
    if device.type in UNTESTED:
        model.to(memory_format=torch.contiguous_format)


def build_network(
    settings: Settings, num_classes: int, precision: Callable[[], AbstractContextManager[Any]]
) -> Network:
    """Return the network that resolved settings name, newly initialized, on the CPU."""
    model: Any = LeNetPP(
        feat_dim=settings.feat_dim,
        init=settings.init,
        feature_prelu=settings.feature_prelu,
        overlapping_pool=settings.overlapping_pool,
    )
    model.to(memory_format=torch.channels_last)
    return Network(
        model=model,
        head=build_head(settings, num_classes),
        precision=precision,
        pixel_mean=settings.pixel_mean,
        pixel_std=settings.pixel_std,
    )


def build_head(settings: Settings, num_classes: int) -> SoftmaxHead | MarginHead:
    """Return the head that the settings name, features (B, D) → logits (B, C)."""
    feat_dim, row = settings.feat_dim, HEADS[settings.head]
    taken = {"s": (row.scale, settings.scale), "m": (row.margin, settings.margin)}
    values = {key: value for key, (default, value) in taken.items() if default is not None}
    if not values:
        bias, init = settings.head_bias, settings.head_init
        return row.load()(feat_dim, num_classes, bias=bias, init=init, radius=START_RADIUS)
    head = row.load()(feat_dim, num_classes, **values)
    if settings.head_init == "spread":
        with torch.no_grad():
            head.weight.copy_(spread_directions(num_classes, feat_dim))
    return head


def initial_centers(name: str, head_weight: Tensor) -> Tensor:
    """Return where the centers start, (C, D).

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
    model: nn.Module, head: nn.Module, center_loss: CenterLoss, settings: Settings
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return SGD for model and head, and SGD for the centers; each group's own rate is its `initial_lr`."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}  # by learning rate and weight decay
    for module in (model, head):
        for name, parameter in module.named_parameters():
            groups.setdefault(_rate_and_decay(name, settings), []).append(parameter)
    optimizer_model = torch.optim.SGD(
        [{"params": group, "lr": lr, "initial_lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()],
        lr=settings.lr_model,
        momentum=settings.momentum,
    )
    optimizer_center = torch.optim.SGD(
        [{"params": list(center_loss.parameters()), "initial_lr": settings.lr_cent}],
        lr=settings.lr_cent,
        momentum=settings.momentum_cent,
    )
    return optimizer_model, optimizer_center


def schedule_of(settings: Settings, batches: int) -> Schedule:
    """Return a function from an iteration, counted from 0, to the factors on the learning rates of model and centers,
    for epochs of `batches` batches."""
    _, iterations = length_of_run(settings, batches)
    factor = lr_schedule(settings, iterations, batches)
    hold = settings.center_hold * iterations

    def center_factor(iteration: int) -> float:
        if iteration < hold:
            return 0.0
        return max(factor(iteration), settings.center_floor) if settings.center_schedule else 1.0

    return lambda iteration: (factor(iteration), center_factor(iteration))


def _rate_and_decay(name: str, settings: Settings) -> tuple[float, float]:
    """Return the learning rate and the weight decay of the parameter of that name."""
    rate, decay = settings.lr_model, settings.weight_decay
    if name.startswith("fc."):
        rate *= settings.feature_lr_factor
    if name.endswith("bias"):
        rate *= settings.bias_lr_factor
        decay = decay if settings.bias_decay else 0.0
    return rate, decay


def lr_schedule(settings: Settings, iterations: int, batches: int) -> Callable[[int], float]:
    """Return a function from an iteration (from 0) to the learning rate's factor.

    ``one-cycle`` rises linearly over the first `warmup` of the run, then falls linearly to 0.
    ``step`` multiplies by `gamma` every `stepsize`, or at each of several `stepsize`s.

    Args:
        settings: resolved ones.
        iterations: of the whole run.
        batches: iterations of an epoch.
    """
    if settings.schedule == "one-cycle":
        top = max(1.0, settings.warmup * iterations)
        return lambda i: min((i + 1) / top, max(0.0, (iterations - i) / (iterations - top + 1)))
    assert settings.gamma is not None, "settings are checked where they are read"
    assert settings.stepsize is not None
    gamma = settings.gamma
    steps = [step * (batches if settings.step_unit == "epoch" else 1) for step in settings.stepsize]
    if len(steps) == 1:
        return lambda i: gamma ** (i // steps[0])
    return lambda i: gamma ** sum(i >= step for step in steps)


def length_of_run(settings: Settings, batches: int) -> tuple[int, int]:
    """Return the run's epochs and iterations, for epochs of so many batches.

    A recipe that counts in iterations may cut its last epoch short.
    """
    if settings.max_epoch is not None:
        return settings.max_epoch, settings.max_epoch * batches
    assert settings.max_iterations is not None, "Settings are checked where they are read"
    return math.ceil(settings.max_iterations / batches), settings.max_iterations
