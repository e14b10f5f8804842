"""The figure of predict.py: a person's images among the features of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import plots
from analysis.epochs import to_two_dimensions
from rundir.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.reader import Prediction

LISTED = 20  # images with a line of their own
Listed = tuple[str, np.ndarray, "Prediction", str]  # name, pixels (28, 28), prediction, prediction in words


def draw(run: Run, listed: Sequence[Listed], threshold: float, path: Path) -> None:
    """Draw the features of the run's test set with a star for each image, and list the images beside them.

    The stars are numbered if all images are listed.

    Args:
        threshold: distance from the center beyond which an image is unknown; with two features it is drawn as a circle
            around each center.
    """
    read = plots.read_epoch(run.path, run.epochs)
    features = np.array([prediction.feature for _, _, prediction, _ in listed])
    (_, points), _ = to_two_dimensions(run.arrays["train_features"], features)
    side_by_side = plots.columns(len(run.classes), 25)
    with plots.canvas(11 + 0.6 * side_by_side, 6.4) as figure:
        from matplotlib.patches import Circle

        ax, beside = figure.subplots(1, 2, width_ratios=[7, 4.6])
        plots.draw_part(ax, read, "test")
        if features.shape[1] == 2:
            for center in read.points["centers"]:
                ax.add_patch(Circle(center, threshold, fill=False, ls=":", lw=0.9, ec="0.35"))
            ax.plot([], [], ls=":", lw=0.9, color="0.35", label="beyond: unknown")
        star: dict[str, Any] = {"edgecolors": "black", "linewidths": 1.1, "zorder": 5}
        ax.scatter(*points.T, s=190, marker="*", c="white", label="your digits", **star)
        spots: dict[int, list[str]] = {}  # the numbers of images that lie side by side, by the first one's place
        for place, point in enumerate(points if len(points) <= LISTED else []):
            near = np.linalg.norm(points[[*spots]] - point, axis=1) < 0.04 * np.ptp(ax.get_xlim())
            spots.setdefault([*spots][near.argmax()] if near.any() else place, []).append(str(place + 1))
        for place, numbers in spots.items():
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5}
            how: dict[str, Any] = {"fontsize": 9, "fontweight": "bold", "zorder": 6, "bbox": box}
            ax.annotate(", ".join(numbers), points[place], xytext=(6, 5), textcoords="offset points", **how)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, ncols=side_by_side, **plots.CLOSE)
        _list(beside, listed)
        plots.save(figure, path, dpi=150)


def _list(ax: Axes, listed: Sequence[Listed]) -> None:
    """List the images: number, the pixels that the network saw, name, prediction."""
    ax.axis("off")
    ax.set(xlim=(0, 1), ylim=(LISTED, 0))
    for row, (name, digit, _, words) in enumerate(listed[:LISTED]):
        ax.text(0.05, row + 0.5, str(row + 1), ha="right", va="center", fontsize=9, fontweight="bold")
        inset = ax.inset_axes((0.07, row + 0.05, 0.075, 0.9), transform=ax.transData)
        inset.imshow(digit, cmap="gray", vmin=0, vmax=255)
        inset.axis("off")
        ax.text(0.17, row + 0.3, _drawable(Path(name).name[-44:]), va="center", fontsize=8, parse_math=False)
        ax.text(0.17, row + 0.72, words.split(" (")[0], va="center", fontsize=8, color="0.3", parse_math=False)
    if len(listed) > LISTED:
        ax.set_title(f"the first {LISTED} of {len(listed):,} images", fontsize=9)


def _drawable(text: str) -> str:
    """Return a text with a question mark for each character that the font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    there = get_font(findfont(FontProperties())).get_charmap()
    return "".join(letter if ord(letter) in there else "?" for letter in text)
