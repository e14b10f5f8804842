"""Trains twenty steps in float64, the last batch uneven; the first process writes the weights.

python -m torch.distributed.run --nproc-per-node=2 tests/parallel_worker.py FOLDER
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
from training import building
from training import trainer as loop
from training.batches import Batches, normalize
from training.parallel import Group
from training.recipes import resolve
from training.settings import Plan, Settings


def train(group: Group, path: Path, recipe: str) -> None:
    asked = Settings(recipe=recipe, batch_size=7, max_epoch=1, precision="fp32")
    settings = resolve(asked, {"batch_size", "max_epoch", "precision"}, "mnist")
    data = datasets.load("mnist5k", Path("nowhere"))
    some = torch.arange(0, 4_000, 4_000 // 136)[:136]
    batches = Batches(data.train_images[some], data.train_labels[some], 7, seed=1, shift=settings.shift)
    trainer = building.build_trainer(Plan(settings=settings, compile="off"), batches, 10, group)
    for module in (trainer.model, trainer.head, trainer.center_loss):
        module.double()
    trainer.forward = group.over_all(trainer.model)
    trainer.precision = contextlib.nullcontext
    with mock.patch.object(loop, "normalize", lambda *arguments: normalize(*arguments).double()):
        losses = torch.stack([values for _, values in trainer.train_epoch(batches.epoch(1))])
    assert len(losses) == 20
    if group.rank == 0:
        torch.save(trainer.state_dict() | {"losses": losses}, path)


def train_both_recipes(folder: Path) -> None:
    """Train as one process of the job."""
    with Group(torch.device("cpu")) as group:
        for recipe in ("default", "reference"):
            train(group, folder / recipe, recipe)


if __name__ == "__main__":
    train_both_recipes(Path(sys.argv[1]))
