"""The features that a run keeps of its epochs, read and projected to the plane of a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis import regions as plane
from models.heads import HEADS
from rundir.features import read_features
from rundir.run import Run, read_config
from training.settings import Settings
from utils import UserError


@dataclass(frozen=True)
class Epoch:
    """The features after an epoch, or after a batch of the first epoch, ready to be drawn."""

    record: Run
    number: int  # of finished epochs
    batch: int  # batches trained since then; 0 unless this is within the first epoch
    arrays: dict[str, np.ndarray]  # as in features/epoch_N.npz
    points: dict[str, np.ndarray]  # train_features, test_features and centers in two dimensions
    axis: str  # what the axes show


def read_moments(run: Path, epochs: Sequence[int], batches: Sequence[int] = ()) -> Iterator[Epoch]:
    """Yield a run's features after these batches of its first epoch, then after these epochs. The principal components
    are those of the last epoch."""
    record = read_config(run)
    dimension = record.plan.settings.feat_dim
    last = read_features(run, f"epoch_{epochs[-1]}", len(record.classes), dimension)
    keys = ("train_features", "test_features", "centers")
    for epoch, batch in [*((0, batch) for batch in batches), *((epoch, 0) for epoch in epochs)]:
        name = f"batch_{batch}" if batch else f"epoch_{epoch}"
        arrays = last if epoch == epochs[-1] else read_features(run, name, len(record.classes), dimension)
        (_, *points), axis = to_two_dimensions(last["train_features"], *(arrays[key] for key in keys))
        if dimension > 2:
            axis = f"{axis} ({dimension}-D features)"
        yield Epoch(record, epoch, batch, arrays, dict(zip(keys, points, strict=True)), axis)


def read_epoch(run: Path, epoch: int) -> Epoch:
    """Return the features after one epoch of a run."""
    return next(read_moments(run, [epoch]))


def axis_labels(axis: str) -> tuple[str, str]:
    """Return the labels of the x and the y axis."""
    return (axis, "") if axis == "only feature" else (f"first {axis}", f"second {axis}")


def to_two_dimensions(train_features: np.ndarray, *others: np.ndarray) -> tuple[list[np.ndarray], str]:
    """Return all arrays in two dimensions, and what the axes show.

    Two dimensions stay; one gets a second that is 0; more are projected on the first two principal components of the
    finite training features.
    """
    arrays = [array.astype(np.float32) for array in (train_features, *others)]
    dimension = arrays[0].shape[1]
    if dimension == 2:
        return arrays, "feature"
    if dimension == 1:
        return [np.hstack([array, np.zeros_like(array)]) for array in arrays], "only feature"
    finite = arrays[0][np.isfinite(arrays[0]).all(axis=1)]
    mean, axes = np.zeros(dimension, np.float32), np.eye(dimension, dtype=np.float32)
    if len(finite) > 1:
        mean = finite.mean(axis=0)
        _, axes = np.linalg.eigh(np.cov((finite - mean).T.astype(np.float64)))  # by rising variance
    with np.errstate(invalid="ignore"):  # a row that is not finite stays so
        return [((array - mean) @ axes[:, :-3:-1]).astype(np.float32) for array in arrays], "principal component"


def loss_name(settings: Settings) -> str:
    """Return the name of the losses of a run, for titles and tables."""
    name, weight = HEADS[settings.head].label, settings.weight_cent
    return f"{name} + center loss (λ = {weight:g})" if weight > 0 else f"{name} only (λ = 0)"


def name_runs(runs: list[Run]) -> list[str]:
    """Return the name of each run on a page: its loss, with seed, folder or number if names would be equal."""
    losses = [loss_name(run.settings) for run in runs]
    seeds = [f"{loss}, seed {run.settings.seed}" for loss, run in zip(losses, runs, strict=True)]
    folders = [f"{loss}, {run.path.name}" for loss, run in zip(losses, runs, strict=True)]
    for names in (losses, seeds, folders):
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(folders, 1)]


def limits(points: list[np.ndarray]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return limits of x and y, equally long, that show 99.9 % of the points (N, 2)."""
    every = np.concatenate(points)
    every = every[np.isfinite(every).all(axis=1)]
    if len(every) == 0:
        return (-1.0, 1.0), (-1.0, 1.0)
    low, high = np.quantile(every, [0.0005, 0.9995], axis=0)
    middle, half = (low + high) / 2, 0.55 * max(float((high - low).max()), 1e-6)
    return (middle[0] - half, middle[0] + half), (middle[1] - half, middle[1] + half)


def regions_of(epoch: Epoch) -> dict[str, list[plane.Array]]:
    """Return the `regions` of the classes.

    Raises:
        UserError: unless the run has two features.
    """
    settings = epoch.record.plan.settings
    if settings.feat_dim != 2:
        raise UserError(f"{epoch.record.path}: --regions needs a run with two features; it has {settings.feat_dim}")
    points = np.concatenate([epoch.points["test_features"], epoch.arrays["centers"]])
    head, centers, border = epoch.arrays["head"], epoch.arrays["centers"], plane.border_of(epoch.arrays)
    return plane.regions(head, centers, border, reach=10 * float(np.abs(points[np.isfinite(points)]).max(initial=0.0)))
