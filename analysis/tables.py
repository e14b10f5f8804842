"""Tables of runs: which runs make a row, mean ± standard deviation, differences paired by seed; as text and as CSV.

A data frame of lines has one line per run: the labels of its row, the columns of `line_of`, and its numbers.
"""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.epochs import loss_name
from analysis.metrics import Metric, has_collapsed
from rundir.run import Run
from training.settings import Settings
from utils import atomically, printable, say

Rows = dict[str, list[Run]]
ASIDE = {"seed": 0, "known_classes": ()}  # settings in which the runs of a row may differ
SAID = {*ASIDE, *"dataset head margin max_epoch max_iterations precision recipe scale weight_cent".split()}
SAME = ["seed", "known"]  # runs of a row that share these are the same run, trained again
MARKUP = re.compile(r"[\\`*\[\]!|]|:(?=//)|(?<=www)\.", re.IGNORECASE)  # makes links and images, or ends a cell


def mean_and_std(values: list[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation; a single value has no deviation."""
    with np.errstate(invalid="ignore"):  # missing numbers are nan
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def plus_minus(values: list[float], digits: int) -> str:
    """Return "mean ± standard deviation"."""
    mean, std = mean_and_std(values)
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


# ---------------------------------------------------------------- which runs make a row


def by_row(runs: Iterable[Run], aside: Sequence[str] = ("seed",)) -> Rows:
    """Return the runs by the name of their row: the loss, its `marks`, and the other settings in which rows differ.
    The settings `aside` make no rows."""
    groups: dict[Settings, list[Run]] = {}
    for run in runs:
        values = {name: ASIDE[name] for name in aside if getattr(run.settings, name) is not None}
        key = replace(run.settings, **values)  # type: ignore[arg-type]
        groups.setdefault(key, []).append(run)
    names = {key: loss_name(key) + mark for key, mark in zip(groups, marks(groups.values()), strict=True)}
    differing = {key: _differing(key, [other for other in groups if names[other] == names[key]]) for key in groups}
    short = {", ".join([names[key], *differing[key][:4]]): group for key, group in groups.items()}
    if len(short) == len(groups):
        return short
    return {", ".join([names[key], *differing[key]]): group for key, group in groups.items()}


def unsaid(rows: Rows) -> list[str]:
    """Return the settings in which runs differ and which neither the names of the rows nor the tables say."""
    settings = [run.settings for runs in rows.values() for run in runs]
    differing = [one.name for one in fields(Settings) if len({getattr(run, one.name) for run in settings}) > 1]
    return [name for name in differing if name not in SAID and not any(f", {name} " in row for row in rows)]


def _differing(settings: Settings, twins: Sequence[Settings]) -> list[str]:
    """Return the settings in which one of the twins differs, with their values."""
    values = {one.name: getattr(settings, one.name) for one in fields(settings)}
    differ = [name for name, value in values.items() if any(getattr(twin, name) != value for twin in twins)]
    return [f"{name} {'some' if values[name] == () else values[name]}" for name in differ]


def marks(groups: Iterable[Sequence[Run]]) -> list[str]:
    """Return the ending of each row's name: data set and length, if they are not the same for all rows."""
    groups = list(groups)
    datasets = [" and ".join(dict.fromkeys(run.dataset for run in group)) for group in groups]
    lengths = [
        " and ".join(dict.fromkeys(f"{run.epochs} epoch{'s' * (run.epochs > 1)}" for run in group)) for group in groups
    ]
    differing = [column for column in (datasets, lengths) if len(set(column)) > 1]
    return ["".join(f", {column[row]}" for column in differing) for row in range(len(groups))]


# ---------------------------------------------------------------- lines, one per run


def line_of(run: Run) -> dict[str, object]:
    """Return the columns of a line besides row labels and numbers."""
    known = " ".join(map(str, run.settings.known_classes or ()))
    collapsed = int(has_collapsed(run.accuracy, len(run.classes)))
    return {"seed": run.settings.seed, "known": known, "run": str(run.path), "collapsed": collapsed}


def lines_of(rows: Rows, numbers: Callable[[Run], Mapping[str, float]], names: Iterable[str]) -> pd.DataFrame:
    """Return the lines of runs with these numbers; a missing one is nan."""
    lines = [{"loss": row} | line_of(run) | dict(numbers(run)) for row, group in rows.items() for run in group]
    return pd.DataFrame(lines, columns=["loss", "seed", "known", "run", "collapsed", *names])


@dataclass(frozen=True)
class Row:
    """A row of a table. Runs with the same seed and known classes count as one, with their mean."""

    labels: tuple[str, ...]
    every: pd.DataFrame  # indexed by `SAME`

    @property
    def numbers(self) -> pd.DataFrame:
        """The lines that count: those that did not collapse, or all if all collapsed."""
        stood = self.every[self.every["collapsed"] == 0]
        return stood if len(stood) else self.every

    @property
    def collapsed(self) -> int:
        return int((self.every["collapsed"] > 0).sum())

    def count(self, n: int) -> str:
        """Return n, with the number of collapsed runs if there are any."""
        return f"{n} ({self.collapsed} of {len(self.every)} collapsed)" if self.collapsed else str(n)


def rows_of(lines: pd.DataFrame, labels: Sequence[str] = ("loss",)) -> Iterator[Row]:
    """Yield the rows of lines, in their order."""
    for name, group in lines.groupby(list(labels), sort=False):
        yield Row(name, group.groupby(SAME).mean(numeric_only=True))


# ---------------------------------------------------------------- tables of texts, indexed by their labels


def means(lines: pd.DataFrame, table: Mapping[str, Metric], labels: Sequence[str] = ("loss",)) -> pd.DataFrame:
    """Return a table with mean ± standard deviation of each number, and n, for each row."""
    header = [*labels, *(f"{name} {metric.better}" for name, metric in table.items()), "n"]
    body = []
    for row in rows_of(lines, labels):
        cells = [plus_minus(row.numbers[name].tolist(), metric.digits) for name, metric in table.items()]
        body.append([*row.labels, *cells, row.count(len(row.numbers))])
    return pd.DataFrame(body, columns=header).set_index([*labels])


def each_seed(lines: pd.DataFrame, name: str, digits: int) -> pd.DataFrame:
    """Return a table of one number with a column for each seed, mean ± standard deviation, and n. Runs without the
    number are left out."""
    seeds = sorted(set(lines["seed"]))
    body = []
    for row in rows_of(lines):
        values = row.every[name].droplevel("known").dropna()
        cells = [f"{values[seed]:.{digits}f}" if seed in values.index else "" for seed in seeds]
        measured = row.numbers[name].dropna().tolist()
        body.append([*row.labels, *cells, plus_minus(measured, digits) if measured else "", row.count(len(measured))])
    header = ["loss", *(f"seed {seed}" for seed in seeds), "mean ± std", "n"]
    return pd.DataFrame(body, columns=header).set_index("loss")


def paired(lines: pd.DataFrame, table: Mapping[str, Metric]) -> pd.DataFrame | None:
    """Return a table of the differences from the first row, seed by seed: for each number the mean with its 95 %
    confidence interval (Student's t). Runs on the same choice of classes depend on each other: among several choices
    their mean counts as one. Return None if no row shares two seeds with the first."""
    first, *others = rows_of(lines)
    body = []
    for row, (name, metric) in itertools.product(others, table.items()):
        gaps = (row.numbers[name] - first.numbers[name]).dropna()
        if gaps.index.unique("known").size > 1:
            gaps = gaps.groupby("known", sort=False).mean()
        if len(gaps) > 1:
            mean, half = gaps.mean(), stats.t.ppf(0.975, len(gaps) - 1) * stats.sem(gaps)
            mean, low, high, *gaps = (f"{x:+.{metric.digits}f}" for x in (mean, mean - half, mean + half, *gaps))
            difference = f"{row.labels[0]} − {first.labels[0]}"
            body.append([difference, name, mean, f"{low} to {high}", ", ".join(gaps), str(len(gaps))])
    by, each = ("seed and classes", "seed or choice") if lines["known"].nunique() > 1 else ("seed", "seed")
    header = [f"paired by {by}", "number", "mean", "95 % interval", f"each {each}", "n"]
    return pd.DataFrame(body, columns=header).set_index(header[:2]) if body else None


# ---------------------------------------------------------------- as Markdown, on a terminal, as CSV


def as_markdown(parts: Iterable[str | pd.DataFrame]) -> str:
    """Return paragraphs and tables as Markdown."""
    texts = (plain(p) if isinstance(p, str) else markdown([*p.index.names, *p], p.reset_index().values) for p in parts)
    return "\n\n".join(texts) + "\n"


def markdown(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table as Markdown, with `plain` cells."""
    table = pd.DataFrame([[plain(str(cell)) for cell in row] for row in rows], columns=list(header))
    return table.to_markdown(index=False, tablefmt="github", disable_numparse=True)


def plain(text: str) -> str:
    """Return a text of unknown origin as one line of Markdown without HTML, links, images and ends of cells."""
    return MARKUP.sub(r"\\\g<0>", printable(" ".join(text.splitlines()))).replace("<", "&lt;")


def for_terminal(parts: Iterable[str | pd.DataFrame], width: int) -> str:
    """Return paragraphs and tables for a terminal; a table that is too wide is transposed and split."""
    return "\n\n".join(part if isinstance(part, str) else _columns(part, width) for part in parts) + "\n"


def _columns(table: pd.DataFrame, width: int) -> str:
    table = table.rename_axis(index=[None] * table.index.nlevels)
    text = table.to_string(sparsify=False)
    if max(map(len, text.splitlines())) > width:
        text = table.T.to_string(sparsify=False, line_width=width)
    return re.sub(r"[ \\]+$", "", text, flags=re.MULTILINE)  # pandas marks lines that continue below


def publish(path: Path, parts: Sequence[str | pd.DataFrame], shown: bool = False) -> Path:
    """Write a page as Markdown, whole or not at all; with `shown` also print it, fitted to the terminal."""
    text = as_markdown(parts)
    with atomically(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    if shown and sys.stdout.isatty():
        text = for_terminal(parts, shutil.get_terminal_size().columns)
    for line in text.splitlines() if shown else []:
        say(line)
    return path


def means_csv(path: Path, lines: pd.DataFrame, names: Iterable[str], labels: Sequence[str] = ("loss",)) -> None:
    """Write the table of means, with separate columns for mean and deviation."""
    table = []
    for row in rows_of(lines, labels):
        told: dict[str, object] = dict(zip(labels, row.labels, strict=True)) | {"n": len(row.numbers)}
        told["collapsed"] = row.collapsed
        for name in names:
            told[f"{name} mean"], told[f"{name} std"] = mean_and_std(row.numbers[name].tolist())
        table.append(told)
    write_csv(path, pd.DataFrame(table))


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV with ten significant digits, whole or not at all."""
    with atomically(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.10g", lineterminator="\n", errors="backslashreplace")
