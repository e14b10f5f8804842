"""Accuracy against time: the widely copied repository's settings beside the default recipe.

    python main.py --recipe reference --stop-after 30 --save-dir log/reference-1
    python main.py --save-dir log/center-1
    python benchmarks/reference_recipe.py log/reference-1 log/center-1 --out docs/results/reference

Reads finished or unfinished runs; the first is the reference. Writes accuracy.png and accuracy.md, and
prints the table: each run's test accuracy at the times at which the reference ends an epoch.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import plots
from runs import epochs_of, made_on, read_config

PUBLISHED = {1: 10.32, 30: 98.51}  # what the widely copied repository's README logs, percent


@dataclass
class Curve:
    """A run's test accuracy (E,) in percent at the end of each epoch, after so many seconds (E,) of training."""

    name: str
    config: dict[str, Any]
    epochs: int  # that it is to have
    seconds: np.ndarray
    accuracy: np.ndarray

    def at(self, seconds: float) -> str:
        """Return where the run stands at the end of the epoch nearest to so many seconds."""
        nearest = int(np.abs(self.seconds - seconds).argmin())
        which = "its last epoch" if nearest + 1 == self.epochs else f"epoch {nearest + 1}"
        return f"{self.accuracy[nearest]:.2f} ({which}, {self.seconds[nearest]:.0f} s)"


def read_curve(path: Path) -> Curve:
    """Return the curve of a run directory."""
    config = read_config(path)
    table = np.atleast_1d(np.genfromtxt(path / "epochs.csv", names=True, delimiter=","))
    settings = config["settings"]
    _, epochs = epochs_of(path)
    name = f"{settings['recipe']} recipe, {epochs} epochs, seed {settings['seed']}"
    return Curve(name, config, epochs, np.cumsum(table["seconds"]), table["test_accuracy"])


def table(reference: Curve, others: list[Curve]) -> str:
    """Return what the others reach in the time that the reference takes to its published epochs."""
    lines = ["| " + " | ".join(["after", "published", reference.name, *(other.name for other in others)]) + " |"]
    lines.append("|---" * (3 + len(others)) + "|")
    for epoch, published in PUBLISHED.items():
        if epoch <= len(reference.accuracy):
            seconds = reference.seconds[epoch - 1]
            cells = [f"epoch {epoch}, {seconds:.0f} s", f"{published:.2f}", f"{reference.accuracy[epoch - 1]:.2f}"]
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
            ax.plot(curve.seconds / 60, 100 - curve.accuracy, label=curve.name, linewidth=1.2, **style)
        reference = curves[0]
        for number, (epoch, published) in enumerate(PUBLISHED.items()):
            if epoch <= len(reference.seconds):
                minutes = reference.seconds[epoch - 1] / 60
                label = "published by the widely copied repository" if number == 0 else None
                ax.plot([minutes], [100 - published], "k*", markersize=9, label=label, zorder=4)
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
    machines = sorted({made_on(curve.config) for curve in curves})
    text = f"Test accuracy in percent.\n\n{table(curves[0], curves[1:])}\n\nMade on: {'; '.join(machines)}.\n"
    (args.out / "accuracy.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
