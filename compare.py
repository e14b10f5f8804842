"""Compare losses with numbers and figures: trains the runs that are missing, then reads run directories.

python compare.py --losses softmax center arcface --seeds 1 2 3
python compare.py --variants "" "--precision fp32" --seeds 1 2 3 4 5 -- --max-epoch 2
python compare.py --runs log/softmax log/center --animate --report
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the loading of modules without a traceback

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -P leaves it out

from analysis.comparison import KNOWN, Comparison, parse_comparison

if __name__ == "__main__":
    COMPARISON = parse_comparison(sys.argv[1:])

import itertools
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pandas as pd
import torch

from analysis import film, metrics, plots, sweep, tables
from analysis.curve import draw_curve, draw_rows
from analysis.openset import Scored, ToldApart, load_unknown, score_runs
from analysis.unseen import UNSEEN
from rundir.directory import claim
from rundir.features import kept_features
from rundir.log import read_epochs
from rundir.network import data_root
from rundir.run import Run, read_run
from training.hardware import choose_device
from utils import UserError, complain, progress_bar, run_command, say

COLUMNS = 6  # up to so many runs have a column each in a figure; of more, each row of the table has one
UNSEEN_DRAWN = ("EER", "EER (cos)", "rank-1 of 10", "rank-1 of 10 (cos)")
PAIRED = {name: metrics.METRICS[name] for name in ("accuracy", "nearest-center accuracy", "EER", "EER (cos)")}


def main(argv: list[str]) -> int:
    """Run a command line; return the exit status."""
    return run_command("compare.py", partial(compare, parse_comparison(argv)))


def compare(comparison: Comparison) -> int:
    """Train what is missing, then write tables and figures; return the exit status."""
    for note in comparison.notes:
        say(note)
    device, _ = choose_device(comparison.gpu, comparison.use_cpu)
    given = given_rows(comparison) if comparison.runs else None
    guard = claim(comparison.out)  # two comparisons would write over each other
    try:
        rows, failed = (given, {}) if given else trained_rows(comparison)
        if rows:
            write(comparison, rows, failed, device)
        for name, reason in failed.items():
            complain(f"compare.py: {name} failed: {reason}")
        return 1 if failed else 0
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Continue with the same command") from None
    finally:
        guard.close()


# ---------------------------------------------------------------- the runs


def given_rows(comparison: Comparison) -> tables.Rows:
    """Return the rows of --runs."""
    paths = dict.fromkeys(path for path in comparison.runs if path.suffix != ".out" or path.is_dir())  # as in runs/*
    runs = [read_run(path) for path in paths or comparison.runs]
    if comparison.animate and all(len(kept_features(run.path) + kept_features(run.path, "batch")) < 2 for run in runs):
        raise UserError(f"--animate: {runs[0].path} keeps the features of one epoch alone; train with --animate")
    for run in runs if comparison.regions else []:
        plots.regions_of(plots.read_epoch(run.path, run.epochs))  # or says why not
    for source, root in itertools.product(comparison.unknowns, {data_root(run.plan) for run in runs}):
        load_unknown(source, root)
    return tables.by_row(runs)


def trained_rows(comparison: Comparison) -> tuple[tables.Rows, dict[str, str]]:
    """Train what is missing; return the rows, and why runs failed, by the name of their directory."""
    for source in comparison.unknowns:  # before hours of training
        load_unknown(source, comparison.data_root)
    wanted = list(comparison.plan())
    out = comparison.out
    beside = [path for pattern in ("*/", "*/runs/*/") for path in sorted(out.parent.glob(pattern))]
    missing = sweep.find(wanted, out / "runs", beside)
    count = len({one.path for one in wanted})
    say(f"{count} run{'s' * (count > 1)}, {count - len(missing)} already trained")
    failed = sweep.train(missing, comparison.jobs)
    broken = {one.path for one in missing if one.path.name in failed}
    found = [(one, read_run(one.path)) for one in wanted if one.path not in broken]
    if not comparison.variants:
        return tables.by_row([run for _, run in found]), failed
    rows: tables.Rows = {}
    for one, run in found:
        rows.setdefault(one.row, []).append(run)
    marked = zip(rows.items(), tables.marks(rows.values()), strict=True)
    return {name if mark[2:] in name else name + mark: group for (name, group), mark in marked}, failed


# ---------------------------------------------------------------- what is made of them


def write(comparison: Comparison, rows: tables.Rows, failed: dict[str, str], device: torch.device) -> None:
    """Write and print what was asked for of the runs."""
    runs = [run for group in rows.values() for run in group]
    written: list[Path] = []
    if comparison.report or not comparison.open_set:
        for run in progress_bar(runs, len(runs), "Metrics", unit="run"):
            run.numbers = numbers_of(run)
    if not comparison.open_set:
        written += write_comparison(comparison, rows)
    scored: list[Scored] = []
    if scorable := [run for run in runs if comparison.unknowns or run.unseen]:
        shown = progress_bar(scorable, len(scorable), "Open set", unit="run")
        scored, unseen = score_runs(shown, list(comparison.unknowns), device)
        if not comparison.variants:  # a row becomes a mean over choices of digits, too
            rows = tables.by_row(dict.fromkeys(one.run for one in scored), aside=("seed", "known_classes"))
        written += write_open_set(comparison.out, scored, rows)
        written += write_unseen(comparison.out, unseen, rows)
    written += write_pages(comparison, runs, scored, failed)
    say("Wrote " + ", ".join(map(str, written)))


def numbers_of(run: Run) -> dict[str, float]:
    """Return the run's metrics, on the test set."""
    try:
        return metrics.summary(run.arrays)
    except ValueError as error:  # features that are not finite, or a class without images
        complain(f"compare.py: {run.path}: only the accuracy is known: {error}")
        return {"accuracy": run.accuracy}


