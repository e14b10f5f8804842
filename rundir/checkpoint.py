"""``checkpoint.pt``, the state after an epoch: written, read back and checked, loaded.

It holds no states of random generators: order, shifts and warps depend only on seed and epoch.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from datasets import Digits
from rundir.log import RunLog
from rundir.run import FORMAT, keep_plan, other_format
from training.arguments import CLASSES, Request
from training.building import Training, build_training, length_of_run
from training.fields import declared
from training.hardware import precision_here
from training.parallel import Group
from training.settings import CHANGEABLE, Plan, plan_from_json
from training.trainer import Network, Trainer
from utils import UserError, atomically, say

LARGEST_CHECKPOINT = 1 << 30  # bytes
Bytes = Annotated[int, Meta(ge=0)]


class _Entries(msgspec.Struct, frozen=True):
    """The entries of a checkpoint besides the plan and the states."""

    epoch: Annotated[int, Meta(ge=1)]
    best: Annotated[float, Meta(ge=-1, le=100)]  # best test accuracy so far, percent; -1 before the first
    elapsed: Annotated[float, Meta(ge=0, le=1e12)]  # seconds
    sizes: dict[str, Bytes]  # sizes of the files of a `RunLog`
    tail: dict[str, str]  # text to append to them
    checksums: dict[str, str]


class Checkpoint(_Entries, frozen=True, kw_only=True):
    """The state of a run after an epoch."""

    plan: Plan
    states: Mapping[str, Any]  # state_dicts by name


# ---------------------------------------------------------------- written


def keep(directory: Path, plan: Plan, training: Training, log: RunLog, better: bool) -> None:
    """Write a run's checkpoint after an epoch, and also as ``best.pt`` if it is `better` than any before."""
    state = training.trainer.state_dict() | asdict(plan)
    state |= {
        "checksums": training.data.checksums,
        "epoch": training.epoch,
        "best": training.best,
        "elapsed": training.elapsed,
        "sizes": log.sizes(),
        "tail": log.tail,
    }
    save_checkpoint(state, *([directory / "best.pt"] if better else []), directory / "checkpoint.pt")


def save_checkpoint(state: dict[str, Any], *paths: Path) -> None:
    """Write a checkpoint to each of the paths, whole or not at all."""
    buffer = io.BytesIO()  # torch.save into a file would hide the system's error
    torch.save(state | {"format": FORMAT}, buffer)
    for path in paths:
        with atomically(path) as unfinished:
            unfinished.write_bytes(buffer.getbuffer())


# ---------------------------------------------------------------- read back


def load_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint, on the CPU; runs no code from the file.

    Raises:
        UserError: if there is none, it is damaged, or it is not a checkpoint of this program.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder")
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint here; a run writes its first after its first epoch")
    if path.stat().st_size > LARGEST_CHECKPOINT:
        raise UserError(f"{path}: damaged or not a checkpoint (larger than 1 GiB)")
    try:
        with open(path, "rb") as file:
            is_archive = zipfile.is_zipfile(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not is_archive:
        raise UserError(f"{path}: damaged or not a checkpoint (no archive of torch.save)")
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can make torch.load raise anything
        raise UserError(f"{path}: damaged or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("format"), int):
        raise UserError(f"{path}: not a checkpoint of main.py")
    if raw["format"] != FORMAT:
        raise UserError(f"{path}: {other_format(raw['format'])}")
    plan = plan_from_json(raw, str(path))
    try:
        return _checked(raw, plan)
    except Exception as error:  # an entry may be any object, with any error
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())[:200]}") from None


