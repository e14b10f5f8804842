"""How much training an accuracy takes: the default recipe at several lengths, over several seeds.

    python benchmarks/time_to_accuracy.py --runs log/lengths > benchmarks/results/time_to_accuracy.txt

Trains the runs that are missing, one after the other, and prints for each length the test accuracy at
its end and the seconds of training (without evaluation and figures), and the shortest length whose
every run reaches a threshold. `--only-read` trains nothing.
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

THRESHOLDS = (98.51, 99.0)  # what the widely copied code logs at its epoch 30; a round number


def read(path: Path) -> tuple[float, float]:
    """Return a run's last test accuracy, and its seconds of training."""
    rows = runs.read_epochs_csv(path)
    return rows[-1]["test_accuracy"], sum(row["seconds"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("log/lengths"), metavar="DIR", help="folder of runs")
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 4, 10], metavar="N", help="lengths")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], metavar="N")
    parser.add_argument("--only-read", action="store_true", help="print what is there, train nothing")
    parser.add_argument("more", nargs="*", help="further flags for main.py, after --")
    args = parser.parse_args()
    wanted = [
        sweep.Wanted(f"{epochs}-epochs-{seed}", ["--max-epoch", str(epochs), "--seed", str(seed), *args.more])
        for epochs in sorted(args.epochs)
        for seed in args.seeds
    ]
    missing = sweep.find(wanted, args.runs, [])
    if not args.only_read:
        for reason in sweep.train(missing, jobs=1).values():
            sys.exit(reason)

    print(f"`{shlex.join(['python', 'benchmarks/time_to_accuracy.py', *sys.argv[1:]])}`\n")
    print("| epochs | test accuracy (%) | seconds of training | each seed | n |\n|---|---|---|---|---|")
    shortest: dict[float, str] = {}
    made_on = set()
    for epochs in sorted(args.epochs):
        there = [run.path for run in wanted if run.flags[1] == str(epochs) and run.path and runs.is_finished(run.path)]
        if not there:
            continue
        accuracies, seconds = (list(values) for values in zip(*map(read, there), strict=True))
        print(f"| {epochs} | {plus_minus(accuracies, 2)} | {plus_minus(seconds, 1)} | {', '.join(f'{a:.2f}' for a in accuracies)} | {len(there)} |")  # fmt: skip
        for threshold in THRESHOLDS:
            if min(accuracies) >= threshold:
                shortest.setdefault(
                    threshold, f"{epochs} epochs, {plus_minus(seconds, 1)} s of training (n = {len(there)})"
                )
        for path in there:
            made_on.add(runs.made_on(runs.read_config(path)))
    for threshold in THRESHOLDS:
        print(f"\nEvery run reaches {threshold} % after: {shortest.get(threshold, 'none of these lengths')}")
    print("\nMade on: " + "; ".join(sorted(made_on)) + ".")


if __name__ == "__main__":
    main()
