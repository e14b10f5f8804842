"""Figures of runs, as PNG files."""

from __future__ import annotations

import contextlib
import math
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import regions as plane
from analysis.epochs import Epoch, axis_labels, limits, loss_name, read_epoch, regions_of
from analysis.palette import COLORS, colors_of
from rundir.features import kept_features
from utils import atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL = {"font.size": 8, "axes.titlesize": 7.5, "axes.linewidth": 0.6}  # several panels in a row
CLOSE = {"columnspacing": 0.8, "handletextpad": 0.3}  # of a legend
ONE_SCALE = 3.0  # the largest ratio of widths at which panels share their axes

SCORE_AXES = {  # the axis label of a score, if it differs from its name
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
    """Draw features (N, 2), one color per class, and the centers (C, 2), with equal axes.

    A center is a disc with its class on it. If the discs would hide most classes, it is a ring with the class beside
    it, towards the middle.

    Args:
        labels: integers (N,) in [0, C).
        classes: the original label of each class, for the legend.
        size: area of the marks; 1 suits a page-wide figure.
        across: width of the panel in feature units (default: that of all points).
    """
    points = size * float(np.clip(20_000 / max(len(labels), 1), 0.6, 12.0))
    order = np.random.default_rng(0).permutation(len(labels))  # no class hides another by its number
    colors = np.array(colors_of(classes))
    x, y = features[order].T
    ax.scatter(x, y, s=points, c=colors[labels[order]], linewidths=0, alpha=0.6, rasterized=True)
    for color, label in zip(colors, classes, strict=True):
        ax.scatter([], [], s=40 * size, c=[color], label=str(label))
    side = min(ax.bbox.width, ax.bbox.height) * 72 / ax.figure.dpi  # in points, as the discs' radius
    rings = hidden(math.sqrt(150 * size / math.pi) / side, features, labels, centers, across)
    _centers(ax, centers, classes, size, rings)
    ax.set_aspect("equal", adjustable="datalim")
    ax.locator_params(steps=[1, 2, 5, 10])  # 7.5 has a longer label than 5 and 10
    ax.grid(True, linewidth=0.4, alpha=0.4)
    ax.set_axisbelow(True)


def _centers(ax: Axes, centers: np.ndarray, classes: Sequence[int], size: float, rings: bool) -> None:
    fill = "none" if rings else "white"
    x, y = centers.T
    ax.scatter(x, y, s=150 * size, c=fill, edgecolors="black", linewidths=0.9, zorder=3, label="center")
    beside = np.zeros_like(centers)  # offset of the written class from its center, in points
    if rings:
        inwards = centers.mean(axis=0) - centers
        beside = 13 * math.sqrt(size) * inwards / np.maximum(np.linalg.norm(inwards, axis=1, keepdims=True), 1e-12)
    how: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontweight": "bold", "zorder": 4}
    for place, way, label in zip(centers, beside, classes, strict=True):
        ax.annotate(str(label), place, way, textcoords="offset points", fontsize=4 + 4 * size, **how)


def hidden(
    share: float, features: np.ndarray, labels: np.ndarray, centers: np.ndarray, across: float | None = None
) -> bool:
    """Return whether discs around the centers (C, 2) would hide nine tenths of most classes.

    Args:
        share: radius of the discs over the side of the panel.
        features: (N, 2).
        labels: integers (N,) in [0, C).
        across: width of the panel in feature units (default: that of all points).
    """
    every = np.concatenate([features, centers])
    if len(features) == 0 or not np.isfinite(every).all():
        return False
    reach = share * (across or 1.1 * float(np.ptp(every, axis=0).max()))  # in feature units
    distances = np.linalg.norm(features - centers[labels], axis=1)
    within = [np.quantile(distances[labels == label], 0.9) < reach for label in np.unique(labels)]
    return float(np.mean(within)) > 0.5


def draw_part(
    ax: Axes, epoch: Epoch, part: str, size: float = 1.0, regions: bool = False, across: float | None = None
) -> None:
    """Draw one set of an epoch, ``train`` or ``test``, with title and axis labels, and with the regions of the classes
    if `regions` is set; `size` and `across` are as in `scatter`."""
    arrays, points, record = epoch.arrays, epoch.points, epoch.record
    if regions:
        shade(ax, epoch, size)
    labels = arrays[f"{part}_labels"]
    scatter(ax, points[f"{part}_features"], labels, points["centers"], record.classes, size, across)
    break_ = "\n" if f"{part}_sample" in arrays or size <= 0.3 else " "
    when = f"batch {epoch.batch} of epoch 1" if epoch.batch else f"epoch {epoch.number}"
    xlabel, ylabel = axis_labels(epoch.axis)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(
        f"{loss_name(record.plan.settings)}\n"
        f"{record.dataset} {set_of(epoch, part)},{break_}{when}, test accuracy {accuracy_of(epoch):.2f} %"
    )


def accuracy_of(epoch: Epoch) -> float:
    """Return the accuracy on the test set after an epoch, in percent."""
    return 100 * float(np.mean(epoch.arrays["test_predictions"] == epoch.arrays["test_labels"]))


def set_of(epoch: Epoch, part: str) -> str:
    """Return in words which images a panel shows."""
    word, every = {"train": ("training", epoch.record.train), "test": ("test", epoch.record.test)}[part]
    count = len(epoch.arrays[f"{part}_labels"])
    return f"{count:,} of {every:,} {word} images" if count < every else f"{word} set"


def shade(ax: Axes, epoch: Epoch, size: float) -> None:
    """Shade the region of each class, darker within the border of the unknown."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    colors = colors_of(epoch.record.classes)
    dashes = {"linewidth": 0.7 * size**0.5, "linestyle": "dashed", "zorder": 0.5}
    for polygons, alpha, edge in zip(regions_of(epoch).values(), (0.10, 0.16), ("none", "black"), strict=True):
        fills = [to_rgba(color, alpha) for polygon, color in zip(polygons, colors, strict=True) if len(polygon)]
        there = [polygon for polygon in polygons if len(polygon)]
        ax.add_collection(PolyCollection(there, facecolors=fills, edgecolors=edge, **dashes), autolim=False)
    label = f"beyond: unknown\n({plane.REJECT:g} % of training)"
    ax.plot([], [], color="black", linewidth=0.7, linestyle="dashed", label=label)


# ---------------------------------------------------------------- files


@contextlib.contextmanager
def canvas(width: float, height: float, style: Mapping[str, float] | None = None) -> Iterator[Figure]:
    """Yield an empty figure, `width` by `height` inches, with matplotlib's defaults and `style`, independent of backend
    and matplotlibrc."""
    given = os.environ.pop("MPLBACKEND", None)  # matplotlib cannot be imported if this backend is not installed
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if given is not None:
        os.environ["MPLBACKEND"] = given
    rc: Any = {"animation.ffmpeg_path": matplotlib.rcParams["animation.ffmpeg_path"], **(style or {})}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(rc)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def columns(classes: int, lines: int) -> int:
    """Return the columns of a legend: one for up to ten classes, else two or more of at most `lines` lines."""
    return 1 if classes <= 10 else max(2, math.ceil((classes + 2) / lines))


def draw_epoch(run: Path, epoch: int, regions: bool = False) -> None:
    """Draw ``train/epoch_N.png`` and ``test/epoch_N.png`` from ``features/epoch_N.npz``."""
    read = read_epoch(run, epoch)
    side_by_side = columns(len(read.record.classes), 25)
    for part in ("train", "test"):
        with canvas(6.6 + 0.6 * side_by_side, 6.4) as figure:
            ax = figure.add_subplot()
            draw_part(ax, read, part, regions=regions)
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, ncols=side_by_side, **CLOSE)
            (run / part).mkdir(exist_ok=True)
            save(figure, run / part / f"epoch_{epoch}.png", dpi=150)


def grid(runs: dict[str, Path], path: Path, parts: tuple[str, ...] = ("train", "test"), regions: bool = False) -> None:
    """Draw the last epochs of several runs into one file: a named column per run, a row per part."""
    epochs = [read_epoch(run, kept_features(run)[-1]) for run in runs.values()]
    side_by_side = columns(len({one for read in epochs for one in read.record.classes}), 19 * len(parts))
    with canvas(3.2 * len(runs) + 0.3 + 0.4 * side_by_side, 3.1 * len(parts) + 0.3, SMALL) as figure:
        axes = figure.subplots(len(parts), len(runs), squeeze=False)
        for row, part in zip(axes, parts, strict=True):
            _draw_row(row, epochs, part, regions)
        for ax, name, read in zip(axes[0], runs, epochs, strict=True):
            ax.set_title(f"{textwrap.fill(name, 36)}\ntest accuracy {accuracy_of(read):.2f} %")
        handles = handles_of(axes[0])
        order = sorted(handles, key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0))
        shown = [handles[label] for label in order]
        figure.legend(shown, order, loc="outside right center", frameon=False, ncols=side_by_side, **CLOSE)
        save(figure, path, dpi=200)


def handles_of(panels: Sequence[Axes]) -> dict[str, Any]:
    """Return the handle of each label in the panels, for their common legend."""
    return {label: one for ax in panels for one, label in zip(*ax.get_legend_handles_labels(), strict=True)}


def _draw_row(row: Sequence[Axes], epochs: Sequence[Epoch], part: str, regions: bool) -> None:
    """Draw one part of each run, all on the same axes unless the widths differ too much."""
    boxes = [limits([read.points[f"{part}_features"], read.points["centers"]]) for read in epochs]
    widths = [right - left for (left, right), _ in boxes]
    same = max(widths) <= ONE_SCALE * min(widths)
    every = np.array(boxes)  # (runs, 2, 2)
    low, high = every[:, :, 0].min(axis=0), every[:, :, 1].max(axis=0)
    square = {"xlim": (low[0], high[0]), "ylim": (low[1], high[1])}
    for ax, read, width in zip(row, epochs, widths, strict=True):
        draw_part(ax, read, part, 0.25, regions, float((high - low).max()) if same else width)
        first = ax is row[0]
        ax.set(title="", ylabel=f"{set_of(read, part)}\n{ax.get_ylabel()}" if first else "")
        if same and len(epochs) > 1:
            ax.set(**square, adjustable="box")
        elif len(epochs) > 1:
            box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
            how: dict[str, Any] = {"transform": ax.transAxes, "fontsize": 7.5, "fontweight": "bold", "bbox": box}
            ax.text(0.02, 0.02, f"{width:{',.0f' if width >= 100 else '.3g'}} units wide", **how)
            if width * ONE_SCALE < max(widths):
                _inset(ax, read, part, square)


def _inset(ax: Axes, read: Epoch, part: str, square: Mapping[str, Any]) -> None:
    """Show the features again at the widest panel's scale: where they hide the fewest, in the middle or a corner."""
    there = ax.transLimits.transform(read.points[f"{part}_features"])  # from 0 to 1 in the panel
    corners = np.array([(0.39, 0.4), (0.02, 0.76), (0.76, 0.76), (0.76, 0.02)])
    covered = [((there >= corner) & (there <= corner + 0.22)).all(axis=1).sum() for corner in corners]
    inset = ax.inset_axes((*corners[np.argmin(covered)], 0.22, 0.22), xticks=[], yticks=[], **square)
    colors = np.array(colors_of(read.record.classes))[read.arrays[f"{part}_labels"]]
    x, y = read.points[f"{part}_features"].T
    inset.scatter(x, y, s=0.5, c=colors, linewidths=0, rasterized=True)
    inset.text(0.5, 0.03, "at the widest\npanel's scale", ha="center", transform=inset.transAxes, fontsize=5)


def score_bins(sets: Iterable[np.ndarray]) -> np.ndarray:
    """Return the edges (60,) of the bins for the values of a score in several sets of samples."""
    low, high = np.quantile(np.concatenate(list(sets)), [0.002, 0.998])
    return np.linspace(low, max(high, low + 1e-6), 60)


def histograms(panels: dict[str, dict[str, dict[str, np.ndarray]]], path: Path) -> None:
    """Draw histograms of scores for known and unknown samples: a column per run, a row per score, with one scale. A
    line marks the threshold that 95 % of the known samples pass; each panel names the AUROC of each unknown set.

    Args:
        panels: run → score → set of samples → values (N,); the known samples come first.
    """
    scores = list(next(iter(panels.values())))
    names = dict.fromkeys(name for run in panels.values() for sets in run.values() for name in sets)
    colors = {name: COLORS[number] for number, name in enumerate(names)}
    with canvas(3.2 * len(panels), 1.7 * len(scores) + 0.6, SMALL | {"axes.titlesize": 8}) as figure:
        axes = figure.subplots(len(scores), len(panels), squeeze=False)
        for score, row in zip(scores, axes, strict=True):
            bins = score_bins(values for run in panels.values() for values in run[score].values())
            for ax, run in zip(row, panels.values(), strict=True):
                _histogram(ax, run[score], bins, colors)
                ax.set(xlabel=SCORE_AXES.get(score, score), ylabel="density" if ax is row[0] else "", yticks=[])
        for ax, name in zip(axes[0], panels, strict=True):
            ax.set_title(textwrap.fill(name, 36))
        handles = handles_of(axes[0])
        side_by_side = min(len(handles), 2 * len(panels))
        figure.legend(handles.values(), handles, loc="outside lower center", frameon=False, ncols=side_by_side, **CLOSE)
        save(figure, path, dpi=200)


def _histogram(ax: Axes, sets: Mapping[str, np.ndarray], bins: Any, colors: Mapping[str, str]) -> None:
    from analysis.metrics import open_set  # imports scikit-learn, which drawing an epoch does not need

    said = []
    (_, known), *_ = sets.items()
    for number, (name, values) in enumerate(sets.items()):
        style: dict[str, Any] = {"histtype": "step", "lw": 1.2} if number else {"histtype": "stepfilled", "alpha": 0.5}
        ax.hist(np.clip(values, bins[0], bins[-1]), bins, density=True, color=colors[name], label=name, **style)
        if number:
            auroc = open_set(known, np.ones(len(known), bool), values)["AUROC"]
            said.append(f"{name}: AUROC {auroc:.1f} %, n = {len(values):,}")
    ax.axvline(np.quantile(known, 0.05), color="black", lw=0.8, ls="--", label="95 % of the known pass")
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    ax.text(0.02, 0.96, "\n".join(said), transform=ax.transAxes, va="top", fontsize=6, bbox=ground)
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomically(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi, format="png")
