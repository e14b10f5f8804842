"""Accuracy against time: the widely copied repository's settings beside the default recipe.

    python main.py --recipe reference --stop-after 30 --save-dir log/reference-1
    python main.py --save-dir log/center-1
    python benchmarks/reference_recipe.py log/reference-1 log/center-1

Reads finished or unfinished runs; the first is the reference. Writes accuracy.png and accuracy.md, and
prints the table: each run's test accuracy at the times at which the reference ends an epoch.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import plots
from rundir.log import read_epochs
from rundir.run import Run, read_config

PUBLISHED = {1: 10.32, 30: 98.51}  # what the widely copied repository's README logs, percent


@dataclass
class Curve:
    """A run's test accuracy as training went on."""

    name: str
    record: Run
    points: dict[int, tuple[float, float]]  # epoch: seconds of training until its end, accuracy in percent

    def at(self, seconds: float) -> str:
        """Return where the run stands at the end of the epoch nearest to so many seconds."""
        epoch = min(self.points, key=lambda epoch: abs(self.points[epoch][0] - seconds))
        which = "its last epoch" if epoch == self.record.epochs else f"epoch {epoch}"
        return f"{self.points[epoch][1]:.2f} ({which}, {self.points[epoch][0]:.0f} s)"


def read_curve(path: Path) -> Curve:
    """Return the curve of a run directory."""
    record = read_config(path)
    settings = record.plan.settings
    seconds, points = 0.0, {}
    for row in read_epochs(path):
        seconds += row.seconds
        if not math.isnan(row.test_accuracy):
            points[row.epoch] = seconds, row.test_accuracy
    if not points:
        sys.exit(f"{path}: no epoch has been evaluated yet")
    return Curve(f"{settings.recipe} recipe, {record.epochs} epochs, seed {settings.seed}", record, points)


def table(reference: Curve, others: list[Curve]) -> str:
    """Return what the others reach in the time that the reference takes to its published epochs."""
    lines = ["| " + " | ".join(["after", "published", reference.name, *(other.name for other in others)]) + " |"]
    lines.append("|---" * (3 + len(others)) + "|")
    for epoch in sorted(PUBLISHED.keys() & reference.points):
        seconds, accuracy = reference.points[epoch]
        cells = [f"epoch {epoch}, {seconds:.0f} s", f"{PUBLISHED[epoch]:.2f}", f"{accuracy:.2f}"]
        lines.append("| " + " | ".join([*cells, *(other.at(seconds) for other in others)]) + " |")
    return "\n".join(lines)


def draw(curves: list[Curve], path: Path) -> None:
    """Draw test accuracy against seconds of training."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        ax = figure.add_subplot()
        for number, curve in enumerate(curves):
            style = {"color": plots.COLORS[number], "marker": "os^v"[number % 4], "markersize": 3}
            seconds, accuracy = np.array(list(curve.points.values())).T
            ax.plot(seconds / 60, 100 - accuracy, label=curve.name, linewidth=1.2, **style)
        there = sorted(PUBLISHED.keys() & curves[0].points)
        ax.plot(
            [curves[0].points[epoch][0] / 60 for epoch in there],
            [100 - PUBLISHED[epoch] for epoch in there],
            "k*",
            markersize=9,
            zorder=4,
            label="published by the widely copied repository",
        )
        ax.set(xlabel="minutes of training", ylabel="test error (%), logarithmic", yscale="log", xlim=(0, None))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.grid(True, which="both", linewidth=0.4, alpha=0.4)
        ax.legend(frameon=False)
        plots.save(figure, path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="run directory")
    parser.add_argument("others", type=Path, nargs="+", metavar="run", help="run directories to set beside it")
    parser.add_argument("--out", type=Path, default=Path("docs/results/reference"), metavar="DIR")
    args = parser.parse_args()
    curves = [read_curve(path) for path in (args.reference, *args.others)]
    args.out.mkdir(parents=True, exist_ok=True)
    draw(curves, args.out / "accuracy.png")
    machines = sorted({curve.made_on for curve in curves})
    text = f"Test accuracy in percent.\n\n{table(curves[0], curves[1:])}\n\nMade on: {'; '.join(machines)}.\n"
    (args.out / "accuracy.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
