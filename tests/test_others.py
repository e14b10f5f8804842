"""Our numbers and our loss against other people's code, on the same arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import det_curve, pairwise_distances

from analysis import metrics
from center_loss import CenterLoss


@pytest.mark.parametrize("ties", [False, True])
def test_open_set_numbers_are_those_of_osr_metrics(ties: bool) -> None:
    osr_metrics = pytest.importorskip("osr_metrics", reason="osr-metrics is not installed")
    for seed in range(5):
        rng = np.random.default_rng(seed)
        known, unknown = rng.normal(2, 1, 700), rng.normal(0, 1.3, 400)
        if ties:
            known, unknown = known.round(1), unknown.round(1)
        labels = rng.integers(0, 6, len(known))
        taken = np.where(rng.random(len(known)) < 0.9, labels, (labels + 1) % 6)
        ours = metrics.open_set(known, labels == taken, unknown)
        novelty = -np.concatenate([known, unknown])  # their scores are higher for unknown samples
        is_unknown = np.concatenate([np.zeros(len(known), int), np.ones(len(unknown), int)])
        no_class = np.full(len(unknown), -1)
        answers = np.concatenate([taken, no_class - 1]), np.concatenate([labels, no_class])
        theirs = {
            "AUROC": osr_metrics.auroc(novelty, is_unknown),
            "AUPR": osr_metrics.aupr_in(novelty, is_unknown),
            "FPR95": osr_metrics.fpr_at_95tpr(-novelty, 1 - is_unknown),  # here the known samples are positive
            "OSCR": osr_metrics.compute_aoscr(novelty, is_unknown, *answers),
        }
        for name, value in theirs.items():
            # FPR95: their roc_curve leaves out points on a line between others
            assert ours[name] == pytest.approx(100 * value, abs=0.3 if name == "FPR95" else 1e-9), name


def test_verification_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 300)
    features = rng.normal(size=(5, 2))[labels] + 0.4 * rng.normal(size=(300, 2))
    for metric in ("euclidean", "cosine"):
        ours = metrics.verification_both_ways(features, labels)
        end = " (cos)" if metric == "cosine" else ""
        pairs = np.triu_indices(len(labels), 1)
        same = labels[pairs[0]] == labels[pairs[1]]
        false_accepted, false_rejected, _ = det_curve(same, -pairwise_distances(features, metric=metric)[pairs])
        nearest = np.argmin(np.abs(false_accepted - false_rejected))
        equal = (false_accepted[nearest] + false_rejected[nearest]) / 2
        assert ours[f"EER{end}"] == pytest.approx(100 * equal, abs=0.01)
        for name, limit in (("TAR@1e-2", 1e-2), ("TAR@1e-3", 1e-3)):
            assert ours[f"{name}{end}"] == pytest.approx(
                100 * (1 - false_rejected[false_accepted <= limit].min()), abs=1e-9
            )


def test_the_loss_of_pytorch_ood_is_c_times_smaller() -> None:
    """Values and gradients, with the factors of docs/using_center_loss.md."""
    try:  # it needs a torchvision that fits this torch
        from pytorch_ood.loss import CenterLoss as Theirs
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"pytorch-ood cannot be imported here: {error}")
    classes, size = 7, 40
    theirs = Theirs(classes, 3)
    ours = CenterLoss(classes, 3, init=theirs.centers.params.detach())
    features, labels = torch.randn(size, 3, requires_grad=True), torch.randint(0, classes, (size,))
    value = theirs(theirs.distance(features), labels)
    value.backward()
    gradient, features.grad = features.grad, None
    (ours(features, labels) / classes).backward()
    assert float(value.detach()) == pytest.approx(float(ours.last_value) / classes, rel=1e-5)
    torch.testing.assert_close(features.grad, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.centers.grad, theirs.centers.params.grad, rtol=1e-4, atol=1e-6)