def write_comparison(comparison: Comparison, rows: tables.Rows) -> list[Path]:
    """Write comparison.png, .md and .csv, runs.csv, lambda_sweep.png if λ was asked for, curve.png where the runs make
    a curve, and seeds.md where a row has several; return their paths."""
    out, runs = comparison.out, [run for group in rows.values() for run in group]
    firsts = {drawable(name): group[0].path for name, group in rows.items()}
    figures = [out / "comparison.png"]
    every = {
        f"{drawable(name)}, seed {run.settings.seed}" if len(group) > 1 else drawable(name): run.path
        for name, group in rows.items()
        for run in group
    }
    columns = every if comparison.runs and len(runs) == len(every) <= COLUMNS else firsts
    plots.grid(columns, figures[0], regions=comparison.regions)
    if comparison.weights_cent:
        figures.append(out / "lambda_sweep.png")
        plots.grid(firsts, figures[1], ("train",), comparison.regions)
    lines = tables.lines_of(rows, lambda run: run.numbers, metrics.METRICS)
    figures += draw_curve(out / "curve.png", lines, runs, ("accuracy", "EER", "EER (cos)"))
    made_on, paired = provenance(runs), tables.paired(lines, PAIRED)
    if (unsaid := tables.unsaid(rows)) and not comparison.variants:
        made_on += f" Runs differ in {', '.join(unsaid)}, too."
    parts = [
        f"Test set of {', '.join(sorted({run.dataset for run in runs}))}, last epoch; "
        "mean ± standard deviation over n runs, ↑ more is better, ↓ less. Rates in percent.",
        tables.means(lines, metrics.CLASS_METRICS),
        tables.means(lines, metrics.PAIR_METRICS),
        *([] if paired is None else [paired]),
    ]
    texts = [tables.publish(out / "comparison.md", [*parts, made_on], shown=True)]
    tables.means_csv(out / "comparison.csv", lines, metrics.METRICS)
    tables.write_csv(out / "runs.csv", lines)
    if any(len(group) > 1 for group in rows.values()):
        texts.append(tables.publish(out / "seeds.md", [*seed_by_seed(rows), *parts[3:], made_on]))
    return [*figures, *texts, out / "comparison.csv", out / "runs.csv"]


def seed_by_seed(rows: tables.Rows) -> list[str | pd.DataFrame]:
    """Return the tables that show every run: accuracy after its first epoch and after its last, and time."""
    shown: dict[str, tuple[Callable[[Run], float], int]] = {
        "Test accuracy in percent after the first epoch": (lambda run: read_epochs(run.path)[0].test_accuracy, 2),
        "Test accuracy in percent after the last epoch": (lambda run: run.accuracy, 2),
        "Seconds of training, without evaluation and figures": (seconds_of, 1),
    }
    lines = tables.lines_of(rows, lambda run: {title: number(run) for title, (number, _) in shown.items()}, shown)
    parts: list[str | pd.DataFrame] = []
    for title, (_, digits) in shown.items():
        if lines[title].notna().any():  # --eval-freq may leave out the first epoch
            parts += [f"{title}:", tables.each_seed(lines, title, digits)]
    return parts


def seconds_of(run: Run) -> float:
    """Return how long a run trained."""
    return sum(row.seconds for row in read_epochs(run.path))


