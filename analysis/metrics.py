"""Numbers that say how discriminative features are: arrays in, numbers out.

`N` samples, `C` classes, `D` dimensions; rates in percent. docs/comparing.md gives the formula of each number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature

import numpy as np
import sklearn
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.special import logsumexp
from sklearn.metrics import (
    auc,
    average_precision_score,
    calinski_harabasz_score,
    pairwise_distances,
    roc_auc_score,
    roc_curve,
    silhouette_score,
)
from sklearn.preprocessing import normalize

Array = NDArray[np.floating]
Labels = NDArray[np.integer]

VERIFICATION_SAMPLES = 2_000  # they make two million pairs


def accuracy(predictions: Labels, labels: Labels) -> float:
    """Return the percentage of predictions (N,) that equal the label."""
    return 100 * float(np.mean(predictions == labels))


def has_collapsed(percent: float, classes: int) -> bool:
    """Return whether an accuracy is nearer to chance than to 100 %; with ten classes, below 55 %."""
    return percent < (100 + 100 / classes) / 2


# ---------------------------------------------------------------- classes


def class_means(features: Array, labels: Labels, classes: int = 0) -> Array:
    """Return the mean feature of each class (C, D), where C is the largest label + 1, but at least `classes`.

    Raises:
        ValueError: if a class has no sample.
    """
    counts = np.bincount(labels, minlength=classes)
    if (counts == 0).any():
        raise ValueError(f"every class must have samples; class {int(np.argmin(counts))} has none")
    sums = np.zeros((len(counts), features.shape[1]))
    np.add.at(sums, labels, features)
    return sums / counts[:, None]


def mean_gap(means: Array) -> float:
    """Return the mean distance between two of the points (C, D)."""
    return float(pdist(means).mean())


def nearest_center_accuracy(features: Array, labels: Labels, centers: Array) -> float:
    """Return the percentage of features (N, D) whose nearest center (C, D) is that of their class."""
    return accuracy(pairwise_distances(features, centers).argmin(axis=1), labels)


def compactness(features: Array, labels: Labels) -> float:
    """Return mean_i ‖x_i − m_{y_i}‖ / mean_{j<k} ‖m_j − m_k‖ with the class means m; inf if they coincide."""
    means = class_means(features, labels)
    return _ratio(float(np.linalg.norm(features - means[labels], axis=1).mean()), mean_gap(means))


def fisher_ratio(features: Array, labels: Labels) -> float:
    """Return tr S_B / tr S_W: scatter of the class means around the mean over scatter within the classes."""
    classes, samples = int(labels.max()) + 1, len(labels)
    # scikit-learn's index is the same ratio, with each part divided by its degrees of freedom.
    return float(calinski_harabasz_score(features, labels)) * (classes - 1) / (samples - classes)


def silhouette(features: Array, labels: Labels) -> float:
    """Return the mean over samples of (b − a) / max(a, b): a is the mean distance to the own class, b the mean
    distance to the nearest other class."""
    with sklearn.config_context(working_memory=64):  # MiB of the N×N distances at a time
        return float(silhouette_score(features, labels))


def drift(train_features: Array, train_labels: Labels, features: Array, labels: Labels) -> float:
    """Return mean_j ‖m_j − m_j(train)‖ / mean_{j<k} ‖m_j(train) − m_k(train)‖ with the class means m."""
    train = class_means(train_features, train_labels)
    test = class_means(features, labels, len(train))
    return _ratio(float(np.linalg.norm(test - train, axis=1).mean()), mean_gap(train))


def center_gap(train_features: Array, train_labels: Labels, centers: Array) -> float:
    """Return max_j ‖c_j − m_j‖ / s_j, the largest distance of a center (C, D) from the mean m_j of its class, over the
    spread s_j of the class, the root mean square distance of its training features (N, D) from m_j."""
    means = class_means(train_features, train_labels)
    squares = ((train_features - means[train_labels]) ** 2).sum(axis=1)
    spread = np.sqrt(np.bincount(train_labels, squares) / np.bincount(train_labels))
    return max(_ratio(float(np.linalg.norm(c - m)), float(s)) for c, m, s in zip(centers, means, spread, strict=True))


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else float("inf")


# ---------------------------------------------------------------- pairs


def verification(features: Array, labels: Labels) -> dict[str, float]:
    """Return EER and TAR at FAR 1e-2 and 1e-3, in percent, over all pairs of at most 2,000 of the features (N, D).

    The samples of a set are always the same. A pair is accepted if its distance is small enough.
    """
    chosen = np.random.default_rng(0).permutation(len(labels))[:VERIFICATION_SAMPLES]
    features, labels = features[chosen], labels[chosen]
    pairs = np.triu_indices(len(labels), 1)
    genuine = labels[pairs[0]] == labels[pairs[1]]
    return equal_error_and_acceptance(genuine, -pairwise_distances(features)[pairs])


def equal_error_and_acceptance(genuine: NDArray[np.bool_], scores: Array) -> dict[str, float]:
    """Return EER and TAR at FAR 1e-2 and 1e-3, in percent, of scored pairs; a higher score means more alike.

    EER is the rate where false acceptances and false rejections are equal, interpolated linearly between two
    thresholds. TAR is the largest whose FAR does not exceed the limit.
    """
    far, tar, _ = roc_curve(genuine, scores, drop_intermediate=False)
    eer = np.interp(0, far - (1 - tar), far)  # the difference rises from -1 to 1
    limits = {name: tar[far <= limit].max() for name, limit in (("TAR@1e-2", 1e-2), ("TAR@1e-3", 1e-3))}
    return {name: 100 * float(rate) for name, rate in {"EER": eer, **limits}.items()}


def verification_both_ways(features: Array, labels: Labels) -> dict[str, float]:
    """Return `verification` by distance, and by angle with names that end in ``(cos)``."""
    by_angle = verification(normalize(features), labels)  # on the unit sphere distance and cosine give the same order
    return verification(features, labels) | {f"{name} (cos)": rate for name, rate in by_angle.items()}


# ---------------------------------------------------------------- known and unknown classes


def log_odds(logits: Array) -> Array:
    """Return log p − log(1 − p) (N,) of the largest softmax probability of logits (N, C). The order is that of p, but
    values near 1 stay different."""
    ordered = np.sort(np.asarray(logits, np.float64), axis=1)
    return ordered[:, -1] - logsumexp(ordered[:, :-1], axis=1)


def known_scores(features: Array, logits: Array, centers: Array, means: Array) -> dict[str, Array]:
    """Return scores (N,) of how well samples are known; higher is better known.

    The softmax probability is given as its `log_odds`.

    Args:
        features: (N, D).
        logits: (N, C), without a margin.
        centers: (C, D), as learned.
        means: (C, D), the class means of the training set.
    """
    return {
        "softmax probability": log_odds(logits),
        "max logit": np.asarray(logits, np.float64).max(axis=1),
        "center distance": -pairwise_distances(features, centers).min(axis=1),
        "class mean distance": -pairwise_distances(features, means).min(axis=1),
    }


def open_set(scores: Array, correct: NDArray[np.bool_], unknown_scores: Array) -> dict[str, float]:
    """Return the numbers of `OPEN_SET`, in percent, for a score that is higher for known samples.

    Known samples are the positives of AUROC and AUPR. FPR95 is the share of unknown samples above the threshold that
    95 % of the known ones pass. OSCR is the area under the curve of known samples that pass and are classified right,
    over unknown samples that pass.

    Args:
        scores: of the known samples, (N,).
        correct: whether the head classifies the known samples right, (N,).
        unknown_scores: (U,).
    """
    known = np.concatenate([np.ones(len(scores), bool), np.zeros(len(unknown_scores), bool)])
    both = np.concatenate([scores, unknown_scores])
    false_rate, true_rate, thresholds = roc_curve(known, both, drop_intermediate=False)
    right = np.sort(scores[correct])
    right_rate = (len(right) - np.searchsorted(right, thresholds)) / len(scores)
    numbers = {
        "AUROC": roc_auc_score(known, both),
        "AUPR": average_precision_score(known, both),
        "FPR95": false_rate[true_rate >= 0.95].min(),
        "OSCR": auc(false_rate, right_rate),
    }
    return {name: 100 * float(value) for name, value in numbers.items()}


# ---------------------------------------------------------------- the tables, one row per metric


@dataclass(frozen=True)
class Metric:
    """How a metric is computed, shown and explained."""

    better: str  # ↑ or ↓
    digits: int
    meaning: str
    of: Callable[..., float] | None = None  # takes the arrays that its parameters name


def both_ways(rows: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return rows for the distance, then for the angle, with names that end in ``(cos)``."""
    ways = (("", "distance"), (" (cos)", "angle"))
    return {
        name + end: replace(row, meaning=row.meaning.format(way)) for end, way in ways for name, row in rows.items()
    }


