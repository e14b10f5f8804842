"""The loop: steps, schedules, parameter groups, and where λ acts."""

from __future__ import annotations

import math
import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from center_loss import CenterLoss
from datasets import Digits
from models.lenet_pp import LeNetPP
from models.prelu import vectorize_prelu
from training.batches import Batches, normalize
from training.building import (
    build_head,
    build_optimizers,
    build_trainer,
    initial_centers,
    length_of_run,
    lr_schedule,
    schedule_of,
)
from training.hardware import autocast
from training.parallel import Group
from training.recipes import RECIPES, resolve
from training.settings import Plan, Settings
from training.trainer import Trainer


def make_trainer(
    digits: Digits,
    weight_cent: float,
    recipe: str = "default",
    device: str = "cpu",
    compile: str = "off",
    **by_hand: Any,
) -> tuple[Trainer, Batches]:
    """Return a trainer and 256 digits in batches of 64; in float32, with ordinary convolutions."""
    by_hand = {"recipe": recipe, "max_epoch": 1, "weight_cent": weight_cent, "precision": "fp32", "seed": 0} | by_hand
    settings = resolve(Settings(batch_size=64, **by_hand), {*by_hand, "batch_size"}, "mnist")
    batches = Batches(digits.train_images[:256], digits.train_labels[:256], 64, seed=0, shift=settings.shift)
    plan = Plan(settings=settings, compile=compile, convolutions="direct")
    return build_trainer(plan, batches, 10, Group(torch.device(device))), batches


