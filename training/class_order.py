"""Which classes lie side by side around the circle on which a run starts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

LOOKED_AT = 10_000  # images at most, evenly from the whole set
EVERY_ORDER = 10  # classes: of more there are too many orders to look at each


def confusions(images: Tensor, labels: Tensor, num_classes: int) -> np.ndarray:
    """Return how often an image of one class has its nearest neighbor in another, float64 (C, C), symmetric.

    Nearest by the Euclidean distance of gray levels, among at most 10,000 of the images, uint8 (N, H, W).
    """
    step = math.ceil(len(labels) / LOOKED_AT)
    points, labels = images[::step].flatten(1).float(), labels[::step]
    squares = points.square().sum(dim=1)
    counts = np.zeros((num_classes, num_classes))
    for start in range(0, len(points), 1000):
        some = points[start : start + 1000]
        distances = torch.addmm(squares, some, points.T, alpha=-2)  # squared, less what all of a row share
        distances[torch.arange(len(some)), torch.arange(start, start + len(some))] = torch.inf  # itself
        nearest = labels[distances.argmin(dim=1)]
        np.add.at(counts, (labels[start : start + 1000].cpu().numpy(), nearest.cpu().numpy()), 1)
    np.fill_diagonal(counts, 0)
    return counts + counts.T


def around_the_circle(near: np.ndarray) -> tuple[int, ...]:
    """Return the order of all C classes in which neighbors around a circle have the largest sum of `near`, (C, C),
    symmetric; of more than 10 classes an order whose sum is made no larger by turning any part of it around (2-opt,
    Croes 1958). It begins with class 0; of equal orders the first one counts."""
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
        there = near[before, order][:, None] + near[order, after]  # of a part from place i to place j: its two ends
        turned = near[before[:, None], order] + near[order[:, None], after]
        gain = np.triu((turned - there)[1:, 1:], 1)  # class 0 stays in its place
        first, last = np.unravel_index(gain.argmax(), gain.shape)
        if gain[first, last] <= 1e-9:
            return tuple(order.tolist())
        order[first + 1 : last + 2] = order[first + 1 : last + 2][::-1].copy()


def similar_side_by_side(images: Tensor, labels: Tensor, num_classes: int) -> tuple[int, ...]:
    """Return the order in which classes lie around a circle so that those that are often confused are neighbors.

    With two features an image that could be either of two classes lies between them. Where these are not
    neighbors it lies in the way of others.

    Args:
        images: uint8 (N, H, W), of the training set.
        labels: int64 (N,), in [0, C).
        num_classes: C.
    """
    return around_the_circle(confusions(images, labels, num_classes))


def order_around(points: Tensor) -> tuple[int, ...]:
    """Return in which order points (C, 2) lie around the origin, by rising angle from the first axis."""
    angles = torch.atan2(points[:, 1], points[:, 0]).remainder(math.tau)
    return tuple(angles.argsort().tolist())
