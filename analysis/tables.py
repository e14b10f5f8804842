"""Tables of runs: which runs make a row, mean ± standard deviation, differences paired by seed, as Markdown and CSV."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.plots import loss_name
from rundir.reading import Run
from utils import mean_and_std, plus_minus, printable, whole

Rows = dict[str, list[Run]]
Table = dict[str, list[dict[str, float]]]  # a row's name: the numbers of each of its runs
FINE = ("compactness", "silhouette", "drift", "center gap")  # numbers that show three digits


def by_row(runs: Iterable[Run], aside: Sequence[str] = ("seed",)) -> Rows:
    """Return the runs by what a row of a table calls them: the loss, and what else differs in the settings,
    but for those `aside`."""
    groups: dict[object, list[Run]] = {}
    for run in runs:
        groups.setdefault(_without(run, aside), []).append(run)
    names = {key: loss_name(group[0].settings) for key, group in groups.items()}
    differing = {}
    for key, group in groups.items():
        twins = [groups[other][0].settings for other in groups if names[other] == names[key]]
        values = {f.name: getattr(group[0].settings, f.name) for f in fields(group[0].settings)}
        differing[key] = [
            f"{name} {value}"
            for name, value in values.items()
            if name not in aside and any(getattr(twin, name) != value for twin in twins)
        ]
    rows: Rows = {}
    for shown in (4, None):  # all of them where four do not tell the rows apart
        rows = {", ".join([names[key], *differing[key][:shown]]): group for key, group in groups.items()}
        if len(rows) == len(groups):
            break
    return rows


def _without(run: Run, aside: Sequence[str]) -> object:
    there = {name: value for name, value in (("seed", 0), ("known_classes", None)) if name in aside}
    return replace(run.settings, **there)  # type: ignore[arg-type]


# ---------------------------------------------------------------- Markdown


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; what would break out of a cell is written so that it does not."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(plain(str(cell)) for cell in row) + " |")
    return "\n".join(lines)


def for_terminal(text: str, width: int) -> str:
    """Return Markdown with its tables in columns that fit a terminal: on their side, and in several parts, where
    they would be too wide."""
    parts: list[str] = []
    for in_table, lines in itertools.groupby(text.splitlines(), lambda line: line.startswith("|")):
        if not in_table:
            parts += lines
            continue
        rows = [_cells(line) for line in lines if not line.startswith("|---")]
        turned = [list(column) for column in zip(*rows, strict=True)]
        parts += _columns(rows) if _width(rows) <= width else _in_parts(turned, width)
    return "\n".join(parts)


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _in_parts(rows: list[list[str]], width: int) -> list[str]:
    """Return a table's lines, so many columns at once as fit beside the first."""
    lines: list[str] = []
    start = 1
    while start < len(rows[0]):
        end = start + 1
        while end < len(rows[0]) and _width([[row[0], *row[start : end + 1]] for row in rows]) <= width:
            end += 1
        lines += [*([""] if lines else []), *_columns([[row[0], *row[start:end]] for row in rows])]
        start = end
    return lines


def _width(rows: list[list[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True)) - 2


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(room) for cell, room in zip(row, widths, strict=True)).rstrip() for row in rows]


def plain(text: str) -> str:
    """Return a text that somebody else may have written as one line of Markdown without HTML."""
    return printable(" ".join(text.splitlines())).replace("<", "&lt;").replace("|", "\\|")


def means(table: Table, better: Mapping[str, str], label: str = "loss") -> str:
    """Return a table with one row a name: mean ± standard deviation of each number, and n."""
    header = [*label.split(" | "), *(f"{name} {way}".rstrip() for name, way in better.items()), "n"]
    rows = []
    for name, runs in table.items():
        cells = [plus_minus([run.get(key, math.nan) for run in runs], 3 if key in FINE else 2) for key in better]
        rows.append([*name.rsplit(" | ", label.count(" | ")), *cells, str(len(runs))])
    return markdown(header, rows)


def each_seed(rows: Rows, number: Callable[[Run], float], digits: int = 2, label: str = "") -> str:
    """Return a table of one number with a column for each seed, the mean ± standard deviation, and n."""
    seeds = sorted({run.settings.seed for group in rows.values() for run in group})
    body = []
    for name, group in rows.items():
        values = by_seed(group, number)
        cells = [f"{values[seed]:.{digits}f}" if seed in values else "" for seed in seeds]
        mean = plus_minus(list(values.values()), digits) if values else ""
        body.append([name, *cells, mean, str(len(values))])
    return markdown([label, *(f"seed {seed}" for seed in seeds), "mean ± std", "n"], body)


def paired(rows: Rows, number: Callable[[Run], float]) -> str | None:
    """Return a table of how far each row lies from the first, seed by seed: mean difference with its 95 %
    confidence interval (Student's t), or None where no two rows share two seeds."""
    (first, base), *others = rows.items()
    there = by_seed(base, number)
    body = []
    for name, group in others:
        gaps = [value - there[seed] for seed, value in by_seed(group, number).items() if seed in there]
        if len(gaps) > 1:
            low, high = confidence_interval(gaps)
            each = ", ".join(f"{gap:+.2f}" for gap in gaps)
            body.append(
                [f"{name} − {first}", f"{np.mean(gaps):+.2f}", f"{low:+.2f} to {high:+.2f}", each, str(len(gaps))]
            )
    return markdown(["accuracy, paired by seed", "mean", "95 % interval", "each seed", "n"], body) if body else None


def by_seed(group: Sequence[Run], number: Callable[[Run], float]) -> dict[int, float]:
    """Return a number of each seed's run, the mean of several: the same seed again is no new evidence. What was
    not measured, nan, is left out."""
    values: dict[int, list[float]] = {}
    for run in group:
        if not math.isnan(value := number(run)):
            values.setdefault(run.settings.seed, []).append(value)
    return {seed: float(np.mean(of_seed)) for seed, of_seed in values.items()}


def confidence_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of the mean of at least two values, by Student's t."""
    mean, std = mean_and_std(list(values))
    assert std is not None, "a single value has no interval"
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1)) * std / math.sqrt(len(values))
    return mean - half, mean + half


# ---------------------------------------------------------------- CSV


def means_csv(path: Path, table: Table, better: Iterable[str], labels: Sequence[str] = ("loss",)) -> None:
    """Write the table of means with one column for each mean and one for each deviation."""
    lines = []
    for name, runs in table.items():
        line: dict[str, object] = dict(zip(labels, name.rsplit(" | ", len(labels) - 1), strict=True)) | {"n": len(runs)}
        for key in better:
            line[f"{key} mean"], line[f"{key} std"] = mean_and_std([run.get(key, math.nan) for run in runs])
        lines.append(line)
    write_csv(path, pd.DataFrame(lines))


def runs_csv(path: Path, rows: Rows, better: Iterable[str]) -> None:
    """Write the same numbers of every single run."""
    lines = [
        {"loss": name, "seed": run.settings.seed, "run": str(run.path)} | {key: run.numbers.get(key) for key in better}
        for name, group in rows.items()
        for run in group
    ]
    write_csv(path, pd.DataFrame(lines))


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, ten significant digits, whole or not at all."""
    with whole(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.10g", lineterminator="\n", errors="backslashreplace")
