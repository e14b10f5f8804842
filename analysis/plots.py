"""Figures of what a run directory holds: arrays in, files out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis import regions as plane
from models.heads import HEADS
from rundir.reading import Record, kept_epochs, read_arrays, read_record
from training.settings import Settings
from utils import UserError, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Ten colors that people with color-blindness tell apart (Petroff 2021); the class is also
# written at its center.
COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip

# The same for a page whose ground is white or dark: each at 3:1 against it and as far apart as those above.
ON_LIGHT = (
    "#5581d0", "#d47b10", "#bd1f01", "#8a8db5", "#832db6", "#a56a58", "#ca5404", "#a48c83", "#707581", "#58a24d",
)  # fmt: skip
ON_DARK = (
    "#4090da", "#fe9800", "#c42b0d", "#94a5a3", "#8e3fc8", "#a9766e", "#e76300", "#dec989", "#5d698f", "#92dadd",
)  # fmt: skip

ONE_SCALE = 3.0  # between the widest and the narrowest panel: up to that they share their axes

SCORE_AXES = {  # what the axis of a score says, where that is more than its name
    "softmax probability": "log-odds of the top softmax probability",
    "center distance": "− distance to the nearest center",
    "class mean distance": "− distance to the nearest class mean",
}


def scatter(
    ax: Axes,
    features: np.ndarray,
    labels: np.ndarray,
    centers: np.ndarray,
    classes: Sequence[int],
    size: float = 1.0,
    across: float | None = None,
) -> None:
    """Draw features (N, 2), one color a class, and the centers (C, 2), with equal axes.

    A center is a disc with its class on it; where most classes are so tight that the discs would hide them, a ring,
    and the class is written beside it, towards the middle.

    Args:
        labels: integers (N,) in [0, C).
        classes: the original label of each class, for the legend.
        size: area of the marks, relative to what suits a page-wide figure.
        across: how much the panel will show from side to side, in feature units (default: all that is there).
    """
    points = size * float(np.clip(20_000 / max(len(labels), 1), 0.6, 12.0))
    order = np.random.default_rng(0).permutation(len(labels))  # no class hides another by its number
    colors = np.array(COLORS)[list(classes)]
    ax.scatter(
        features[order, 0],
        features[order, 1],
        s=points,
        c=colors[labels[order]],
        linewidths=0,
        alpha=0.6,
        rasterized=True,
    )
    for color, digit in zip(colors, classes, strict=True):
        ax.scatter([], [], s=40 * size, c=[color], label=str(digit))
    side = min(ax.bbox.width, ax.bbox.height) * 72 / ax.figure.dpi  # in points, as the discs' radius
    inside = hide(math.sqrt(150 * size / math.pi) / side, features, labels, centers, across)
    ax.scatter(
        centers[:, 0],
        centers[:, 1],
        s=150 * size,
        c="none" if inside else "white",
        edgecolors="black",
        linewidths=0.9,
        zorder=3,
        label="center",
    )
    beside = np.zeros_like(centers)  # where the numbers are written, in points from the centers
    if inside:
        inwards = centers.mean(axis=0) - centers
        beside = 13 * math.sqrt(size) * inwards / np.maximum(np.linalg.norm(inwards, axis=1, keepdims=True), 1e-12)
    for place, way, digit in zip(centers, beside, classes, strict=True):
        ax.annotate(
            str(digit), place, way, textcoords="offset points", ha="center", va="center_baseline",
            fontsize=4 + 4 * size, fontweight="bold", zorder=4,
        )  # fmt: skip
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid(True, linewidth=0.4, alpha=0.4)
    ax.set_axisbelow(True)


def hide(
    share: float, features: np.ndarray, labels: np.ndarray, centers: np.ndarray, across: float | None = None
) -> bool:
    """Return whether discs around the centers (C, 2) would hide nine tenths of most classes.

    Args:
        share: the discs' radius, as a share of the panel's side.
        features: (N, 2).
        labels: integers (N,) in [0, C).
        across: how much the panel shows from side to side, in feature units (default: all that is there).
    """
    every = np.concatenate([features, centers])
    if len(features) == 0 or not np.isfinite(every).all():
        return False
    reach = share * (across or 1.1 * float(np.ptp(every, axis=0).max()))  # in feature units
    distances = np.linalg.norm(features - centers[labels], axis=1)
    within = [np.quantile(distances[labels == label], 0.9) < reach for label in np.unique(labels)]
    return float(np.mean(within)) > 0.5


def to_two_dimensions(train_features: np.ndarray, *others: np.ndarray) -> tuple[list[np.ndarray], str]:
    """Return all arrays in two dimensions, and what the axes show.

    Two dimensions stay as they are, one gets a second of 0, more become the first two principal
    components of the training features.
    """
    arrays = [array.astype(np.float32) for array in (train_features, *others)]
    dimension = arrays[0].shape[1]
    if dimension == 2:
        return arrays, "feature"
    if dimension == 1:
        return [np.hstack([array, np.zeros_like(array)]) for array in arrays], "only feature"
    mean = arrays[0].mean(axis=0)
    _, axes = np.linalg.eigh(np.cov((arrays[0] - mean).T))  # by rising variance
    return [(array - mean) @ axes[:, :-3:-1] for array in arrays], "principal component"


def loss_name(settings: Settings) -> str:
    """Return a run's losses for a title."""
    name, weight = HEADS[settings.head].label, settings.weight_cent
    return f"{name} + center loss (λ = {weight:g})" if weight > 0 else f"{name} only (λ = 0)"


