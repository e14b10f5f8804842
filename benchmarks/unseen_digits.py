"""Which unseen digits pass for known ones: runs of --known-classes, scored on each digit that they never saw.

    python compare.py --open-set --losses softmax --out log/open-set
    python benchmarks/unseen_digits.py log/open-set/runs/*-1
    python benchmarks/unseen_digits.py --views log/open-set/runs/*-1

Prints AUROC in percent, all test images of the digits taught against those of one that was not, and of all that were
not, by the softmax probability: one column a choice of digits. With --views it is the mean probability of five views
of an image: as it is, and moved by one pixel to each side.
"""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from analysis import metrics, tables
from datasets import SIDE
from rundir.network import data_of, load_data, load_network
from rundir.run import Run, read_run
from training.trainer import Network
from utils import UserError, plus_minus, run_command

MIDDLE = (1, 1)  # the corner of a view in an image with a border of one pixel
FIVE = (MIDDLE, (0, 1), (2, 1), (1, 0), (1, 2))


def log_probabilities(network: Network, images: Tensor, views: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Return the logarithm of the mean softmax probability over the views, float64 (N, C), of uint8 (N, 28, 28)."""
    bordered = F.pad(images, (1, 1, 1, 1))
    none = torch.zeros(len(images), dtype=torch.int64)  # labels are needed for an accuracy alone
    each = [
        network.evaluate(bordered[:, top : top + SIDE, left : left + SIDE], none).logits.double().log_softmax(dim=1)
        for top, left in views
    ]
    return (torch.stack(each).logsumexp(dim=0) - math.log(len(views))).numpy()


def by_digit(run: Run, views: tuple[tuple[int, int], ...]) -> dict[str, float]:
    """Return a run's AUROC for each digit that it never saw, and for all of them, percent."""
    if not run.unseen:
        raise UserError(f"{run.path}: has seen all digits; train it with --known-classes")
    network, known, data = load_network(run, torch.device("cpu")), data_of(run), load_data(run)
    logs = log_probabilities(network, known.test_images, views)
    taught, correct = metrics.log_odds(logs), logs.argmax(axis=1) == known.test_labels.numpy()
    unseen = torch.isin(data.test_labels, torch.tensor(run.unseen))
    labels = data.test_labels[unseen].numpy()
    scores = metrics.log_odds(log_probabilities(network, data.test_images[unseen], views))
    rows = {str(digit): labels == digit for digit in run.unseen} | {"all": labels >= 0}
    return {name: metrics.open_set(taught, correct, scores[which])["AUROC"] for name, which in rows.items()}


def compare(paths: list[Path], views: tuple[tuple[int, int], ...]) -> int:
    """Print the table of these runs."""
    found = [by_digit(read_run(path), views) for path in paths]
    lines = []
    for digit in sorted(set().union(*found)):
        values = [run[digit] for run in found if digit in run]
        each = [f"{run[digit]:.2f}" if digit in run else "" for run in found]
        lines.append([digit, *each, plus_minus(values, 2), str(len(values))])
    print(tables.markdown(["unseen digit", *(path.name for path in paths), "mean ± std", "n"], lines))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories of --known-classes")
    parser.add_argument("--views", action="store_true", help="by the mean probability of five views of an image")
    args = parser.parse_args()
    return run_command("unseen_digits.py", partial(compare, args.runs, FIVE if args.views else (MIDDLE,)))


if __name__ == "__main__":
    sys.exit(main())