CLASS_METRICS = {  # of a run's features
    "accuracy": Metric("↑", 2, "share of test images that the head classifies right", accuracy),
    "nearest-center accuracy": Metric("↑", 2, "share of features nearest to their own center", nearest_center_accuracy),
    "compactness": Metric("↓", 3, "distance to the own class mean, over the distance between class means", compactness),
    "Fisher ratio": Metric("↑", 2, "scatter between the classes over scatter within them", fisher_ratio),
    "silhouette": Metric("↑", 3, "from -1 to 1: how much nearer the own class is than the nearest other", silhouette),
    "drift": Metric("↓", 3, "shift of class means from training to test set, over their distance", drift),
    "center gap": Metric("↓", 3, "largest distance of a center from its class mean, over the class spread", center_gap),
}
PAIRS = {
    "EER": Metric("↓", 2, "verification by the {}: the rate at which false acceptances and false rejections are equal"),
    "TAR@1e-2": Metric("↑", 2, "verification by the {}: true acceptances at 1 % false acceptances"),
    "TAR@1e-3": Metric("↑", 2, "verification by the {}: true acceptances at 0.1 % false acceptances"),
}
PAIR_METRICS = both_ways(PAIRS)
METRICS = CLASS_METRICS | PAIR_METRICS
OPEN_SET = {  # of a score that separates known from unknown images
    "AUROC": Metric("↑", 2, "chance that a known image scores higher than an unknown one"),
    "AUPR": Metric("↑", 2, "area under precision over recall of the known images"),
    "FPR95": Metric("↓", 2, "share of unknown images that pass where 95 % of the known ones do"),
    "OSCR": Metric("↑", 2, "area under known images passed and classified right, over unknown ones passed"),
}


def summary(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return every number of `METRICS` for the test set, from the arrays that `rundir.features.read_features` returns.
    A metric's parameters name them, those of the test set without ``test_``.

    Raises:
        ValueError: for features or centers that are not finite, or a class without a sample.
    """

    def given(name: str) -> np.ndarray:
        array = arrays[name if name == "centers" or name.startswith("train_") else f"test_{name}"]
        return finite(array) if array.dtype.kind == "f" else array.astype(int)

    numbers = {
        name: metric.of(*map(given, signature(metric.of).parameters)) for name, metric in METRICS.items() if metric.of
    }
    return numbers | verification_both_ways(given("features"), given("labels"))


def finite(array: Array) -> Array:
    """Return an array in float64; raise ValueError if it is not finite."""
    if not np.isfinite(array).all():
        raise ValueError("the features or the centers are not finite")
    return np.asarray(array, np.float64)
