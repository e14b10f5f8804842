"""The order of the classes around the circle on which class weights and centers start.

Easily confused classes lie side by side. The idea: with two features, an image that could be of both lies between
them; if they are not neighbors, it would lie among the images of other classes. An effect is not shown.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

LOOKED_AT = 10_000  # images at most, evenly from the whole set
EVERY_ORDER = 10  # classes at most for which every order is tried


def confusions(images: Tensor, labels: Tensor, num_classes: int) -> np.ndarray:
    """Return how often an image's nearest neighbor is of another class, for each pair of classes: float64 (C, C),
    symmetric.

    Distances are Euclidean, between the gray levels of at most 10,000 images.

    Args:
        images: uint8 (N, H, W), of the training set.
        labels: int64 (N,), in [0, C).
        num_classes: C.
    """
    from sklearn.metrics import confusion_matrix  # other runs do not wait for it
    from sklearn.neighbors import NearestNeighbors

    step = math.ceil(len(labels) / LOOKED_AT)
    points, own = images[::step].flatten(1).float().cpu().numpy(), labels[::step].cpu().numpy()
    (nearest,) = NearestNeighbors(n_neighbors=1).fit(points).kneighbors(return_distance=False).T  # never itself
    counts = confusion_matrix(own, own[nearest], labels=range(num_classes)).astype(float)
    np.fill_diagonal(counts, 0)
    return counts + counts.T


def around_the_circle(near: np.ndarray) -> tuple[int, ...]:
    """Return the order of C classes around a circle for which the sum of `near` over neighbors is largest.

    `near` is (C, C), symmetric. With more than 10 classes the sum is a local maximum: reversing any part of the order
    does not increase it (2-opt, Croes 1958). The order begins with class 0; among equal orders the first one counts.
    """
    if len(near) < 3:
        return tuple(range(len(near)))
    if len(near) > EVERY_ORDER:
        return _by_turning_parts(near)
    orders = np.array(list(itertools.permutations(range(1, len(near)))))
    sums = near[0, orders[:, 0]] + near[orders[:, :-1], orders[:, 1:]].sum(axis=1) + near[orders[:, -1], 0]
    return (0, *orders[sums.argmax()].tolist())


def _by_turning_parts(near: np.ndarray) -> tuple[int, ...]:
    order, near = np.arange(len(near)), near.astype(float)
    while True:
        before, after = np.roll(order, 1), np.roll(order, -1)
        there = near[before, order][:, None] + near[order, after]  # both ends of the part from place i to place j
        turned = near[before[:, None], order] + near[order[:, None], after]
        gain = np.triu((turned - there)[1:, 1:], 1)  # class 0 stays in its place
        first, last = np.unravel_index(gain.argmax(), gain.shape)
        if gain[first, last] <= 1e-9:
            return tuple(order.tolist())
        order[first + 1 : last + 2] = order[first + 1 : last + 2][::-1].copy()


def order_around(points: Tensor) -> tuple[int, ...]:
    """Return the order of points (C, 2) around the origin, by rising angle from the first axis."""
    angles = torch.atan2(points[:, 1], points[:, 0]).remainder(math.tau)
    return tuple(angles.argsort().tolist())
