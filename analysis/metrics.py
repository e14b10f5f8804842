"""How discriminative features are, in numbers: arrays in, numbers out.

`N` samples, `C` classes, `D` dimensions; rates are in percent. docs/comparing.md explains each
number in a sentence, with its formula and which way is better.
"""

from __future__ import annotations

import numpy as np
import sklearn
from numpy.typing import NDArray
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

VERIFICATION_SAMPLES = 2_000  # all pairs of so many samples: two million
# What tables show of a run, and which way is better.
CLASSES_BETTER = {
    "accuracy": "↑",
    "nearest-center accuracy": "↑",
    "compactness": "↓",
    "Fisher ratio": "↑",
    "silhouette": "↑",
    "drift": "↓",
    "center gap": "↓",
}
PAIRS_BETTER = {
    "EER": "↓",
    "TAR@1e-2": "↑",
    "TAR@1e-3": "↑",
    "EER (cos)": "↓",
    "TAR@1e-2 (cos)": "↑",
    "TAR@1e-3 (cos)": "↑",
}
BETTER = CLASSES_BETTER | PAIRS_BETTER
_PAIRS = "pairs of images told to be of one class or of two by"
MEANING = {
    "accuracy": "share of test images that the head classifies right",
    "nearest-center accuracy": "share of features whose nearest learned center is that of their class",
    "compactness": "distance to the own class mean over the distance between class means",
    "Fisher ratio": "scatter between the classes over scatter within them",
    "silhouette": "from -1 to 1: how much nearer the own class is than the nearest other",
    "drift": "how far class means move from training to test set, over their distance",
    "center gap": "distance of a center from its class's training mean over the class's spread; the largest",
    **{name: f"{_PAIRS} the {how}: {what}" for how, end in (("distance", ""), ("angle", " (cos)")) for name, what in {
        f"EER{end}": "where false acceptances and rejections are equally frequent",
        f"TAR@1e-2{end}": "true acceptances at 1 % false ones",
        f"TAR@1e-3{end}": "true acceptances at 0.1 % false ones",
    }.items()},
}  # fmt: skip
OPEN_SET_BETTER = {"AUROC": "↑", "AUPR": "↑", "FPR95": "↓", "OSCR": "↑"}


def summary(
    train_features: Array, train_labels: Labels, features: Array, labels: Labels, predictions: Labels, centers: Array
) -> dict[str, float]:
    """Return every number of `BETTER` for a test set's features (N, D).

    Args:
        train_features: (N', D), for the drift and the center gap alone.
        train_labels, labels: (N',) and (N,) in [0, C).
        predictions: (N,), the head's.
        centers: (C, D), as learned.

    Raises:
        ValueError: for features that are not finite, or a class without a sample.
    """
    train_features, features = (np.asarray(array, np.float64) for array in (train_features, features))
    if not (np.isfinite(train_features).all() and np.isfinite(features).all()):
        raise ValueError("the features are not finite")
    euclidean, cosine = (verification(features, labels, metric) for metric in ("euclidean", "cosine"))
    return {
        "accuracy": accuracy(predictions, labels),
        "nearest-center accuracy": nearest_center_accuracy(features, labels, centers),
        "compactness": compactness(features, labels),
        "Fisher ratio": fisher_ratio(features, labels),
        "silhouette": silhouette(features, labels),
        "drift": drift(train_features, train_labels, features, labels),
        "center gap": center_gap(train_features, train_labels, centers),
        **euclidean,
        **{f"{name} (cos)": value for name, value in cosine.items()},
    }


def accuracy(predictions: Labels, labels: Labels) -> float:
    """Return the percentage of predictions (N,) that are the label."""
    return 100 * float(np.mean(predictions == labels))


def class_means(features: Array, labels: Labels) -> Array:
    """Return the mean feature of each class (C, D), C being the largest label + 1.

    Raises:
        ValueError: if a class has no sample.
    """
    counts = np.bincount(labels)
    if (counts == 0).any():
        raise ValueError(f"every class must have samples; class {int(np.argmin(counts))} has none")
    sums = np.zeros((len(counts), features.shape[1]))
    np.add.at(sums, labels, features)
    return sums / counts[:, None]


def mean_gap(means: Array) -> float:
    """Return the mean distance between two of the points (C, D)."""
    return float(pairwise_distances(means)[np.triu_indices(len(means), 1)].mean())


def compactness(features: Array, labels: Labels) -> float:
    """Return mean_i ‖x_i − m_{y_i}‖ / mean_{j<k} ‖m_j − m_k‖, m being the class means; inf if they coincide."""
    means = class_means(features, labels)
    return _ratio(float(np.linalg.norm(features - means[labels], axis=1).mean()), mean_gap(means))


