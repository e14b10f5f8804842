"""The plots of the interactive page without images: learning curves and histograms of scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import HoverTool, PanTool, ResetTool, WheelZoomTool

from analysis import plots
from analysis.comparison import KNOWN
from analysis.openset import Scored
from analysis.palette import COLORS
from analysis.report_figures import empty_figure
from rundir.log import read_epochs
from rundir.run import Run
from utils import UserError

DASHES = ("solid", "dashed", "dotted", "dashdot")  # so that runs differ in more than color


def curves(runs: list[Run], names: list[str]) -> dict[str, Any]:
    """Return the learning curves: test accuracy by epoch, both losses by batch."""
    accuracy = empty_figure(height=300, x_axis_label="epoch", y_axis_label="test accuracy (%)")
    what = {"loss_xent": "cross-entropy, training", "loss_center": "center loss, unweighted"}
    losses = {
        key: empty_figure(height=300, x_axis_label="epoch", y_axis_label=label, y_axis_type="log")
        for key, label in what.items()
    }
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        common = {"color": COLORS[number % len(COLORS)], "legend_label": name, "name": name}
        style = common | {"line_dash": DASHES[number % 4], "line_width": 2}
        tested = [row for row in read_epochs(run.path) if np.isfinite(row.test_accuracy)]
        at_epochs, accuracies = [row.epoch for row in tested], [row.test_accuracy for row in tested]
        accuracy.line(at_epochs, accuracies, **style)
        accuracy.scatter(at_epochs, accuracies, size=7, **common)
        batches = read_batches(run)
        block = -(-len(batches) // 300)  # batches per point, which is their mean
        means = batches.groupby(batches.index // block).mean()
        at = means["epoch"] - 1 + means["batch"] / batches["batch"].max()
        for key, plot in losses.items():
            plot.line(at, means[key], **style)
    for plot in (accuracy, *losses.values()):
        hover = HoverTool(tooltips="$name @x{0.0}: @y{0.000}")
        plot.add_tools(PanTool(), WheelZoomTool(modifiers="ctrl"), ResetTool(), hover)
        _legend(plot)
    return {"curve-accuracy": accuracy, "curve-xent": losses["loss_xent"], "curve-center": losses["loss_center"]}


def read_batches(run: Run) -> pd.DataFrame:
    """Return a run's batches.csv.

    Raises:
        UserError: if it is damaged.
    """
    file = run.path / "batches.csv"
    try:
        table = pd.read_csv(file, dtype=float)
        return table[["epoch", "batch", "loss", "loss_xent", "loss_center", "lr"]]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file}: damaged: {str(error).splitlines()[0][:200]}") from None


def _legend(plot: Any) -> None:
    """Put the legend above the plot, where it covers nothing."""
    legend = plot.legend[0]
    legend.background_fill_color, legend.border_line_color, legend.click_policy = None, None, "hide"
    legend.label_text_font_size, legend.margin, legend.padding, legend.spacing = "11px", 2, 0, 0
    plot.add_layout(legend, "above")


def histograms(runs: list[Run], names: list[str], scored: list[Scored]) -> dict[str, Any]:
    """Return a histogram for each score of each run, with known and unknown samples."""
    panels: dict[tuple[int, str], dict[str, np.ndarray]] = {}
    for part in scored:
        panels.setdefault((runs.index(part.run), part.score), {KNOWN: part.known})[part.unknowns] = part.unknown
    figures = {}
    order_of = list(dict.fromkeys(score for _, score in panels))
    for (number, score), values in sorted(panels.items(), key=lambda item: (order_of.index(item[0][1]), item[0][0])):
        plot = empty_figure(height=260, title=names[number], x_axis_label=plots.SCORE_AXES.get(score, score))
        plot.yaxis.visible = False
        bins = plots.score_bins(values.values())
        for order, (name, samples) in enumerate(values.items()):
            heights, _ = np.histogram(np.clip(samples, bins[0], bins[-1]), bins, density=True)
            style = {"color": COLORS[order], "legend_label": name}
            if order == 0:
                plot.quad(top=heights, bottom=0, left=bins[:-1], right=bins[1:], alpha=0.5, **style)
            else:
                plot.step(bins[:-1], heights, mode="after", line_width=2, line_dash=DASHES[(order - 1) % 4], **style)
        _legend(plot)
        figures[f"scores-{number}-{score.replace(' ', '-')}"] = plot
    return figures
