"""What trained runs are worth beyond compare.py's tables. Prints one table.

    python benchmarks/score.py held-out log/choose/*           # errors on the digits that --hold-out kept back
    python benchmarks/score.py unseen log/open-set/runs/*-1    # AUROC of each digit that --known-classes left out
    python benchmarks/score.py unseen --views log/open-set/runs/*-1

``held-out`` chooses settings without a look at the test set: one line for runs that differ in their seed alone.
``unseen`` ranks by the softmax probability, with --views by its mean over five views of an image: the image, and the
image moved by one pixel to each side.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor

from analysis import metrics, tables
from analysis.tables import plus_minus
from idx import SIDE
from rundir.network import data_of, held_out_of, load_data, load_network
from rundir.run import Run, read_run
from training.trainer import Network
from utils import UserError, run_command

CPU = torch.device("cpu")
MIDDLE = (1, 1)  # the corner of a view in an image with a border of one pixel
FIVE = (MIDDLE, (0, 1), (2, 1), (1, 0), (1, 2))


def held_out(paths: list[Path], views: bool) -> str:
    """Return how often runs are wrong on the digits that were kept out of their training."""
    lines = []
    for name, runs in tables.by_row([read_run(path) for path in paths]).items():
        wrong, of, loss = zip(*map(errors, runs), strict=True)
        seeds = ", ".join(str(run.settings.seed) for run in runs)
        right = 100 * (1 - np.mean(wrong) / of[0])
        each = f"{', '.join(map(str, wrong))} of {of[0]:,}"
        lines.append([name, seeds, each, f"{right:.2f}", f"{np.mean(loss):.4f}"])
    return tables.markdown(["settings", "seeds", "wrong", "accuracy, mean", "cross-entropy, mean"], lines)


def errors(run: Run) -> tuple[int, int, float]:
    """Return how many held-out digits a run takes for another class, of how many, and their mean cross-entropy."""
    _, images, labels = held_out_of(run)
    if len(labels) == 0:
        raise UserError(f"{run.path}: all its digits were trained on; train it with --hold-out N")
    seen = load_network(run, CPU).evaluate(images, labels)
    return int((seen.predictions != seen.labels).sum()), len(labels), seen.loss


def unseen(paths: list[Path], views: bool) -> str:
    """Return the AUROC of each digit that a run never saw, in percent: one column a run."""
    found = [by_digit(read_run(path), FIVE if views else (MIDDLE,)) for path in paths]
    lines = []
    for digit in sorted(set().union(*found)):
        values = [run[digit] for run in found if digit in run]
        each = [f"{run[digit]:.2f}" if digit in run else "" for run in found]
        lines.append([digit, *each, plus_minus(values, 2), str(len(values))])
    return tables.markdown(["unseen digit", *(path.name for path in paths), "mean ± std", "n"], lines)


def by_digit(run: Run, views: tuple[tuple[int, int], ...]) -> dict[str, float]:
    """Return a run's AUROC for each digit that it never saw, and for all of them, percent."""
    if not run.unseen:
        raise UserError(f"{run.path}: has seen all digits; train it with --known-classes")
    network, known, data = load_network(run, CPU), data_of(run), load_data(run)
    logs = log_probabilities(network, known.test_images, views)
    taught, correct = metrics.log_odds(logs), logs.argmax(axis=1) == known.test_labels.numpy()
    others = data.only(run.unseen)
    labels = np.array(run.unseen)[others.test_labels.numpy()]
    scores = metrics.log_odds(log_probabilities(network, others.test_images, views))
    rows = {str(digit): labels == digit for digit in run.unseen} | {"all": labels >= 0}
    return {name: metrics.open_set(taught, correct, scores[which])["AUROC"] for name, which in rows.items()}


def log_probabilities(network: Network, images: Tensor, views: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Return the logarithm of the mean softmax probability over the views, float64 (N, C), of uint8 (N, 28, 28)."""
    bordered = F.pad(images, (1, 1, 1, 1))
    each = [
        network.outputs(bordered[:, top : top + SIDE, left : left + SIDE])[1].double().log_softmax(dim=1)
        for top, left in views
    ]
    return (torch.stack(each).logsumexp(dim=0) - math.log(len(views))).numpy()


TABLES = {"held-out": held_out, "unseen": unseen}


def main(argv: list[str]) -> int:
    """Print the table that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    parser.add_argument("--views", action="store_true", help="unseen: by the mean probability of five views")
    args = parser.parse_args(argv)

    def work() -> int:
        print(TABLES[args.table](args.runs, args.views))
        return 0

    return run_command("score.py", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
