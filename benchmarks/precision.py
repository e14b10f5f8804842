"""Whether fast arithmetic costs accuracy: short runs in bf16 and compiled, against float32, seed by seed.

    python benchmarks/precision.py --runs log/precision > benchmarks/results/precision.md

Trains the runs that are missing, and prints every test accuracy and how far the fast runs of a seed end
from its float32 run. `--only-read` trains nothing.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import runs
import sweep

from utils import plus_minus

VARIANTS = {  # the first is what the others are held against
    "fp32": ["--precision", "fp32", "--compile", "off"],
    "bf16": ["--precision", "bf16", "--compile", "off"],
    "bf16, compiled": ["--precision", "bf16", "--compile", "on"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("log/precision"), metavar="DIR", help="folder of runs")
    parser.add_argument("--epochs", type=int, default=2, metavar="N", help="length of a run (default: 2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], metavar="N")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument("--only-read", action="store_true", help="print what is there, train nothing")
    parser.add_argument("more", nargs="*", help="further flags for main.py, after --")
    args = parser.parse_args()
    length = ["--max-epoch", str(args.epochs), *args.more]
    wanted = {
        (name, seed): sweep.Wanted(f"{name.replace(', ', '-')}-{seed}", [*length, "--seed", str(seed), *flags])
        for seed in args.seeds
        for name, flags in VARIANTS.items()
    }
    missing = sweep.find(wanted.values(), args.runs, [])
    if not args.only_read:
        for reason in sweep.train(missing, args.jobs).values():
            sys.exit(reason)

    there = {key: run.path for key, run in wanted.items() if run.path and runs.is_finished(run.path)}
    accuracy = {key: runs.read_epochs_csv(path)[-1]["test_accuracy"] for key, path in there.items()}
    first, *others = VARIANTS
    print(f"Test accuracy in percent after {args.epochs} epochs, `{shlex.join(['python', 'benchmarks/precision.py', *sys.argv[1:]])}`:\n")  # fmt: skip
    print("| | " + " | ".join(f"seed {seed}" for seed in args.seeds) + " | mean ± std | n |")
    print("|---" * (len(args.seeds) + 3) + "|")
    for name in VARIANTS:
        values = {seed: accuracy[name, seed] for seed in args.seeds if (name, seed) in accuracy}
        if values:
            print_row(name, {seed: f"{value:.2f}" for seed, value in values.items()}, list(values.values()), args.seeds)
    for name in others:
        values = {
            seed: accuracy[name, seed] - accuracy[first, seed]
            for seed in args.seeds
            if (name, seed) in accuracy and (first, seed) in accuracy
        }
        if values:
            cells = {seed: f"{value:+.2f}" for seed, value in values.items()}
            print_row(f"{name} − {first}", cells, list(values.values()), args.seeds)
    print("\nMade on: " + "; ".join(sorted({runs.made_on(runs.read_config(path)) for path in there.values()})) + ".")


def print_row(title: str, cells: dict[int, str], values: list[float], seeds: list[int]) -> None:
    """Print one row of the table, a cell for each seed."""
    print(
        f"| {title} | " + " | ".join(cells.get(s, "") for s in seeds) + f" | {plus_minus(values, 2)} | {len(values)} |"
    )


if __name__ == "__main__":
    main()
