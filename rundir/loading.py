"""A run's checkpoint and network, read back and checked; and the data that it was trained on."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import datasets
from rundir.reading import Run, read_run
from rundir.writing import FORMAT
from training.building import build_network, length_of_run, specialize
from training.fields import Number
from training.hardware import autocast, precision_here
from training.settings import NOT_NEGATIVE, Plan, plan_from_json
from training.trainer import Network
from utils import UserError, command_line, complain

LARGEST_CHECKPOINT = 1 << 30  # bytes


@dataclass(frozen=True)
class Checkpoint:
    """What it takes to go on after an epoch."""

    plan: Plan
    epoch: int
    best: float  # test accuracy so far, percent
    elapsed: float  # seconds
    sizes: Mapping[str, int]  # of the log and CSV files, bytes
    tail: Mapping[str, str]  # what comes after
    checksums: Mapping[str, str]
    states: Mapping[str, Any]  # state_dicts by name, and the random states


def load_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint's content, on the CPU; runs no code from the file.

    Raises:
        UserError: if there is none, it is not one of ours, or it holds what no run has.
    """
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint here; a run writes its first after its first epoch")
    if path.stat().st_size > LARGEST_CHECKPOINT:
        raise UserError(f"{path}: damaged or not a checkpoint (larger than 1 GiB)")
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes make it
        raise UserError(f"{path}: damaged or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("format"), int):
        raise UserError(f"{path}: not a checkpoint of main.py")
    if not 1 <= raw["format"] <= FORMAT:
        raise UserError(
            f"{path}: of format {raw['format']}, and this version of main.py reads {FORMAT}: get one that fits"
        )
    plan = plan_from_json(raw, str(path))
    try:
        return _checked(raw, plan)
    except Exception as error:  # an entry may be any object, and raise what it likes
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())[:200]}") from None


def _checked(raw: dict[str, Any], plan: Plan) -> Checkpoint:
    """Return the checkpoint; raise ValueError for an entry that no run has."""
    sizes, tail = raw["sizes"], raw.get("tail", {})
    if not isinstance(sizes, Mapping) or not isinstance(tail, Mapping):
        raise ValueError("sizes and tail: must be by file")
    settings = plan.settings
    last = settings.max_epoch or length_of_run(settings, 1)[0]
    if type(raw["epoch"]) is not int or not 1 <= raw["epoch"] <= last:
        raise ValueError(f"epoch: {raw['epoch']!r}: must be a whole number from 1 to {last}")
    for name in ("best", "elapsed"):
        if type(raw[name]) not in (int, float) or not math.isfinite(raw[name]):
            raise ValueError(f"{name}: {raw[name]!r}: must be a number")
    for name in ("log", "batches", "epochs"):
        if type(sizes[name]) is not int or sizes[name] < 0 or not isinstance(tail.get(name, ""), str):
            raise ValueError(f"sizes: {sizes[name]!r}: must be a number of bytes")
    if not all(isinstance(value, str) for value in raw["checksums"].values()):
        raise ValueError("checksums: must be texts")
    for name in ("model", "head", "center_loss"):
        for key, value in raw[name].items():
            if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
                raise ValueError(f"{name}: {key}: must be a tensor of numbers")
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError(f"{name}: {key}: is larger than what the file holds of it")
    _check_random(raw.get("random", {"cpu": torch.get_rng_state(), "cuda": []}))
    states = {key: raw[key] for key in raw if key not in ("settings", "execution", "options", "choices", "format")}
    return Checkpoint(
        plan, raw["epoch"], float(raw["best"]), float(raw["elapsed"]), sizes, tail, raw["checksums"], states
    )


def _check_random(states: Any) -> None:
    """Raise ValueError for states of random generators that torch would not take."""
    for state in (states["cpu"], *states["cuda"]):
        if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.dim() != 1:
            raise ValueError("random: must hold states of torch's generators")
    torch.Generator().set_state(states["cpu"])


def load_state(network: Network, checkpoint: Checkpoint, path: Path) -> None:
    """Load a checkpoint into a `Trainer`, or into a `Network`.

    Raises:
        UserError: if it does not fit.
    """
    states = dict(checkpoint.states)
    try:
        for name in network.STATEFUL:
            module = getattr(network, name)
            if isinstance(module, torch.optim.Optimizer):
                states[name] = _optimizer_state(module, states[name])
            elif isinstance(module, torch.optim.lr_scheduler.LRScheduler):
                states[name] = _scheduler_state(module, states[name])
        network.load_state_dict(states)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: the checkpoint does not fit this model ({reason})") from None


