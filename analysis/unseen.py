"""How well features separate classes that were never trained on: verification, and identification in a gallery."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import pairwise_distances_argmin
from sklearn.preprocessing import normalize

from analysis.metrics import PAIRS, Array, Labels, Metric, accuracy, both_ways, finite, verification_both_ways

GALLERIES = (1, 10)  # images of each class in a gallery
DRAWS = 100  # galleries of each size
RANKS = {
    f"rank-1 of {gallery}": Metric("↑", 2, f"share of images whose nearest by the {{}} is right, {gallery} per class")
    for gallery in GALLERIES
}
UNSEEN = both_ways({name: PAIRS[name] for name in ("EER", "TAR@1e-2")} | RANKS)


def unseen_classes(features: Array, labels: Labels) -> dict[str, float]:
    """Return every number of `UNSEEN`, in percent, for features (N, D) and labels (N,).

    Raises:
        ValueError: for features that are not finite, fewer than two classes, or a class with too few images.
    """
    features = finite(features)
    if len(np.unique(labels)) < 2:
        raise ValueError("there must be images of two classes")
    numbers = {
        f"rank-1 of {gallery}{end}": rank_one(array, labels, gallery)
        for end, array in (("", features), (" (cos)", normalize(features)))
        for gallery in GALLERIES
    }
    numbers |= verification_both_ways(features, labels)
    return {name: numbers[name] for name in UNSEEN}


def rank_one(features: Array, labels: Labels, gallery: int) -> float:
    """Return how often, in percent, the nearest image in a gallery has the class of an image (rank-1 identification).

    All images outside the gallery are looked up in it. The mean over `DRAWS` galleries, always the same.

    Args:
        features: (N, D).
        labels: (N,).
        gallery: images of each class in the gallery.

    Raises:
        ValueError: if a class has no image outside the gallery.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() <= gallery:
        raise ValueError(f"a gallery of {gallery} needs more images of each class; one has {counts.min()}")
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(DRAWS):
        known = np.concatenate([rng.choice(np.flatnonzero(labels == one), gallery, replace=False) for one in classes])
        others = np.delete(np.arange(len(labels)), known)
        nearest = pairwise_distances_argmin(features[others], features[known])
        rates.append(accuracy(labels[known[nearest]], labels[others]))
    return float(np.mean(rates))
