"""Compare losses with numbers and figures: trains the runs that are missing, then reads run directories.

python compare.py --losses softmax center arcface --seeds 1 2 3
python compare.py --variants "" "--precision fp32" --seeds 1 2 3 4 5 -- --max-epoch 2
python compare.py --runs log/softmax log/center --animate --report
"""

from __future__ import annotations

import sys

from analysis.comparison import Comparison, parse_comparison

if __name__ == "__main__":
    COMPARISON = parse_comparison(sys.argv[1:])

import itertools
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from analysis import film, metrics, plots, sweep, tables
from analysis.openset import Scored, load_images, score_runs
from rundir.directory import Guard
from rundir.loading import data_root
from rundir.reading import Run, kept_epochs, read_epochs, read_run
from training.hardware import choose_device
from utils import Interrupted, UserError, complain, progress_bar, run_command, say, whole

COLUMNS = 6  # of a figure with one for every run; more runs get one for each row of the table


def main(argv: list[str]) -> int:
    """Run a command line; return the exit status."""
    return run(parse_comparison(argv))


def run(comparison: Comparison) -> int:
    """Compare as asked for; return the exit status."""
    return run_command("compare.py", partial(compare, comparison))


def compare(comparison: Comparison) -> int:
    """Train what is missing, then write tables and figures; return the exit status."""
    out = comparison.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}; name a folder") from None
    guard = Guard(out)  # two comparisons would write over each other
    try:
        device, _ = choose_device(comparison.gpu, comparison.use_cpu)
        rows, failed = given_rows(comparison) if comparison.runs else trained_rows(comparison)
        return write(comparison, rows, failed, device)
    except KeyboardInterrupt:
        raise Interrupted("The same command goes on where this one stopped") from None
    finally:
        guard.close()


def given_rows(comparison: Comparison) -> tuple[tables.Rows, dict[str, str]]:
    """Return the rows of --runs, none of them failed."""
    runs = [read_run(path) for path in dict.fromkeys(comparison.runs)]
    if comparison.animate and all(len(kept_epochs(run.path)) < 2 for run in runs):
        raise UserError(f"--animate: {runs[0].path} keeps the features of one epoch alone; train with --plot")
    for run in runs if comparison.regions else []:
        plots.regions_of(plots.read_epoch(run.path, run.record.epochs))  # or says why not
    for source, root in itertools.product(comparison.unknowns, {data_root(run) for run in runs}):
        load_images(source, root)
    return tables.by_row(runs), {}