def _checked(raw: dict[str, Any], plan: Plan) -> Checkpoint:
    """Return the checkpoint; raise an error for an entry that no run has."""
    names = _Entries.__struct_fields__
    entries = msgspec.convert({name: raw[name] for name in names if name in raw}, _Entries)
    last, _ = length_of_run(plan.settings, 1)
    if entries.epoch > last:
        raise ValueError(f"epoch: {entries.epoch!r}: must be a whole number from 1 to {last}")
    if not entries.sizes.keys() == entries.tail.keys() == RunLog.FILES.keys():
        raise ValueError(f"sizes and tail: must be those of {', '.join(RunLog.FILES)}")
    for name in ("model", "head", "center_loss"):
        for key, value in raw[name].items():
            _check_tensor(f"{name}: {key}", value)
    states = {key: raw[key] for key in Trainer.STATEFUL if key in raw}
    return Checkpoint(plan=plan, states=states, **msgspec.structs.asdict(entries))


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
        raise ValueError(f"{name}: must be a tensor of numbers")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{name}: is larger than its data in the file")


# ---------------------------------------------------------------- loaded


def take_up(checkpoint: Checkpoint, plan: Plan, data: Digits, group: Group, directory: Path) -> Training:
    """Return the training that continues from a checkpoint, perhaps on another machine.

    Raises:
        UserError: if the checkpoint does not fit.
    """
    precision = plan.settings.precision
    if plan.asked_for("precision") != "bf16":  # what is asked for is emulated if need be
        precision, note = precision_here(precision, group.device)
        if note is not None:
            say(note)
    here = replace(plan.settings, precision=precision, class_order="labels")  # the weights have the order already
    training = build_training(replace(plan, settings=here), data, group)
    load_state(training.trainer, checkpoint, directory)
    training.epoch, training.best, training.elapsed = checkpoint.epoch, checkpoint.best, checkpoint.elapsed
    return training


def reopen(
    directory: Path, checkpoint: Checkpoint, plan: Plan, training: Training, line: str, stop_after: int | None
) -> RunLog:
    """Announce that a run continues, write its plan, and return its log, cut back to the checkpoint."""
    say(f"{line}. Resuming {directory} after epoch {checkpoint.epoch}")
    if checkpoint.epoch >= training.epochs:
        say(f"{directory}: already finished, after epoch {training.epochs}")
    keep_plan(directory, plan)
    trains = checkpoint.epoch < min(training.epochs, stop_after or training.epochs)
    return RunLog(directory, training.data.name, checkpoint.sizes, checkpoint.tail, trains)


def load_state(network: Network, checkpoint: Checkpoint, path: Path) -> None:
    """Load a checkpoint into a `Trainer`, or into a `Network`.

    Raises:
        UserError: if it does not fit.
    """
    states = dict(checkpoint.states)
    try:
        for name in network.STATEFUL:
            if isinstance(optimizer := getattr(network, name), torch.optim.Optimizer):
                states[name] = _optimizer_state(optimizer, states[name])
        network.load_state_dict(states)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: the checkpoint does not fit this model ({reason})") from None


def _optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state with the checkpoint's momentum; the settings decide the rest."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    momentum = {}
    for index, kept in state["state"].items():
        buffer = kept["momentum_buffer"]
        if buffer is not None:
            _check_tensor("an optimizer's momentum", buffer)
            if buffer.shape != parameters[index].shape:
                raise ValueError(f"an optimizer's momentum has shape {tuple(buffer.shape)}")
        momentum[index] = {"momentum_buffer": buffer}
    return {"state": momentum, "param_groups": optimizer.state_dict()["param_groups"]}


def check_same_plan(directory: Path, plan: Plan, request: Request) -> None:
    """Raise UserError if a setting given by hand contradicts the run that is resumed."""
    flags = {name for cls in CLASSES for name, about, _ in declared(cls) if about.group}
    wrong = []
    for name in sorted(request.by_hand - {*CHANGEABLE}):
        value, there = request.plan.value(name), plan.value(name)
        if value not in (there, plan.asked_for(name)):
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            flag = f"--{name.replace('_', '-')} " if name in flags else f"--set {name}="
            wrong.append(f"{flag}{shown} (there: {there})")
    if wrong:
        raise UserError(f"--resume {directory}: the run was made with other settings, leave out: {', '.join(wrong)}")