def fisher_ratio(features: Array, labels: Labels) -> float:
    """Return tr S_B / tr S_W: scatter of the class means about the mean over scatter within the classes."""
    classes, samples = int(labels.max()) + 1, len(labels)
    # scikit-learn's index is the same ratio, each part over its degrees of freedom.
    return float(calinski_harabasz_score(features, labels)) * (classes - 1) / (samples - classes)


def silhouette(features: Array, labels: Labels) -> float:
    """Return the mean over samples of (b − a) / max(a, b): a is the mean distance to the own class,
    b to the nearest other class."""
    with sklearn.config_context(working_memory=64):  # MiB, of the N×N distances at a time
        return float(silhouette_score(features, labels))


def nearest_center_accuracy(features: Array, labels: Labels, centers: Array) -> float:
    """Return the percentage of features (N, D) whose nearest center (C, D) is their class's."""
    return accuracy(pairwise_distances(features, centers).argmin(axis=1), labels)


def drift(train_features: Array, train_labels: Labels, test_features: Array, test_labels: Labels) -> float:
    """Return mean_j ‖m_j(test) − m_j(train)‖ / mean_{j<k} ‖m_j(train) − m_k(train)‖."""
    train, test = class_means(train_features, train_labels), class_means(test_features, test_labels)
    return _ratio(float(np.linalg.norm(test - train, axis=1).mean()), mean_gap(train))


def center_gap(features: Array, labels: Labels, centers: Array) -> float:
    """Return how far from its class a center (C, D) lies at most: max_j ‖c_j − m_j‖ / s_j, for training features
    (N, D) with the class means m_j and their spread s_j, the root mean square distance of a class from its mean."""
    means = class_means(features, labels)
    squares = ((features - means[labels]) ** 2).sum(axis=1)
    spread = np.sqrt(np.bincount(labels, squares) / np.bincount(labels))
    return max(_ratio(float(np.linalg.norm(c - m)), float(s)) for c, m, s in zip(centers, means, spread, strict=True))


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else float("inf")


def verification(features: Array, labels: Labels, metric: str) -> dict[str, float]:
    """Return EER and TAR at FAR 1e-2 and 1e-3, in percent, over pairs of samples.

    All pairs of at most 2,000 samples, always the same ones of a set. A pair is accepted when its
    distance is small enough.

    Args:
        features: (N, D).
        labels: (N,).
        metric: ``euclidean``, or ``cosine`` for the distance of the features' directions.
    """
    chosen = np.random.default_rng(0).permutation(len(labels))[:VERIFICATION_SAMPLES]
    features, labels = features[chosen], labels[chosen]
    if metric == "cosine":
        features = normalize(features)  # on the circle the Euclidean distance sorts as the cosine does
    pairs = np.triu_indices(len(labels), 1)
    genuine = labels[pairs[0]] == labels[pairs[1]]
    return equal_error_and_acceptance(genuine, -pairwise_distances(features)[pairs])


def equal_error_and_acceptance(genuine: NDArray[np.bool_], scores: Array) -> dict[str, float]:
    """Return EER and TAR at FAR 1e-2 and 1e-3, in percent, of scored pairs; a higher score is more alike.

    EER is where the rates of false acceptance and false rejection are equal, linear between the
    thresholds on its two sides. TAR is the largest whose FAR does not exceed the limit.
    """
    far, tar, _ = roc_curve(genuine, scores, drop_intermediate=False)
    gap = far - (1 - tar)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    eer = far[after - 1] + share * (far[after] - far[after - 1])
    limits = {name: tar[far <= limit].max() for name, limit in (("TAR@1e-2", 1e-2), ("TAR@1e-3", 1e-3))}
    return {name: 100 * float(rate) for name, rate in {"EER": eer, **limits}.items()}


def log_odds(logits: Array) -> Array:
    """Return log p − log(1 − p) (N,) of the largest softmax probability of logits (N, C): the same order, and two
    probabilities near 1 stay apart."""
    ordered = np.sort(np.asarray(logits, np.float64), axis=1)
    return ordered[:, -1] - logsumexp(ordered[:, :-1], axis=1)


def known_scores(features: Array, logits: Array, centers: Array, means: Array) -> dict[str, Array]:
    """Return the scores (N,) by which a sample passes for known; higher is more known.

    The softmax probability stands as its `log_odds`.

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
    """Return the numbers of `OPEN_SET_BETTER`, in percent, for a score that is higher for known samples.

    AUROC and AUPR count the known samples as the positive ones; FPR95 is the share of unknown samples
    above the threshold that 95 % of the known ones pass. OSCR is the area under the share of known
    samples that pass a threshold and are classified right, over the share of unknown ones that pass.

    Args:
        scores: of the known samples, (N,).
        correct: whether the head classifies them right, (N,).
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