@dataclass(frozen=True)
class Epoch:
    """What a run keeps of an epoch, ready to be drawn."""

    run: Path
    number: int
    record: Record
    arrays: dict[str, np.ndarray]  # as in features/epoch_N.npz
    points: dict[str, np.ndarray]  # train_features, test_features and centers in two dimensions
    axis: str  # what the axes show


def read_epochs(run: Path, epochs: Sequence[int]) -> Iterator[Epoch]:
    """Yield these epochs of a run; principal components are those of the last of them."""
    record = read_record(run)
    dimension = record.plan.settings.feat_dim
    last = read_arrays(run, epochs[-1], len(record.classes), dimension)
    keys = ("train_features", "test_features", "centers")
    for epoch in epochs:
        arrays = last if epoch == epochs[-1] else read_arrays(run, epoch, len(record.classes), dimension)
        (_, *points), axis = to_two_dimensions(last["train_features"], *(arrays[key] for key in keys))
        if dimension > 2:
            axis = f"{axis} ({dimension}-D features)"
        yield Epoch(run, epoch, record, arrays, dict(zip(keys, points, strict=True)), axis)


def read_epoch(run: Path, epoch: int) -> Epoch:
    """Return one epoch of a run."""
    return next(read_epochs(run, [epoch]))


def axis_labels(axis: str) -> tuple[str, str]:
    """Return what is written at the x and the y axis."""
    return (axis, "") if axis == "only feature" else (f"first {axis}", f"second {axis}")


def draw_part(
    ax: Axes, epoch: Epoch, part: str, size: float = 1.0, regions: bool = False, across: float | None = None
) -> None:
    """Draw one set of an epoch, ``train`` or ``test``, with title and axes, and if asked for with the regions of
    its classes; `size` and `across` are those of `scatter`."""
    arrays, points, record = epoch.arrays, epoch.points, epoch.record
    if regions:
        shade(ax, epoch, size)
    labels = arrays[f"{part}_labels"]
    scatter(ax, points[f"{part}_features"], labels, points["centers"], record.classes, size, across)
    accuracy = 100 * np.mean(arrays["test_predictions"] == arrays["test_labels"])
    which, break_ = {"train": "training set", "test": "test set"}[part], " " if size > 0.3 else "\n"
    if part == "train" and "train_sample" in arrays:
        which, break_ = f"{len(labels):,} of {record.train:,} training images", "\n"
    xlabel, ylabel = axis_labels(epoch.axis)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(
        f"{loss_name(record.plan.settings)}\n"
        f"{record.dataset} {which},{break_}epoch {epoch.number}, test accuracy {accuracy:.2f} %"
    )


