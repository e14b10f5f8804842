"""How often finished runs are wrong on the digits that --hold-out kept out of their training: to choose settings by,
without a look at the test set.

    python main.py --hold-out 5000 --eval-freq 1000 --set rotation=10 --save-dir log/choose/turned
    python benchmarks/held_out.py log/choose/*

Prints one line for runs that differ in their seed alone: how many each has wrong, and their mean.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from analysis import tables
from rundir.network import held_out_of, load_network
from rundir.run import Run, read_run
from utils import UserError, run_command

CPU = torch.device("cpu")


def numbers(run: Run) -> tuple[int, int, float]:
    """Return how many held-out digits a run takes for another class, of how many, and their mean cross-entropy."""
    _, images, labels = held_out_of(run)
    if len(labels) == 0:
        raise UserError(f"{run.path}: all its digits were trained on; train it with --hold-out N")
    seen = load_network(run, CPU).evaluate(images, labels)
    return int((seen.predictions != seen.labels).sum()), len(labels), seen.loss


def compare(paths: list[Path]) -> int:
    """Print the table of these runs."""
    rows = tables.by_row([read_run(path) for path in paths])
    lines = []
    for name, runs in rows.items():
        wrong, of, loss = zip(*map(numbers, runs), strict=True)
        seeds = ", ".join(str(run.settings.seed) for run in runs)
        each = ", ".join(map(str, wrong))
        right = 100 * (1 - np.mean(wrong) / of[0])
        lines.append([name, seeds, f"{each} of {of[0]:,}", f"{right:.2f}", f"{np.mean(loss):.4f}"])
    print(tables.markdown(["settings", "seeds", "wrong", "accuracy, mean", "cross-entropy, mean"], lines))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, trained with --hold-out")
    return run_command("held_out.py", partial(compare, parser.parse_args().runs))


if __name__ == "__main__":
    sys.exit(main())
