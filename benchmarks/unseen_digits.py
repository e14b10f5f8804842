"""Which unseen digits pass for known ones: runs of --known-classes, scored on each digit that they never saw.

    python compare.py --open-set --losses softmax --out log/open-set
    python benchmarks/unseen_digits.py log/open-set/runs/*-1

Prints AUROC in percent, all test images of the digits taught against those of one that was not, by the softmax
probability: one row an unseen digit, one column a choice of digits.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from analysis import tables
from analysis.openset import score_run
from rundir.loading import load_data
from rundir.reading import Run, read_run
from utils import UserError, plus_minus, run_command

SCORE = "softmax probability"


def by_digit(run: Run) -> dict[int, float]:
    """Return a run's AUROC for each digit that it never saw, percent."""
    if not run.unseen:
        raise UserError(f"{run.path}: has seen all digits; train it with --known-classes")
    data = load_data(run)
    images = {str(digit): data.test_images[data.test_labels == digit] for digit in run.unseen}
    scored = score_run(run, images, torch.device("cpu"))
    return {int(one.unknowns): one.numbers()["AUROC"] for one in scored if one.score == SCORE}


def compare(paths: list[Path]) -> int:
    """Print the table of these runs."""
    found = [by_digit(read_run(path)) for path in paths]
    lines = []
    for digit in sorted(set().union(*found)):
        values = [run[digit] for run in found if digit in run]
        each = [f"{run[digit]:.2f}" if digit in run else "" for run in found]
        lines.append([str(digit), *each, plus_minus(values, 2), str(len(values))])
    print(tables.markdown(["unseen digit", *(path.name for path in paths), "mean ± std", "n"], lines))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories of --known-classes")
    return run_command("unseen_digits.py", partial(compare, parser.parse_args().runs))


if __name__ == "__main__":
    sys.exit(main())