def shade(ax: Axes, epoch: Epoch, size: float) -> None:
    """Shade the region of each class, darker up to the border of the unknown."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    colors = np.array(COLORS)[list(epoch.record.classes)]
    found = regions_of(epoch)
    for part, alpha, edge in (("taken", 0.10, "none"), ("known", 0.16, "black")):
        kept = [(getattr(one, part), color) for one, color in zip(found, colors, strict=True)]
        there = [(polygon, to_rgba(color, alpha)) for polygon, color in kept if len(polygon)]
        shaded = PolyCollection([polygon for polygon, _ in there], facecolors=[color for _, color in there], edgecolors=edge, linewidths=0.7 * size**0.5, linestyles="dashed", zorder=0.5)  # fmt: skip
        ax.add_collection(shaded, autolim=False)
    ax.plot(
        [],
        [],
        color="black",
        linewidth=0.7,
        linestyle="dashed",
        label=f"beyond: unknown\n({plane.REJECT:g} % of training)",
    )


def regions_of(epoch: Epoch) -> list[plane.Region]:
    """Return the region of each class of an epoch with two features.

    Raises:
        UserError: for another dimension, or an epoch of a run of before that has kept no head with it.
    """
    settings = epoch.record.plan.settings
    if settings.feat_dim != 2:
        raise UserError(f"{epoch.run}: --regions needs a run with two features; it has {settings.feat_dim}")
    arrays = epoch.arrays
    if "head" not in arrays:
        if epoch.number != epoch.record.epochs:
            raise UserError(f"{epoch.run}: epoch {epoch.number} was kept without the head that --regions needs; train it again")  # fmt: skip
        from rundir.loading import decision_of

        arrays = arrays | {"head": decision_of(epoch.run)}
    points = np.concatenate([epoch.points["test_features"], arrays["centers"]])
    return plane.regions(arrays, reach=10 * float(np.abs(points[np.isfinite(points)]).max(initial=0.0)))


def draw_epoch(run: Path, epoch: int, regions: bool = False) -> None:
    """Draw ``train/epoch_N.png`` and ``test/epoch_N.png`` from ``features/epoch_N.npz``."""
    from matplotlib.figure import Figure

    read = read_epoch(run, epoch)
    for part in ("train", "test"):
        figure = Figure(figsize=(7.2, 6.4), layout="constrained")
        ax = figure.add_subplot()
        draw_part(ax, read, part, regions=regions)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        (run / part).mkdir(exist_ok=True)
        save(figure, run / part / f"epoch_{epoch}.png", dpi=150)


def grid(runs: list[Path], path: Path, parts: tuple[str, ...] = ("train", "test"), regions: bool = False) -> None:
    """Draw the last epochs of several runs into one file: a column a run, a row a part, for a paper."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 8, "axes.titlesize": 7.5, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(3.2 * len(runs) + 0.7, 3.1 * len(parts) + 0.3), layout="constrained")
        axes = figure.subplots(len(parts), len(runs), squeeze=False)
        epochs = [read_epoch(run, kept_epochs(run)[-1]) for run in runs]
        for row, part in enumerate(parts):
            boxes = [limits([read.points[f"{part}_features"], read.points["centers"]]) for read in epochs]
            widths = [right - left for (left, right), _ in boxes]
            same = max(widths) <= ONE_SCALE * min(widths)
            every = np.array(boxes)  # (runs, 2, 2)
            low, high = every[:, :, 0].min(axis=0), every[:, :, 1].max(axis=0)
            for column, (read, width) in enumerate(zip(epochs, widths, strict=True)):
                ax = axes[row, column]
                draw_part(ax, read, part, 0.25, regions, float((high - low).max()) if same else width)
                if same and len(runs) > 1:
                    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), adjustable="box")
                elif len(runs) > 1:
                    ax.text(
                        0.02,
                        0.02,
                        f"{width:.3g} units wide",
                        transform=ax.transAxes,
                        fontsize=7.5,
                        fontweight="bold",
                        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
                    )
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
        save(figure, path, dpi=200)


def limits(points: list[np.ndarray]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the limits of x and y, of equal length, that show all but one in a thousand of the points (N, 2)."""
    every = np.concatenate(points)
    every = every[np.isfinite(every).all(axis=1)]
    if len(every) == 0:
        return (-1.0, 1.0), (-1.0, 1.0)
    low, high = np.quantile(every, [0.0005, 0.9995], axis=0)
    middle, half = (low + high) / 2, 0.55 * max(float((high - low).max()), 1e-6)
    return (middle[0] - half, middle[0] + half), (middle[1] - half, middle[1] + half)


def score_bins(values: dict[str, np.ndarray]) -> np.ndarray:
    """Return the edges (60,) of the bins for a score of several sets of samples."""
    low, high = np.quantile(np.concatenate(list(values.values())), [0.002, 0.998])
    return np.linspace(low, max(high, low + 1e-6), 60)


def histograms(panels: dict[str, dict[str, dict[str, np.ndarray]]], path: Path) -> None:
    """Draw histograms of scores for known and unknown samples: a column a run, a row a score.

    Args:
        panels: of each run, of each score, the values (N,) of each set of samples.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    scores = list(next(iter(panels.values())))
    with rc_context({"font.size": 8, "axes.titlesize": 8, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(3.2 * len(panels), 1.7 * len(scores) + 0.6), layout="constrained")
        axes = figure.subplots(len(scores), len(panels), squeeze=False)
        for column, (run, of_run) in enumerate(panels.items()):
            for row, score in enumerate(scores):
                ax = axes[row, column]
                bins = score_bins(of_run[score])
                for number, (name, values) in enumerate(of_run[score].items()):
                    style = dict(histtype="stepfilled", alpha=0.5) if number == 0 else dict(histtype="step", lw=1.2)
                    shown = np.clip(values, bins[0], bins[-1])
                    ax.hist(shown, bins, density=True, color=COLORS[number % len(COLORS)], label=name, **style)
                ax.set_xlabel(SCORE_AXES.get(score, score))
                ax.set_yticks([])
            axes[0, column].set_title(run)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=len(labels))
        save(figure, path, dpi=200)


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure as PNG, whole or not at all."""
    with whole(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi, format="png")
