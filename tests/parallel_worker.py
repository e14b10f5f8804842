"""Twenty steps of training in float64, the last batch uneven; the first process writes the weights.

python -m torch.distributed.run --nproc-per-node=2 tests/parallel_worker.py FOLDER
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
import engine
import prepare
from arguments import BASICS
from parallel import Group
from recipes import resolve


def train(group: Group, path: Path, recipe: str) -> None:
    settings = BASICS | resolve(recipe, "mnist", {"batch_size": 7, "max_epoch": 1, "precision": "fp32"})
    data = datasets.load("mnist5k", Path("nowhere"))
    some = torch.arange(0, 4_000, 4_000 // 136)[:136]
    batches = datasets.Batches(data.train_images[some], data.train_labels[some], 7, seed=1, shift=settings["shift"])
    trainer = prepare.build(settings, batches, 10, group)
    for module in (trainer.model, trainer.head, trainer.center_loss):
        module.double()
    trainer.spread = group.spread(trainer.model)
    trainer.precision = contextlib.nullcontext
    engine.normalize = lambda *arguments: datasets.normalize(*arguments).double()
    losses = torch.stack([values for _, values in trainer.train_epoch(batches.epoch(1))])
    assert len(losses) == 20
    if group.rank == 0:
        torch.save(trainer.state_dict() | {"losses": losses}, path)


if __name__ == "__main__":
    group = Group(torch.device("cpu"))
    for recipe in ("default", "reference"):
        train(group, Path(sys.argv[1]) / recipe, recipe)
    group.leave()
