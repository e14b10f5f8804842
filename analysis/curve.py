"""Numbers as figures, mean ± standard deviation: over the one setting in which runs differ, or row by row."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.metrics import Metric
from analysis.plots import SMALL, canvas, save
from analysis.tables import ASIDE, Row, mean_and_std, rows_of
from rundir.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VALUES = 3  # the fewest that make a curve
CROWDED = 0.12  # share of a curve's width; numbers on its axis that are nearer to each other are slanted
NAMES = {"weight_cent": "λ, weight of the center loss", "lr_cent": "α, learning rate of the centers"}


def draw_curve(path: Path, lines: pd.DataFrame, runs: Sequence[Run], numbers: Sequence[str]) -> list[Path]:
    """Draw numbers over the setting in which the runs differ, one panel per number; return the file, or nothing if
    there is no such setting. If the lines name sets of unknown images, each set has a row of panels.

    Args:
        path: the PNG file.
        lines: one per run, as in `analysis.tables`.
        runs: the runs of the lines.
        numbers: columns of `lines`.
    """
    setting = varying(runs)
    if setting is None:
        return []
    values = {str(run.path): getattr(run.settings, setting) for run in runs}
    lines = lines.assign(**{setting: lines["run"].map(values)})
    parts = list(lines.groupby("unknown", sort=False)) if "unknown" in lines else [("", lines)]
    with canvas(3.0 * len(numbers), 2.6 * len(parts) + 0.4, SMALL | {"axes.titlesize": 8}) as figure:
        axes = figure.subplots(len(parts), len(numbers), squeeze=False)
        drawn: list[Row] = []
        for of_part, (unknown, part) in zip(axes, parts, strict=True):
            drawn += (rows := sorted(rows_of(part, [setting]), key=lambda row: row.labels))
            for ax, number in zip(of_part, numbers, strict=True):
                draw_panel(ax, rows, number)
                ax.set_title(f"{number}, {unknown}" if unknown else number)
        figure.supxlabel(f"{NAMES.get(setting, setting)}\n{caption(drawn)}", fontsize=8)
        save(figure, path, dpi=200)
    return [path]


def draw_rows(path: Path, lines: pd.DataFrame, numbers: Mapping[str, Metric]) -> Path:
    """Draw numbers of unseen classes, a panel for each number and set of unknown images, with a dot for each seed
    that did not collapse; return the file.

    Args:
        path: the PNG file.
        lines: one per run, with the name of its row (``loss``) and of the unknown images (``unknown``).
        numbers: columns of `lines`.
    """
    parts = list(lines.groupby("unknown", sort=False))
    count = lines["loss"].nunique()
    with canvas(1.8 + 1.7 * len(numbers), len(parts) * (0.2 * count + 0.7) + 0.3, SMALL) as figure:
        axes = figure.subplots(len(parts), len(numbers), squeeze=False)
        drawn: list[Row] = []
        for of_part, (unknown, part) in zip(axes, parts, strict=True):
            drawn += (rows := list(rows_of(part)))
            for ax, (number, metric) in zip(of_part, numbers.items(), strict=True):
                draw_dots(ax, rows, number)
                names = [textwrap.fill(row.labels[0], 36) for row in rows] if ax is of_part[0] else [""] * len(rows)
                ax.set_yticks(range(len(rows)), names)
                ax.set_title(f"{unknown}\n{number} {metric.better}")
        figure.supxlabel(caption(drawn), fontsize=8)
        save(figure, path, dpi=200)
    return path


def draw_dots(ax: Axes, rows: Sequence[Row], number: str) -> None:
    """Draw one number, the first row on top: a dot for each seed, and the mean; runs that collapsed are left out."""
    for at, row in enumerate(rows):
        if row.collapsed == len(row.every):
            continue
        values = row.numbers[number].tolist()
        mean, std = mean_and_std(values)
        ax.plot(values, [at] * len(values), ".", color="gray", ms=3, alpha=0.6)
        ax.errorbar(mean, at, xerr=std, fmt="o", color="black", lw=1, ms=3.5, capsize=2)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(True, axis="x", linewidth=0.4, alpha=0.4)


def varying(runs: Sequence[Run]) -> str | None:
    """Return the setting in which runs differ, if it is the only one and a number with three or more values."""
    found = {one.name: {getattr(run.settings, one.name) for run in runs} for one in fields(runs[0].settings)}
    if len({run.settings.known_classes is None for run in runs}) > 1:  # their numbers are not of the same classes
        return None
    several = [name for name, values in found.items() if len(values) > 1 and name not in ASIDE]
    if len(several) != 1 or len(found[several[0]]) < VALUES:
        return None
    return several[0] if all(type(value) in (int, float) for value in found[several[0]]) else None


def draw_panel(ax: Axes, rows: Sequence[Row], number: str) -> None:
    """Draw one number over the label of its rows; rows whose runs all collapsed are left out."""
    rows = [row for row in rows if row.collapsed < len(row.every)]
    values = [float(row.labels[0]) for row in rows]
    points = [mean_and_std(row.numbers[number].tolist()) for row in rows]
    deviations = [std or 0.0 for _, std in points]
    ax.errorbar(values, [mean for mean, _ in points], deviations, fmt="o-", color="black", lw=1, ms=3, capsize=2)
    wide = is_wide(values)  # logarithmic, with 0 at the left edge
    if wide:
        ax.set_xscale("symlog", linthresh=min(value for value in values if value > 0))
    crowded = len(values) > 1 and _closest(_decades(values) if wide else values) < CROWDED
    ax.set_xticks(values, [f"{value:g}" for value in values], rotation=60 if crowded else 0)
    ax.minorticks_off()
    ax.grid(True, linewidth=0.4, alpha=0.4)


def is_wide(values: Sequence[float]) -> bool:
    """Return whether neighbors are easier to tell apart on a logarithmic axis, with 0 a decade to the left."""
    possible = len(set(values)) > 1 and min(values) >= 0
    return possible and _closest(_decades(values)) > _closest(values)


def _decades(values: Sequence[float]) -> list[float]:
    smallest = min(value for value in values if value > 0)
    return [math.log10(value or smallest / 10) for value in values]


def _closest(values: Sequence[float]) -> float:
    """Return the distance between the nearest two values, as a share of that between the first and the last."""
    return float(np.diff(sorted(set(values))).min(initial=np.inf) / (np.ptp(values) or 1.0))


def caption(rows: Sequence[Row]) -> str:
    """Return a caption that says how many runs are behind each point; a run in several rows of a name counts once."""
    counts = sorted({len(row.numbers) for row in rows})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    runs = {(row.labels[0], run): collapsed > 0 for row in rows for run, collapsed in row.every["collapsed"].items()}
    left_out = f"; without the {sum(runs.values())} of {len(runs)} runs that collapsed" if any(runs.values()) else ""
    return f"percent, mean ± standard deviation, n = {n}{left_out}"
