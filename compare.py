"""Compare losses with numbers and figures: trains the runs that are missing, then reads run directories.

python compare.py --losses softmax center arcface --seeds 1 2 3
python compare.py --runs log/softmax log/center --animate --report
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

import metrics
import plots
import sweep
from arguments import OPTIONS, Parser, number, one_of, parse_arguments
from datasets import DataError, load_images
from openset import Scored, data_root, name_of, score_runs
from plots import loss_name
from recipes import RECIPES
from runs import BadRun, FinishedRun, epochs_of, kept_epochs, made_on, read_run
from utils import RunError, mean_and_spread, plus_minus, progress_bar

LOSSES = {  # name: head, and whether the centre loss is added
    "softmax": ("softmax", False),
    "center": ("softmax", True),
    "arcface": ("arcface", False),
    "cosface": ("cosface", False),
    "arcface+center": ("arcface", True),
    "cosface+center": ("cosface", True),
}
SPLITS = (  # the literature's five choices of known digits, see docs/comparing.md
    (2, 4, 5, 9, 8, 3),
    (3, 2, 6, 9, 4, 0),
    (5, 8, 3, 2, 4, 6),
    (3, 7, 8, 4, 0, 5),
    (6, 3, 4, 9, 8, 2),
)
COLUMNS = 6  # of a figure with one for every run; more runs get one for each loss
OWN_FLAGS = ("seed", "weight_cent", "head", "save_dir", "resume", "overwrite", "stop_after")
# What may differ between the runs of one row.
ASIDE = (
    "seed", "threads", "deterministic", "precision_why", "asked_dataset", "asked_precision",
    "compile", "compile_why", "asked_compile",
)  # fmt: skip


class CompareError(Exception):
    """A comparison that cannot be made; the message is one line for the user."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return compare(parse(sys.argv[1:] if argv is None else argv))
    except (CompareError, BadRun, DataError, RunError) as error:
        print(f"compare.py: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"compare.py: error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where this one stopped", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the arguments; what follows a bare ``--`` as `more`, flags of main.py."""
    split = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(
        description="Train runs that differ in their loss, or take finished ones, and compare them.",
        epilog="Everything after a bare -- is handed to main.py: compare.py --seeds 1 2 -- --max-epoch 2 --use-cpu",
    )
    weight = number(float, 0, 1e6)
    which = parser.add_argument_group("which runs")
    which.add_argument("--losses", nargs="+", **one_of(LOSSES), help="(default: softmax center)")  # fmt: skip
    which.add_argument("--weights-cent", nargs="+", type=weight, metavar="λ", help="each loss with centre loss at each of these weights; draws lambda_sweep.png too (default: the recipe's λ)")  # fmt: skip
    which.add_argument("--seeds", nargs="+", type=number(int, 0, 2**31 - 1), metavar="N", help="each of them with each seed (default: 1)")  # fmt: skip
    which.add_argument("--runs", nargs="+", type=Path, metavar="DIR", help="compare these runs, train nothing")
    which.add_argument("--jobs", type=number(int, 1, 1024), default=1, metavar="N", help="train so many at once (default: 1)")  # fmt: skip
    what = parser.add_argument_group("what is made")
    what.add_argument("--out", type=Path, default=Path("log/compare"), metavar="DIR", help="where it is written, the runs under runs/ (default: log/compare)")  # fmt: skip
    what.add_argument("--open-set", action="store_true", help="train on the literature's five splits of the digits, and score each run on the digits it never saw")  # fmt: skip
    what.add_argument("--unknowns", nargs="+", default=[], metavar="NAME_OR_DIR", help="score runs on these images: mnist, fashion-mnist, kmnist, or a folder with IDX images")  # fmt: skip
    what.add_argument("--animate", action="store_true", help="write animation.gif, the runs' features epoch by epoch, and animation.mp4 where ffmpeg is there; from runs made with --plot")  # fmt: skip
    what.add_argument("--report", action="store_true", help="write report.html, all about the runs in one interactive page that needs no network")  # fmt: skip
    args = parser.parse_args(argv[:split])
    args.more = argv[split + 1 :]
    if args.runs and (args.losses or args.weights_cent or args.seeds or args.more):
        parser.error("--runs compares runs that are there: leave --losses, --weights-cent, --seeds and -- out")
    names = [name_of(source) for source in args.unknowns]
    if len(set(names)) < len(names):
        parser.error(f"--unknowns: two of them would be called {max(names, key=names.count)}; rename a folder")
    if args.runs and args.open_set:
        parser.error("--runs of --known-classes are scored on the digits they never saw without --open-set")
    args.losses = args.losses or (["center"] if args.weights_cent else ["softmax", "center"])
    args.of_margin_heads, args.more = take_margin_flags(args.more)
    heads = sorted({LOSSES[loss][0] for loss in args.losses} - {"softmax"})
    if args.of_margin_heads and not heads:
        parser.error("--scale and --margin need a loss with a margin head: --losses arcface, for one")
    for head in heads:
        parse_arguments(["--head", head, *args.of_margin_heads])
    given = parse_arguments(args.more)  # ends here for a flag that main.py would refuse
    own = [key for key in OWN_FLAGS if key in given.settings or getattr(given, key, None)]
    if args.open_set and given.known_classes:
        own.append("known_classes")
    if own:
        parser.error(f"--{own[0].replace('_', '-')} is set by compare.py (--losses, --weights-cent, --seeds, --out)")
    if args.animate or args.report:
        args.more.append("--plot")  # keeps the features of every epoch
    args.data_root = Path((OPTIONS | given.options)["data_root"])
    args.weights = args.weights_cent or [RECIPES[given.recipe or "default"]["weight_cent"]]
    return args


def take_margin_flags(more: list[str]) -> tuple[list[str], list[str]]:
    """Return --scale and --margin with their values, which softmax does not take, and the other flags."""
    parser = Parser(add_help=False, allow_abbrev=False)
    for flag in ("--scale", "--margin"):
        parser.add_argument(flag)
    found, others = parser.parse_known_args(more)
    return [word for key, value in vars(found).items() if value is not None for word in (f"--{key}", value)], others


def compare(args: argparse.Namespace) -> int:
    """Train what is missing, then write tables and figures; return the exit status."""
    runs, failed = given_runs(args) if args.runs else trained_runs(args)
    written = []
    if args.report or not args.open_set:
        for run in progress(runs, "Metrics"):
            run.numbers = numbers_of(run)
    if not args.open_set:
        written += write_comparison(args.out, runs, every_run=bool(args.runs))
        if args.weights_cent:
            written.append(args.out / "lambda_sweep.png")
            plots.grid([rows[0].path for rows in by_row(runs).values()], written[-1], parts=("train",))
        print((args.out / "comparison.md").read_text())
    scored = []
    if args.unknowns or any(run.unseen for run in runs):
        scored = score_runs(progress(runs, "Open set"), args.unknowns)
        written += write_open_set(args.out, scored, runs)
        print((args.out / "open_set.md").read_text())
    films: dict[str, Callable[[], list[Path]]] = {}
    if args.animate:
        films["the film"] = partial(plots.animate, [run.path for run in runs], args.out / "animation.gif")
    if args.report:
        from report import write_report  # Bokeh is large

        films["the report"] = partial(write_report, args.out / "report.html", runs, scored)
    for name, make in films.items():
        try:
            written += make()
        except (ValueError, KeyError) as error:  # damaged features of an earlier epoch, for one
            failed[name] = str(error)
    print("Wrote " + ", ".join(map(str, written)))
    for name, reason in failed.items():
        print(f"compare.py: {name} failed: {reason}", file=sys.stderr)
    return 1 if failed else 0


def given_runs(args: argparse.Namespace) -> tuple[list[FinishedRun], dict[str, str]]:
    """Return the runs of --runs, none of them failed."""
    args.out.mkdir(parents=True, exist_ok=True)
    runs = [read_run(path) for path in dict.fromkeys(args.runs)]
    if args.animate and all(len(kept_epochs(run.path)) < 2 for run in runs):
        raise CompareError(f"--animate: {runs[0].path} keeps the features of one epoch alone; train with --plot")
    for source, root in itertools.product(args.unknowns, {data_root(run) for run in runs}):
        load_images(source, root)
    return runs, {}


def trained_runs(args: argparse.Namespace) -> tuple[list[FinishedRun], dict[str, str]]:
    """Return the runs that the flags ask for, after training what is missing, and why some failed, by name."""
    for source in args.unknowns:  # before hours of training
        load_images(source, args.data_root)
    args.out.mkdir(parents=True, exist_ok=True)
    wanted = list(plan(args))
    missing = sweep.find(wanted, args.out / "runs", sorted(args.out.parent.glob("*/")), args.animate or args.report)
    print(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them are there", flush=True)
    failed = sweep.train(missing, args.jobs)
    runs = [read_run(run.path) for run in wanted if run.path and run.name not in failed]
    if not runs:
        raise CompareError(f"no run to compare: {'; '.join(failed.values())}")
    return runs, failed


def plan(args: argparse.Namespace) -> Iterator[sweep.Wanted]:
    """Yield the runs that a comparison is made of."""
    splits = SPLITS if args.open_set else (None,)
    seen = set()
    for loss, seed, (which, split) in itertools.product(args.losses, args.seeds or [1], enumerate(splits, 1)):
        head, with_center = LOSSES[loss]
        for weight in args.weights if with_center else [0.0]:
            name = f"{loss}-{weight:g}" if with_center and args.weights_cent else loss
            name += f"-split{which}" if split else ""
            flags = ["--head", head, "--weight-cent", str(weight), "--seed", str(seed), *args.more]
            flags += args.of_margin_heads if head != "softmax" else []
            flags += ["--known-classes", *map(str, split)] if split else []
            if (head, weight, seed, split) not in seen:  # centre loss at λ = 0 is softmax
                seen.add((head, weight, seed, split))
                yield sweep.Wanted(f"{name}-{seed}", flags)


def numbers_of(run: FinishedRun) -> dict[str, float]:
    """Return the run's metrics, on the test set."""
    arrays = run.arrays
    train_labels, labels, predictions = (
        arrays[key].astype(int) for key in ("train_labels", "test_labels", "test_predictions")
    )
    try:
        return metrics.summary(
            arrays["train_features"], train_labels, arrays["test_features"], labels, predictions, arrays["centers"]
        )
    except ValueError as error:  # features that have left the finite, or lie on one point
        print(f"compare.py: {run.path}: no metrics but the accuracy: {error}", file=sys.stderr)
        return {"accuracy": metrics.accuracy(predictions, labels)}


def by_row(runs: Iterable[FinishedRun], aside: tuple[str, ...] = ASIDE) -> dict[str, list[FinishedRun]]:
    """Return the runs by what a row of a table calls them: the loss, and what else differs in the settings,
    but for those `aside`."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        key = json.dumps({k: v for k, v in run.settings.items() if k not in aside}, sort_keys=True)
        groups.setdefault(key, []).append(run)
    names = {key: loss_name(group[0].settings) for key, group in groups.items()}
    differing = {}
    for key, group in groups.items():
        twins = [groups[other][0].settings for other in groups if names[other] == names[key]]
        differing[key] = [
            f"{k} {v}"
            for k, v in group[0].settings.items()
            if k not in aside and any(twin.get(k) != v for twin in twins)
        ]
    rows: dict[str, list[FinishedRun]] = {}
    for shown in (4, None):  # all of them where four do not tell the rows apart
        rows = {", ".join([names[key], *differing[key][:shown]]): group for key, group in groups.items()}
        if len(rows) == len(groups):
            break
    return rows


def write_comparison(out: Path, runs: list[FinishedRun], every_run: bool) -> list[Path]:
    """Write comparison.png, .md and .csv, and runs.csv; return their paths."""
    rows = by_row(runs)
    each = every_run and len(runs) <= COLUMNS
    columns = [run.path for run in runs] if each else [group[0].path for group in rows.values()]
    plots.grid(columns, out / "comparison.png")
    table = {name: [run.numbers for run in group] for name, group in rows.items()}
    (out / "comparison.md").write_text(
        "\n\n".join(
            [
                f"Test set of {', '.join(sorted({run.config['dataset']['name'] for run in runs}))}, last epoch; "
                "mean ± standard deviation over n runs, ↑ more is better, ↓ less. Rates in percent.",
                markdown(table, metrics.CLASSES_BETTER),
                markdown(table, metrics.PAIRS_BETTER),
                provenance(runs),
            ]
        )
        + "\n"
    )
    write_csv(out / "comparison.csv", table, metrics.BETTER)
    with open(out / "runs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["loss", "seed", "run", *metrics.BETTER])
        for name, group in rows.items():
            for run in group:
                numbers = [_number(run.numbers.get(key)) for key in metrics.BETTER]
                writer.writerow([name, run.settings["seed"], run.path, *numbers])
    return [out / name for name in ("comparison.png", "comparison.md", "comparison.csv", "runs.csv")]


def write_open_set(out: Path, scored: list[Scored], runs: list[FinishedRun]) -> list[Path]:
    """Write open_set.png, .md and .csv; return their paths."""
    with_scores = [run for run in runs if any(part.run is run for part in scored)]
    rows = by_row(with_scores, aside=(*ASIDE, "known_classes"))  # a row is a mean over splits, too
    table: dict[str, list[dict[str, float]]] = {}
    panels: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name, group in rows.items():
        for part in scored:
            if part.run in group:
                table.setdefault(f"{name} | {part.unknowns} | {part.score}", []).append(part.numbers())
            if part.run is group[0]:
                shown = panels.setdefault(name, {}).setdefault(part.score, {"known": part.known})
                shown[part.unknowns] = part.unknown
    (out / "open_set.md").write_text(
        "Known: the test images of the classes trained on. Mean ± standard deviation over n runs, in percent.\n\n"
        + markdown(table, metrics.OPEN_SET_BETTER, label="loss | unknown | score")
        + f"\n\n{provenance(runs)}\n"
    )
    write_csv(out / "open_set.csv", table, metrics.OPEN_SET_BETTER, labels=("loss", "unknown", "score"))
    plots.histograms(panels, out / "open_set.png")
    return [out / name for name in ("open_set.png", "open_set.md", "open_set.csv")]


def markdown(table: dict[str, list[dict[str, float]]], better: dict[str, str], label: str = "loss") -> str:
    """Return a table with one row a name: mean ± standard deviation of each number, and n."""
    lines = ["| " + " | ".join([label, *(f"{name} {way}" for name, way in better.items()), "n"]) + " |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    for name, runs in table.items():
        cells = []
        for key in better:
            digits = 2 if key not in ("compactness", "silhouette", "drift") else 3
            cells.append(plus_minus([run.get(key, float("nan")) for run in runs], digits))
        lines.append("| " + " | ".join([name, *cells, str(len(runs))]) + " |")
    return "\n".join(lines)


def write_csv(
    path: Path, table: dict[str, list[dict[str, float]]], better: Iterable[str], labels: tuple[str, ...] = ("loss",)
) -> None:
    """Write the same table with one column for each mean and one for each deviation."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*labels, "n", *(f"{key} {part}" for key in better for part in ("mean", "std"))])
        for name, runs in table.items():
            cells = (mean_and_spread([run.get(key, float("nan")) for run in runs]) for key in better)
            writer.writerow([*name.split(" | "), len(runs), *(_number(value) for cell in cells for value in cell)])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def provenance(runs: list[FinishedRun]) -> str:
    """Return where the runs were made and how."""
    machines = {made_on(run.config) for run in runs}
    seeds = sorted({run.settings["seed"] for run in runs})
    recipes = sorted({f"{run.settings['recipe']}, {epochs_of(run.path)[1]} epochs" for run in runs})
    return f"Recipe: {'; '.join(recipes)}. Seeds: {', '.join(map(str, seeds))}. Made on: {'; '.join(sorted(machines))}."


def progress(runs: list[FinishedRun], title: str) -> Iterable[FinishedRun]:
    """Return the same runs, with a bar on a terminal."""
    return progress_bar(runs, len(runs), title, unit="run")


if __name__ == "__main__":
    sys.exit(main())
