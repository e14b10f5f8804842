"""How well features tell apart classes that were never trained on: verification, and identification by a gallery."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import pairwise_distances_argmin
from sklearn.preprocessing import normalize

from analysis.metrics import PAIRS, Array, Labels, Metric, accuracy, both_ways, finite, verification_both_ways

GALLERIES = (1, 10)  # images of each class among which an image is looked up
DRAWS = 100  # of each gallery
RANKS = {
    f"rank-1 of {gallery}": Metric("↑", 2, f"images whose nearest by the {{}}, of {gallery} a class, is of their class")
    for gallery in GALLERIES
}
UNSEEN = both_ways({name: PAIRS[name] for name in ("EER", "TAR@1e-2")} | RANKS)


def unseen_classes(features: Array, labels: Labels) -> dict[str, float]:
    """Return every number of `UNSEEN`, in percent, for features (N, D) and labels (N,) of classes that were never
    trained on.

    Raises:
        ValueError: for features that are not finite, fewer than two classes, or one with too few images.
    """
    features = finite(features)
    if len(np.unique(labels)) < 2:
        raise ValueError("there must be images of two classes")
    numbers = verification_both_ways(features, labels)
    for end, array in (("", features), (" (cos)", normalize(features))):
        numbers |= {f"rank-1 of {gallery}{end}": rank_one(array, labels, gallery) for gallery in GALLERIES}
    return {name: numbers[name] for name in UNSEEN}


def rank_one(features: Array, labels: Labels, gallery: int, draws: int = DRAWS) -> float:
    """Return how often, in percent, the nearest image of a gallery is of an image's class (rank-1 identification).

    The gallery holds so many images of each class, drawn anew `draws` times, always the same draws; all other images
    are looked up in it.

    Args:
        features: (N, D).
        labels: (N,).
        gallery: images of each class in the gallery.
        draws: how many galleries the mean is taken over.

    Raises:
        ValueError: if a class has no image beyond those in the gallery.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() <= gallery:
        raise ValueError(f"a gallery of {gallery} needs more images of each class; one has {counts.min()}")
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(draws):
        known = np.concatenate([rng.choice(np.flatnonzero(labels == one), gallery, replace=False) for one in classes])
        others = np.delete(np.arange(len(labels)), known)
        nearest = pairwise_distances_argmin(features[others], features[known])
        rates.append(accuracy(labels[known[nearest]], labels[others]))
    return float(np.mean(rates))
