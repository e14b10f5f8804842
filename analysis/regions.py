"""The region of the plane that each class takes, and the border of the unknown: exact, because the head is linear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
REJECT = 1.0  # percent of the training digits beyond the border
CORNERS = 72  # of a polygon that stands for a circle


def regions(head: Array, centers: Array, border: float, reach: float) -> dict[str, list[Array]]:
    """Return the regions of the classes, for two features: ``taken``, the part of the plane that is classified as each
    class, and ``known``, the part of it within the border of the unknown: convex polygons (n, 2), possibly empty.

    Args:
        head: the matrix of `Network.decision`, (C, 3).
        centers: (C, 2).
        border: distance from the center of its class beyond which a feature is unknown.
        reach: regions are cut off where x or y is farther from 0.
    """
    head, centers = head.astype(float), centers.astype(float)
    angles = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    circle = border * np.column_stack([np.cos(angles), np.sin(angles)]) / np.cos(np.pi / CORNERS)
    square = reach * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    found: dict[str, list[Array]] = {"taken": [], "known": []}
    for label in range(len(head)):
        taken: Array = square
        known: Array = circle + centers[label]
        for other in np.delete(np.arange(len(head)), label):
            taken, known = (clip(polygon, head[label] - head[other]) for polygon in (taken, known))
        found["taken"].append(taken)
        found["known"].append(known)
    return found


def border_of(arrays: dict[str, np.ndarray]) -> float:
    """Return the distance from the predicted center beyond which `REJECT` percent of an epoch's training digits lie,
    for the arrays of features/epoch_N.npz.

    predict.py has the same rule, but measures held-out digits prepared like a person's own image; these lie farther
    out."""
    own = arrays["centers"][arrays["train_predictions"]].astype(float)
    distances = np.linalg.norm(arrays["train_features"].astype(float) - own, axis=1)
    distances = distances[np.isfinite(distances)]
    return float(np.quantile(distances, 1 - REJECT / 100)) if len(distances) else 0.0


def clip(polygon: Array, side: Array) -> Array:
    """Return the part of a convex polygon (n, 2) where side·(x, y, 1) ≥ 0."""
    heights, kept = polygon @ side[:2] + side[2], []
    edges = zip(polygon, np.roll(polygon, -1, axis=0), heights, np.roll(heights, -1), strict=True)
    for here, there, height, next_height in edges:
        if height >= 0:
            kept.append(here)
        if height * next_height < 0:  # the edge crosses the side
            kept.append(here + height / (height - next_height) * (there - here))
    return np.array(kept).reshape(-1, 2)