def _optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what training has changed of an optimizer, the rest as the settings have it: rates and momentum."""
    there = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, kept in state["state"].items():
        buffer = kept["momentum_buffer"]
        if buffer is not None and (buffer.shape != parameters[index].shape or not buffer.is_floating_point()):
            raise ValueError(f"an optimizer's momentum has shape {tuple(buffer.shape)}")
    groups = []
    for group, kept in zip(there["param_groups"], state["param_groups"], strict=True):
        groups.append(group | {"lr": NOT_NEGATIVE.check(kept["lr"])})
    momentum = {index: {"momentum_buffer": kept["momentum_buffer"]} for index, kept in state["state"].items()}
    return {"state": momentum, "param_groups": groups}


def _scheduler_state(scheduler: torch.optim.lr_scheduler.LRScheduler, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schedule's state, with what training has changed of it: how far it is."""
    count = Number(int, 0, 10**9)
    rates = [NOT_NEGATIVE.check(rate) for rate in state["_last_lr"]]
    far = {"last_epoch": count.check(state["last_epoch"]), "_step_count": count.check(state["_step_count"])}
    return scheduler.state_dict() | far | {"_last_lr": rates}


def restore_random_states(states: Any) -> None:
    """Take up the states, as far as the devices are there."""
    if states is None:
        return
    torch.set_rng_state(states["cpu"])
    if states["cuda"] and torch.cuda.is_initialized() and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])


def check_same_plan(directory: Path, plan: Plan, asked: Mapping[str, object]) -> None:
    """Raise UserError if something asked for by hand contradicts the run that is to be continued."""
    wrong = []
    for name, value in asked.items():
        there = getattr(plan.settings if hasattr(plan.settings, name) else plan.execution, name)
        if value not in (there, plan.asked(name)):
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            wrong.append(f"--{name.replace('_', '-')} {shown} (there: {there})")
    if wrong:
        raise UserError(f"--resume {directory}: the run was made with other settings, leave out: {', '.join(wrong)}")


# ---------------------------------------------------------------- a finished run's network and data


def load_network(run: Run, device: torch.device) -> Network:
    """Return a finished run's network, ready to evaluate on the device.

    Raises:
        UserError: if its checkpoint is missing, damaged or not of its last epoch.
    """
    checkpoint = load_checkpoint(run.path / "checkpoint.pt")
    if checkpoint.epoch != run.record.epochs:
        go_on = command_line("main.py", "--resume", run.path)
        raise UserError(f"{run.path}: its checkpoint is of another epoch; go on with {go_on}")
    settings = checkpoint.plan.settings
    if settings != run.settings:
        raise UserError(f"{run.path / 'checkpoint.pt'}: is of another run, with other settings than config.json has")
    precision, note = precision_here(settings.precision, device)
    if note is not None:
        complain(f"{run.path}: {note}")
    network = build_network(settings, len(run.record.classes), autocast(precision, device))
    load_state(network, checkpoint, run.path)
    network.model.to(device)
    network.head.to(device)
    specialize(network.model, checkpoint.plan.execution, device)
    return network


def decision_of(path: Path) -> np.ndarray:
    """Return what decides in a finished run's head, see `Network.decision`."""
    return load_network(read_run(path), torch.device("cpu")).decision().numpy()


_load = functools.cache(datasets.load)  # several runs have the same data


def load_data(run: Run) -> datasets.Digits:
    """Return the whole data set that a run was trained on, all classes of it.

    Raises:
        UserError: if it cannot be had, or is not the same.
    """
    data = _load(run.data_set, data_root(run))
    if data.checksums != run.record.checksums:
        raise UserError(f"{run.path}: was trained on other data than there is in {data_root(run)}")
    return data


def data_of(run: Run) -> datasets.Digits:
    """Return the samples that a run was trained and tested on, in the order of its features."""
    data, _, _ = held_out_of(run)
    return data


def held_out_of(run: Run) -> tuple[datasets.Digits, Tensor, Tensor]:
    """Return the same, and the images and labels that --hold-out kept out of training."""
    return load_data(run).for_training(run.settings.known_classes, run.settings.hold_out)


def data_root(run: Run) -> Path:
    """Return where the run's data are: where it found them, or in the default place."""
    root = Path(run.record.plan.options.data_root)
    return root if root.is_dir() else Path("data")