def test_reference_loop_step_by_step(mnist5k: Digits) -> None:
    """Two batches of the reference recipe against its published steps, written out here."""
    trainer, batches = make_trainer(mnist5k, 1.0, "reference")
    other, _ = make_trainer(mnist5k, 1.0, "reference")
    weights = [*other.model.parameters(), *other.head.parameters()]
    sgd = torch.optim.SGD(weights, lr=0.001, momentum=0.9, weight_decay=5e-4)
    centers = other.center_loss.centers.detach().clone()
    for step, ((_, losses), (images, labels)) in enumerate(
        zip(trainer.train_epoch(batches.epoch(1)), batches.epoch(1), strict=True)
    ):
        features = other.model(((images / 255 - 0.1307) / 0.3081).unsqueeze(1))
        loss_xent = F.cross_entropy(other.head(features), labels)
        gap = features - centers[labels]
        loss_center = gap.square().sum() / len(labels)
        sgd.zero_grad()
        (loss_xent + loss_center).backward()
        sgd.step()
        centers -= 0.5 * torch.zeros_like(centers).index_add_(0, labels, -2 / len(labels) * gap.detach())
        torch.testing.assert_close(losses, torch.stack([loss_xent, loss_center]).detach(), rtol=1e-4, atol=1e-5)
        if step == 1:
            break
    torch.testing.assert_close(trainer.center_loss.centers.detach(), centers, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("center_update", ["gradient", "paper"])
def test_lambda_does_not_change_how_centers_learn(mnist5k: Digits, center_update: str) -> None:
    """With the network held still, every λ moves the centers to the same places."""
    ends = []
    for weight in (0.0, 0.1, 1.0):
        trainer, batches = make_trainer(mnist5k, weight, center_update=center_update, lr_model=1e-30, center_hold=0)
        start = trainer.center_loss.centers.detach().clone()
        for _ in trainer.train_epoch(batches.epoch(1)):
            pass
        ends.append(trainer.center_loss.centers.detach())
        assert not torch.equal(start, ends[-1])
    torch.testing.assert_close(ends[1], ends[0])
    torch.testing.assert_close(ends[2], ends[0])


def test_one_cycle() -> None:
    factor = lr_schedule(Settings(warmup=0.2), iterations=4_690, batches=469)
    values = [factor(i) for i in range(4_690)]
    assert values[0] == pytest.approx(1 / 938)
    assert max(values) == pytest.approx(values[937]) == pytest.approx(1)
    assert 0 < values[-1] < 0.001
    assert factor(4_690) == 0  # after the last step
    falling = [lr_schedule(Settings(), iterations=10, batches=5)(i) for i in range(10)]
    assert falling == pytest.approx([1 - i / 10 for i in range(10)])
    short = lr_schedule(Settings(warmup=0.2), iterations=8, batches=4)
    assert 0 < min(short(i) for i in range(8)) < max(short(i) for i in range(8)) <= 1


def test_reference_halves_every_20_epochs() -> None:
    factor = lr_schedule(RECIPES["reference"], iterations=46_900, batches=469)
    assert [factor(469 * epoch) for epoch in (0, 19, 20, 40)] == [1, 1, 0.5, 0.25]


def test_paper_counts_in_iterations() -> None:
    factor = lr_schedule(RECIPES["paper"], iterations=10_000, batches=469)
    assert [factor(i) for i in (0, 4_999, 5_000, 7_999, 8_000)] == pytest.approx([1, 1, 0.8, 0.8, 0.64])
    assert length_of_run(RECIPES["paper"], 469) == (22, 10_000)
    assert length_of_run(RECIPES["reference"], 469) == (100, 46_900)


def test_paper_groups() -> None:
    """Biases at twice the rate and without decay; the centers by the same solver."""
    settings = RECIPES["paper"]
    model, head = LeNetPP(2, feature_prelu=True), build_head(settings, 10)
    sgd, sgd_center = build_optimizers(model, head, CenterLoss(), settings)
    biases = {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    for group in sgd.param_groups:
        for parameter in group["params"]:
            expected = (0.02, 0.0) if id(parameter) in biases else (0.01, 5e-4)
            assert (group["lr"], group["weight_decay"]) == expected
        assert group["momentum"] == 0.9
    assert sum(len(group["params"]) for group in sgd.param_groups) == 22
    assert sgd_center.param_groups[0]["lr"] == 0.01
    assert sgd_center.param_groups[0]["momentum"] == 0.9
    assert schedule_of(settings, 1)(8_000) == pytest.approx((0.64, 0.64))


def test_evaluation_counts_by_hand(mnist5k: Digits) -> None:
    trainer, _ = make_trainer(mnist5k, 0.1)
    result = trainer.evaluate(mnist5k.test_images, mnist5k.test_labels)
    right = sum(p == y for p, y in zip(result.predictions.tolist(), mnist5k.test_labels.tolist(), strict=True))
    assert result.accuracy == pytest.approx(right / 10)
    assert result.features.shape == (1_000, 2)
    assert ((result.scores > 0.1 - 1e-6) & (result.scores <= 1)).all()
    logits = trainer.head(result.features)
    assert result.loss == pytest.approx(F.cross_entropy(logits, mnist5k.test_labels).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["head", "xavier", "normal"])
def test_initial_centers(name: str) -> None:
    centers = initial_centers(name, torch.randn(10, 2))
    assert centers.shape == (10, 2)
    if name == "head":
        torch.testing.assert_close(centers.norm(dim=1), torch.full((10,), 5.0))
    if name == "xavier":
        assert centers.abs().max() <= math.sqrt(1.5)


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")),
        pytest.param("cuda", marks=pytest.mark.cuda),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_training_is_the_same_training(mnist5k: Digits, device: str) -> None:
    """Four batches in float32, the last smaller than the others."""
    digits = mnist5k.to(torch.device(device))
    trainers = []
    for compile in ("off", "on"):
        trainer, _ = make_trainer(digits, 0.1, device=device, compile=compile)
        batches = Batches(digits.train_images[:224], digits.train_labels[:224], 64, seed=0, shift=1)
        losses = [loss for _, loss in trainer.train_epoch(batches.epoch(1))]
        assert len(losses) == 4
        trainers.append((trainer, torch.stack(losses)))
    (eager, eager_losses), (fast, fast_losses) = trainers
    torch.testing.assert_close(fast_losses, eager_losses, rtol=1e-3, atol=1e-3)
    for one, other in zip(fast.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_vectorized_prelu_is_prelu(mnist5k: Digits, precision: str) -> None:
    """A whole step's gradients for the same parameters, with a negative slope among them."""
    gradients = []
    for fast in (False, True):
        torch.manual_seed(0)
        model = LeNetPP(feature_prelu=True)
        torch.nn.init.constant_(model.stages[1].weight, -0.3)
        model.to(memory_format=torch.channels_last)
        names = [name for name, _ in model.named_parameters()]
        if fast:
            vectorize_prelu(model)
            assert not any(type(layer) is nn.PReLU for layer in model.modules())
            assert [name for name, _ in model.named_parameters()] == names
        with autocast(precision, torch.device("cpu"))():
            features = model(normalize(mnist5k.train_images[:64], 33.32, 78.57))
        features.square().mean().backward()
        gradients.append([features, *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_vectorized_prelu_in_float64() -> None:
    layer = nn.Sequential(nn.PReLU(init=0.1).double(), nn.PReLU(3).double())
    vectorize_prelu(layer)
    assert type(layer[1]) is nn.PReLU  # it has a slope for each channel
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    slope = layer[0].weight
    assert torch.autograd.gradcheck(
        lambda x, slope: torch.func.functional_call(layer[0], {"weight": slope}, x), (x, slope)
    )
