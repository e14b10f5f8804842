"""Test accuracy of the default recipe: after the first of its ten epochs, of two epochs, of ten.

    python benchmarks/default_recipe.py --runs log/recipe > benchmarks/results/default_recipe.md

Trains what is missing in the folder of runs, one run after the other, and prints a table of what is
there: every seed's accuracy, never a mean alone. `--only-read` trains nothing.
"""

from __future__ import annotations

import argparse
import itertools
import math
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runs import made_on, read_config, read_epochs_csv

from utils import HERE, plus_minus

FLAGS: dict[str, list[str]] = {"ten": [], "two": ["--max-epoch", "2"]}  # of the runs, by name
KINDS = {  # of tables: the epoch that counts, what it is
    "first": (1, "after the first of 10 epochs"),
    "two": (2, "at the end of 2 epochs (`--max-epoch 2`)"),
    "ten": (10, "at the end of 10 epochs"),
}


def accuracy(runs: Path, kind: str, weight: str, seed: int) -> float | None:
    """Return a run's accuracy, or None if it is not there. The first epoch is that of a whole run, or of
    one that was stopped after it, ``first-λ-seed``."""
    epoch, _ = KINDS[kind]
    for name in (kind, "ten") if kind == "first" else (kind,):
        path = runs / f"{name}-{weight}-{seed}"
        rows = read_epochs_csv(path) if (path / "epochs.csv").exists() else []
        for row in rows:
            if row["epoch"] == epoch and not math.isnan(row["test_accuracy"]):
                return row["test_accuracy"]
    return None


def train(runs: Path, kind: str, weight: str, seed: int, more: list[str]) -> None:
    """Train the run, unless it is there."""
    if accuracy(runs, kind, weight, seed) is None:
        flags = ["--weight-cent", weight, "--seed", str(seed), *FLAGS[kind], *more]
        target = ["--save-dir", str(runs / f"{kind}-{weight}-{seed}"), "--overwrite"]
        subprocess.run([sys.executable, str(HERE / "main.py"), *flags, *target], check=True, stdout=sys.stderr)


def print_table(runs: Path, weights: list[str], seeds: list[int]) -> None:
    """Print one table for each length of training, and where the runs were made."""
    for kind, (_, title) in KINDS.items():
        found = {
            weight: {s: a for s in seeds if (a := accuracy(runs, kind, weight, s)) is not None} for weight in weights
        }
        columns = sorted({seed for values in found.values() for seed in values})
        if not columns:
            continue
        print(f"\nTest accuracy in percent {title}:\n")
        print("| λ | " + " | ".join(f"seed {seed}" for seed in columns) + " | mean ± std | n |")
        print("|---|" + "---|" * (len(columns) + 2))
        for weight, values in found.items():
            if values:
                cells = [f"{values[seed]:.2f}" if seed in values else "" for seed in columns]
                mean = plus_minus(list(values.values()), 2)
                print(f"| {weight} | " + " | ".join(cells) + f" | {mean} | {len(values)} |")
    configs = [read_config(path.parent) for kind in KINDS for path in sorted(runs.glob(f"{kind}-*/config.json"))]
    machines = {f"{made_on(config)}, {config['dataset']['name']}" for config in configs}
    print("\nMade on: " + "; ".join(sorted(machines)) + ".")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("log/recipe"), metavar="DIR", help="folder of runs")
    parser.add_argument("--weights", nargs="+", default=["0", "0.01", "0.1", "1"], metavar="λ")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], metavar="N")
    parser.add_argument("--only-read", action="store_true", help="print what is there, train nothing")
    parser.add_argument("more", nargs="*", help="further flags for main.py, after --")
    args = parser.parse_args()
    if not args.only_read:
        for seed, weight, kind in itertools.product(args.seeds, args.weights, FLAGS):
            train(args.runs, kind, weight, seed, args.more)
    print("Runs that `python benchmarks/default_recipe.py` makes; each number is one of them.")
    print_table(args.runs, args.weights, args.seeds)


if __name__ == "__main__":
    main()