def trained_rows(comparison: Comparison) -> tuple[tables.Rows, dict[str, str]]:
    """Return the rows that the flags ask for, after training what is missing, and why some runs failed, by name."""
    for source in comparison.unknowns:  # before hours of training
        load_images(source, comparison.data_root)
    wanted = list(comparison.plan())
    out, every_epoch = comparison.out, comparison.animate or comparison.report
    missing = sweep.find(wanted, out / "runs", sorted(out.parent.glob("*/")), every_epoch)
    say(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them are there")
    failed = sweep.train(missing, comparison.jobs)
    found = [(one, read_run(one.path)) for one in wanted if one.path and one.path.name not in failed]
    if not found:
        raise UserError(f"no run to compare: {'; '.join(failed.values())}")
    if not comparison.variants:
        return tables.by_row([run for _, run in found]), failed
    rows: tables.Rows = {}
    for one, run in found:
        rows.setdefault(one.row, []).append(run)
    return rows, failed


def write(comparison: Comparison, rows: tables.Rows, failed: dict[str, str], device: torch.device) -> int:
    """Write and print what was asked for of the runs; return the exit status."""
    out = comparison.out
    runs = [run for group in rows.values() for run in group]
    written: list[Path] = []
    if comparison.report or not comparison.open_set:
        for run in progress(runs, "Metrics"):
            run.numbers = numbers_of(run)
    if not comparison.open_set:
        written += write_comparison(out, rows, bool(comparison.runs), comparison.regions)
        if comparison.weights_cent:
            written.append(out / "lambda_sweep.png")
            plots.grid([group[0].path for group in rows.values()], written[-1], ("train",), comparison.regions)
        show(out / "comparison.md")
    scored: list[Scored] = []
    if comparison.unknowns or any(run.unseen for run in runs):
        scored = score_runs(progress(runs, "Open set"), list(comparison.unknowns), device)
        written += write_open_set(out, scored, rows, named=bool(comparison.variants))
        show(out / "open_set.md")
    pages: dict[str, Callable[[], list[Path]]] = {}
    if comparison.animate:
        pages["the film"] = partial(
            film.animate, [run.path for run in runs], out / "animation.gif", regions=comparison.regions
        )
    if comparison.report:
        from analysis.report import write_report  # Bokeh is large

        pages["the report"] = partial(write_report, out / "report.html", runs, scored, comparison.regions)
    for name, make in pages.items():
        try:
            written += make()
        except UserError as error:  # damaged features of an earlier epoch, for one
            failed[name] = str(error)
    say("Wrote " + ", ".join(map(str, written)))
    for name, reason in failed.items():
        complain(f"compare.py: {name} failed: {reason}")
    return 1 if failed else 0


def show(file: Path) -> None:
    """Print a file of paragraphs and tables; on a terminal in columns that fit it."""
    text = file.read_text(encoding="utf-8")
    if sys.stdout.isatty():
        text = tables.for_terminal(text, shutil.get_terminal_size().columns)
    for line in text.splitlines():
        say(line)


def numbers_of(run: Run) -> dict[str, float]:
    """Return the run's metrics, on the test set."""
    arrays = run.arrays
    labels, predictions = (arrays[f"test_{key}"].astype(int) for key in ("labels", "predictions"))
    try:
        return metrics.summary(
            arrays["train_features"],
            arrays["train_labels"].astype(int),
            arrays["test_features"],
            labels,
            predictions,
            arrays["centers"],
        )
    except ValueError as error:  # features that have left the finite, or lie on one point
        complain(f"compare.py: {run.path}: no metrics but the accuracy: {error}")
        return {"accuracy": metrics.accuracy(predictions, labels)}


def write_comparison(out: Path, rows: tables.Rows, every_run: bool, regions: bool) -> list[Path]:
    """Write comparison.png, .md and .csv, runs.csv, and seeds.md where a row has several; return their paths."""
    runs = [run for group in rows.values() for run in group]
    each = every_run and len(runs) <= COLUMNS
    columns = [run.path for run in runs] if each else [group[0].path for group in rows.values()]
    plots.grid(columns, out / "comparison.png", regions=regions)
    table = {name: [run.numbers for run in group] for name, group in rows.items()}
    paragraphs = [
        f"Test set of {', '.join(sorted({run.record.dataset for run in runs}))}, last epoch; "
        "mean ± standard deviation over n runs, ↑ more is better, ↓ less. Rates in percent.",
        tables.means(table, metrics.CLASSES_BETTER),
        tables.means(table, metrics.PAIRS_BETTER),
    ]
    if (paired := tables.paired(rows, accuracy_of)) is not None:
        paragraphs.append(paired)
    write_text(out / "comparison.md", [*paragraphs, provenance(runs)])
    tables.means_csv(out / "comparison.csv", table, metrics.BETTER)
    tables.runs_csv(out / "runs.csv", rows, metrics.BETTER)
    written = [out / name for name in ("comparison.png", "comparison.md", "comparison.csv", "runs.csv")]
    if all(len(group) == 1 for group in rows.values()):
        return written
    write_text(out / "seeds.md", [*seed_by_seed(rows), provenance(runs)])
    return [*written, out / "seeds.md"]


def seed_by_seed(rows: tables.Rows) -> list[str]:
    """Return the tables that show every run: accuracy after its first epoch and after its last, and time."""
    paragraphs = []
    for title, number, digits in (
        ("Test accuracy in percent after the first epoch", accuracy_after_one, 2),
        ("Test accuracy in percent after the last epoch", accuracy_of, 2),
        ("Seconds of training, without evaluation and figures", seconds_of, 1),
    ):
        paragraphs += [f"{title}:", tables.each_seed(rows, number, digits)]
    paired = tables.paired(rows, accuracy_of)
    return [*paragraphs, paired] if paired else paragraphs


def accuracy_of(run: Run) -> float:
    """Return a run's test accuracy after its last epoch, percent."""
    return metrics.accuracy(run.arrays["test_predictions"], run.arrays["test_labels"])


def accuracy_after_one(run: Run) -> float:
    """Return a run's test accuracy after its first epoch, percent; nan where it was not measured."""
    return read_epochs(run.path)[0].test_accuracy


def seconds_of(run: Run) -> float:
    """Return how long a run trained."""
    return sum(row.seconds for row in read_epochs(run.path))


def write_open_set(out: Path, scored: list[Scored], rows: tables.Rows, named: bool = False) -> list[Path]:
    """Write open_set.png, .md and .csv; return their paths. Unless the rows are named by --variants, a row becomes a
    mean over choices of digits, too."""
    runs = [run for group in rows.values() for run in group]
    with_scores = [run for run in runs if any(one.run is run for one in scored)]
    table: tables.Table = {}
    panels: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    if not named:
        rows = tables.by_row(with_scores, aside=("seed", "known_classes"))
    for name, group in rows.items():
        for one in scored:
            if one.run in group:
                table.setdefault(f"{name} | {one.unknowns} | {one.score}", []).append(one.numbers())
            if one.run is group[0]:
                shown = panels.setdefault(name, {}).setdefault(one.score, {"known": one.known})
                shown[one.unknowns] = one.unknown
    intro = "Known: the test images of the classes trained on. Mean ± standard deviation over n runs, in percent."
    labels = ("loss", "unknown", "score")
    body = tables.means(table, metrics.OPEN_SET_BETTER, label=" | ".join(labels))
    write_text(out / "open_set.md", [intro, body, provenance(runs)])
    tables.means_csv(out / "open_set.csv", table, metrics.OPEN_SET_BETTER, labels)
    plots.histograms(panels, out / "open_set.png")
    return [out / name for name in ("open_set.png", "open_set.md", "open_set.csv")]


def write_text(path: Path, paragraphs: list[str]) -> None:
    """Write paragraphs as a file, whole or not at all."""
    with whole(path) as unfinished:
        unfinished.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")


def provenance(runs: list[Run]) -> str:
    """Return where the runs were made and how."""
    machines = {run.record.made_on for run in runs}
    seeds = sorted({run.settings.seed for run in runs})
    recipes = sorted({f"{run.settings.recipe}, {run.record.epochs} epochs" for run in runs})
    made = f"Recipe: {'; '.join(recipes)}. Seeds: {', '.join(map(str, seeds))}. Made on: {'; '.join(sorted(machines))}."
    return tables.plain(made)


def progress(runs: list[Run], title: str) -> Iterable[Run]:
    """Return the same runs, with a bar on a terminal."""
    return progress_bar(runs, len(runs), title, unit="run")


if __name__ == "__main__":
    sys.exit(run(COMPARISON))
