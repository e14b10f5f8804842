"""A finished run's network and data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import datasets
from rundir.checkpoint import load_checkpoint, load_state
from rundir.run import Run
from training.building import build_network, specialize
from training.hardware import autocast, precision_here
from training.settings import Plan
from training.trainer import Network
from utils import UserError, command_line, complain


def load_network(run: Run, device: torch.device) -> Network:
    """Return a finished run's network, ready to evaluate on the device.

    Raises:
        UserError: if its checkpoint is missing, damaged, or of another epoch or run.
    """
    checkpoint = load_checkpoint(run.path / "checkpoint.pt")
    if checkpoint.epoch != run.epochs:
        go_on = command_line("main.py", "--resume", run.path)
        raise UserError(f"{run.path}: its checkpoint is of another epoch; continue with {go_on}")
    settings = checkpoint.plan.settings
    if settings != run.settings:
        raise UserError(f"{run.path / 'checkpoint.pt'}: is of another run: its settings are not those in config.json")
    precision, note = precision_here(settings.precision, device)
    if note is not None:
        complain(f"{run.path}: {note}")
    network = build_network(settings, len(run.classes), autocast(precision, device))
    load_state(network, checkpoint, run.path)
    network.model.to(device)
    network.head.to(device)
    specialize(network.model, checkpoint.plan, device)
    return network


_load = functools.cache(datasets.load)  # several runs may use the same data


def load_data(run: Run) -> datasets.Digits:
    """Return the whole data set of a run, with all its classes.

    Raises:
        UserError: if it is missing and cannot be downloaded, or is not the same.
    """
    root = data_root(run.plan)
    return same_data(_load(run.settings.dataset, root), run.checksums, root, run.path)


def same_data(data: datasets.Digits, checksums: Mapping[str, str], root: Path, run: Path | None) -> datasets.Digits:
    """Return the data from a root if a run was trained on them, by their checksums; raise UserError if it was not."""
    if data.checksums != checksums:
        raise UserError(f"{run}: was trained on other data than {data.folder or root} holds")
    return data


def data_of(run: Run) -> datasets.Digits:
    """Return the samples that a run was trained and tested on, in the order of its features."""
    return held_out_of(run)[0]


def held_out_of(run: Run) -> tuple[datasets.Digits, Tensor, Tensor]:
    """Return the data of `data_of`, and the images and labels that --hold-out kept out of training."""
    return load_data(run).for_training(run.settings.known_classes, run.settings.hold_out)


def data_root(plan: Plan) -> Path:
    """Return a run's data root, or the default one if that is gone."""
    root = Path(plan.data_root)
    return root if root.is_dir() else Path("data")
