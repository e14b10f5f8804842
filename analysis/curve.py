"""A curve for the one setting that runs differ in: mean ± standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.tables import ASIDE, Row, mean_and_std, rows_of
from rundir.run import Run
from utils import atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VALUES = 3  # fewer make no curve
LINEAR = 50.0  # largest over smallest value; beyond, the axis is logarithmic
NAMES = {"weight_cent": "λ, weight of the center loss", "lr_cent": "α, learning rate of the centers"}


def draw_curve(path: Path, lines: pd.DataFrame, runs: Sequence[Run], numbers: Sequence[str]) -> list[Path]:
    """Draw numbers over the setting that the runs differ in: a panel a number, a line of panels for each set of
    unknown images, if lines have them. Return the file, or none where there is no such setting.

    Args:
        path: the PNG file.
        lines: as in `analysis.tables`, of these runs.
        runs: what they were made from.
        numbers: columns of `lines`.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    setting = varying(runs)
    if setting is None:
        return []
    values = {str(run.path): getattr(run.settings, setting) for run in runs}
    lines = lines.assign(**{setting: lines["run"].map(values)})
    parts = list(lines.groupby("unknown", sort=False)) if "unknown" in lines else [("", lines)]
    with rc_context({"font.size": 8, "axes.titlesize": 8, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(3.0 * len(numbers), 2.6 * len(parts) + 0.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(parts), len(numbers), squeeze=False)
        for of_part, (unknown, part) in zip(axes, parts, strict=True):
            rows = sorted(rows_of(part, [setting]), key=lambda row: row.labels)
            for ax, number in zip(of_part, numbers, strict=True):
                draw_panel(ax, rows, number)
                ax.set_title(f"{number}, {unknown}" if unknown else number)
        figure.supxlabel(f"{NAMES.get(setting, setting)}\n{caption(rows)}", fontsize=8)
        with atomically(path) as unfinished:
            figure.savefig(unfinished, dpi=200, format="png")
    return [path]


def varying(runs: Sequence[Run]) -> str | None:
    """Return the setting that alone varies among runs, if it is a number with three values or more."""
    found = {one.name: {getattr(run.settings, one.name) for run in runs} for one in fields(runs[0].settings)}
    several = [name for name, values in found.items() if len(values) > 1 and name not in ASIDE]
    if len(several) != 1 or len(found[several[0]]) < VALUES:
        return None
    return several[0] if all(type(value) in (int, float) for value in found[several[0]]) else None


def draw_panel(ax: Axes, rows: Sequence[Row], number: str) -> None:
    """Draw one number of rows whose label is a value; a row of which every run collapsed is left out."""
    rows = [row for row in rows if row.collapsed < len(row.every)]
    values = [float(row.labels[0]) for row in rows]
    points = [mean_and_std(row.numbers[number].tolist()) for row in rows]
    deviations = [std or 0.0 for _, std in points]
    ax.errorbar(values, [mean for mean, _ in points], deviations, fmt="o-", color="black", lw=1, ms=3, capsize=2)
    if is_wide(values):  # logarithmic, with 0 at the left edge
        ax.set_xscale("symlog", linthresh=min(value for value in values if value > 0))
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.minorticks_off()
    ax.grid(True, linewidth=0.4, alpha=0.4)


def is_wide(values: Sequence[float]) -> bool:
    """Return whether values, none negative, lie too far from each other for a linear axis."""
    positive = [value for value in values if value > 0]
    return bool(positive) and min(values) >= 0 and max(positive) > LINEAR * min(positive)


def caption(rows: Sequence[Row]) -> str:
    """Return how many runs the points stand for."""
    counts = sorted({len(row.numbers) for row in rows})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    collapsed, every = sum(row.collapsed for row in rows), sum(len(row.every) for row in rows)
    left_out = f"; without the {collapsed} of {every} runs that collapsed" if collapsed else ""
    return f"percent, mean ± standard deviation, n = {n}{left_out}"
