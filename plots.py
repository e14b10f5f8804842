"""Draw what a run directory holds: arrays in, files out.

python plots.py log/center --epochs 1 2 10
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ten colours that people with colour-blindness tell apart (Petroff 2021); the class is also
# written at its centre.
COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip


def scatter(ax: Axes, features: np.ndarray, labels: np.ndarray, centers: np.ndarray, classes: list[int]) -> None:
    """Draw features (N, 2), one colour a class, and the centres (C, 2), with equal axes.

    Args:
        labels: integers (N,) in [0, C).
        classes: the original label of each class, for the legend.
    """
    size = float(np.clip(20_000 / max(len(labels), 1), 0.6, 12.0))
    order = np.random.default_rng(0).permutation(len(labels))  # no class hides another by its number
    colors = np.array(COLORS)[np.array(classes)]
    ax.scatter(
        features[order, 0],
        features[order, 1],
        s=size,
        c=colors[labels[order]],
        linewidths=0,
        alpha=0.6,
        rasterized=True,
    )
    for color, digit in zip(colors, classes, strict=True):
        ax.scatter([], [], s=40, c=[color], label=str(digit))
    ax.scatter(
        centers[:, 0], centers[:, 1], s=150, c="white", edgecolors="black", linewidths=1.0, zorder=3, label="centre"
    )
    for (x, y), digit in zip(centers, classes, strict=True):
        ax.annotate(str(digit), (x, y), ha="center", va="center_baseline", fontsize=8, fontweight="bold", zorder=4)
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid(True, linewidth=0.4, alpha=0.4)
    ax.set_axisbelow(True)


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
        return [np.hstack([array, np.zeros_like(array)]) for array in arrays], "feature"
    mean = arrays[0].mean(axis=0)
    _, axes = np.linalg.eigh(np.cov((arrays[0] - mean).T))  # by rising variance
    return [(array - mean) @ axes[:, :-3:-1] for array in arrays], "principal component"


def loss_name(settings: dict[str, Any]) -> str:
    """Return a run's losses for a title."""
    name = {"softmax": "softmax", "arcface": "ArcFace", "cosface": "CosFace"}[settings["head"]]
    weight = settings["weight_cent"]
    return f"{name} + center loss (λ = {weight:g})" if weight > 0 else f"{name} only (λ = 0)"


def draw_epoch(run: Path, epoch: int) -> None:
    """Draw ``train/epoch_N.png`` and ``test/epoch_N.png`` from ``features/epoch_N.npz``."""
    from matplotlib.figure import Figure

    config = json.loads((run / "config.json").read_text())
    with np.load(run / "features" / f"epoch_{epoch}.npz") as data:
        arrays = {key: data[key] for key in data.files}
    accuracy = 100 * np.mean(arrays["test_predictions"] == arrays["test_labels"])
    (train, test, centers), axis = to_two_dimensions(
        arrays["train_features"], arrays["test_features"], arrays["centers"]
    )
    for part, points in (("train", train), ("test", test)):
        figure = Figure(figsize=(7.2, 6.4), layout="constrained")
        ax = figure.add_subplot()
        scatter(ax, points, arrays[f"{part}_labels"], centers, config["dataset"]["classes"])
        of_dimensions = f" of {arrays['centers'].shape[1]}" if axis != "feature" else ""
        ax.set_xlabel(f"{axis} 1{of_dimensions}")
        ax.set_ylabel(f"{axis} 2{of_dimensions}")
        which = {"train": "training set", "test": "test set"}[part]
        ax.set_title(
            f"{loss_name(config['settings'])}\n"
            f"{config['dataset']['name']} {which}, epoch {epoch}, test accuracy {accuracy:.2f} %"
        )
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        (run / part).mkdir(exist_ok=True)
        figure.savefig(run / part / f"epoch_{epoch}.png", dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw the feature scatters of a run again.")
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument(
        "--epochs", type=int, nargs="+", metavar="N", help="which (default: all whose features are kept)"
    )
    args = parser.parse_args()
    kept = sorted(int(path.stem.removeprefix("epoch_")) for path in (args.run / "features").glob("epoch_*.npz"))
    missing = sorted(set(args.epochs or []) - set(kept))
    if missing or not kept:
        parser.error(f"{args.run}: no features of epoch {missing[0] if missing else 1} are kept here")
    for epoch in args.epochs or kept:
        draw_epoch(args.run, epoch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