def write_open_set(out: Path, scored: list[Scored], rows: tables.Rows) -> list[Path]:
    """Write open_set.png, .md, .csv, and open_set_runs.csv, which has a line for each `Scored`; return their paths."""
    row_of = {run: name for name, group in rows.items() for run in group}
    panels: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    drawn: dict[str, Run] = {}  # the first of each row
    table = []
    for one in scored:
        name = row_of[one.run]
        named = {"loss": name, "unknown": one.unknowns, "score": one.score}
        table.append(named | tables.line_of(one.run) | one.numbers())
        if drawn.setdefault(name, one.run) is one.run:
            shown = panels.setdefault(drawable(name), {}).setdefault(one.score, {KNOWN: one.known})
            shown[drawable(one.unknowns)] = one.unknown
    lines, labels = pd.DataFrame(table), ("loss", "unknown", "score")
    intro = "Known: the test images of the classes trained on. Mean ± standard deviation over n runs, in percent."
    parts = [intro, tables.means(lines, metrics.OPEN_SET, labels), provenance([*row_of])]
    tables.publish(out / "open_set.md", parts, shown=True)
    tables.means_csv(out / "open_set.csv", lines, metrics.OPEN_SET, labels)
    tables.write_csv(out / "open_set_runs.csv", lines)
    plots.histograms(panels, out / "open_set.png")
    return [out / name for name in ("open_set.png", "open_set.md", "open_set.csv", "open_set_runs.csv")]


def write_unseen(out: Path, found: list[ToldApart], rows: tables.Rows) -> list[Path]:
    """Write how well features separate unseen classes: unseen.md, unseen.png, unseen.csv with a line per run and set
    of images, and unseen_curve.png where the runs make a curve; return their paths."""
    if not found:
        return []
    row_of = {run: name for name, group in rows.items() for run in group}
    lines = pd.DataFrame(
        [{"loss": row_of[run], "unknown": name} | tables.line_of(run) | numbers for run, name, numbers in found]
    )
    parts: list[str | pd.DataFrame] = [
        "How well features separate classes that were never trained on: the error of verification, and how often an "
        "image has the class of the nearest of 1 or 10 images per class (mean of 100 draws). "
        "Mean ± standard deviation over n runs, in percent.",
        tables.means(lines, UNSEEN, ("loss", "unknown")),
    ]
    for name, part in lines.groupby("unknown", sort=False):
        if (paired := tables.paired(part, UNSEEN)) is not None:
            parts += [f"{name}:", paired]
    runs = [run for run, *_ in found]
    tables.publish(out / "unseen.md", [*parts, provenance(runs)], shown=True)
    tables.write_csv(out / "unseen.csv", lines)
    named = lines.assign(loss=lines["loss"].map(drawable), unknown=lines["unknown"].map(drawable))
    curve = draw_curve(out / "unseen_curve.png", named, runs, ("EER", "EER (cos)", "rank-1 of 1", "rank-1 of 1 (cos)"))
    figure = draw_rows(out / "unseen.png", named, {name: UNSEEN[name] for name in UNSEEN_DRAWN})
    return [*curve, figure, out / "unseen.md", out / "unseen.csv"]


def write_pages(comparison: Comparison, runs: list[Run], scored: list[Scored], failed: dict[str, str]) -> list[Path]:
    """Write the film and the report, if asked for; return their paths. What cannot be written is added to `failed`."""
    out, regions = comparison.out, comparison.regions
    pages: dict[str, Callable[[], list[Path]]] = {}
    if comparison.animate:
        pages["the film"] = partial(film.animate, [run.path for run in runs], out / "animation.gif", regions=regions)
    if comparison.report:
        from analysis.report import write_report  # Bokeh is large

        pages["the report"] = partial(write_report, out / "report.html", runs, scored, regions)
    written: list[Path] = []
    for name, make in pages.items():
        try:
            written += make()
        except UserError as error:  # damaged features of an earlier epoch, for one
            failed[name] = str(error)
    return written


# ---------------------------------------------------------------- words


def drawable(text: str) -> str:
    """Return a name for a figure: matplotlib reads $ as a formula, and legends omit names that begin with _."""
    return f"{' ' * text.startswith('_')}{text}".replace("$", r"\$")


def provenance(runs: Iterable[Run]) -> str:
    """Return where the runs were made and how."""
    machines = sorted({run.made_on for run in runs})
    seeds = sorted({run.settings.seed for run in runs})
    lengths = {(run.settings.recipe, run.epochs) for run in runs}
    recipes = [f"{recipe}, {count} epoch{'s' * (count > 1)}" for recipe, count in sorted(lengths)]
    return f"Recipe: {'; '.join(recipes)}. Seeds: {', '.join(map(str, seeds))}. Made on: {'; '.join(machines)}."


if __name__ == "__main__":
    sys.exit(run_command("compare.py", partial(compare, COMPARISON)))
