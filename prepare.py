"""From a command line to a run that is ready to train: a new one, or one that is taken up again."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import datasets
import utils
from arguments import BASICS, OPTIONS
from center_loss import CenterLoss
from datasets import Batches, Digits
from engine import Trainer, build_network, build_optimizers, initial_centers, length_of_run
from hardware import autocast, choose_compile, choose_precision, compiled, make_deterministic, vectorize_prelu
from parallel import Group
from recipes import resolve
from utils import RunError, RunLog, seed_everything


@dataclass
class Run:
    """A run, ready to train from epoch `first` on."""

    path: Path
    settings: dict[str, Any]
    options: dict[str, Any]
    data: Digits
    batches: Batches
    trainer: Trainer
    epochs: int
    iterations: int
    first: int
    last: int
    best: float = -1.0
    elapsed: float = 0.0

    def batches_of(self, epoch: int) -> tuple[Iterator[tuple[Tensor, Tensor]], int]:
        """Return an epoch's batches, the last epoch's perhaps cut short, and how many."""
        count = min(len(self.batches), self.iterations - (epoch - 1) * len(self.batches))
        return itertools.islice(self.batches.epoch(epoch), count), count

    def checkpoint(self, epoch: int, elapsed: float, sizes: dict[str, int]) -> dict[str, Any]:
        """Return what it takes to go on after that epoch."""
        return self.trainer.state_dict() | {
            "format": utils.FORMAT,
            "random": utils.random_states(),
            "settings": self.settings,
            "options": self.options,
            "checksums": self.data.checksums,
            "epoch": epoch,
            "best": self.best,
            "elapsed": elapsed,
            "sizes": sizes,
        }


def prepare(args: argparse.Namespace, group: Group, device_line: str) -> tuple[Run, RunLog]:
    """Make a new run in a directory of its own, or take up the one that is to be resumed."""
    checkpoint = utils.load_checkpoint(args.resume / "checkpoint.pt") if args.resume else None
    if checkpoint is None:
        utils.check_save_dir(args.save_dir, args.overwrite)
        settings, options = BASICS | args.settings, OPTIONS | args.options
    else:
        settings, options = BASICS | checkpoint["settings"], OPTIONS | checkpoint["options"] | args.options
        utils.check_same_settings(args.resume, settings, args.settings)
    if options["tensorboard"]:
        utils.require_tensorboard()

    notices: list[str] = []
    data = datasets.load(settings["dataset"], Path(options["data_root"]), notices.append)
    if checkpoint is not None and checkpoint["checksums"] != data.checksums:
        raise RunError(f"{args.resume}: was trained on other data than there is in {options['data_root']}")
    data, _, _ = data.part(settings["known_classes"], settings["hold_out"])
    if checkpoint is None:
        settings = complete(settings, args.settings, data, group)
    plan = {
        "settings": settings,
        "options": options,
        "checkpoint": checkpoint,
        "stop_after": args.stop_after,
        "path": args.resume,
    }
    group.agree(plan)
    run = group_run(group, data, **plan)

    if checkpoint is not None:
        print(f"{device_line}. Resuming {args.resume} after epoch {checkpoint['epoch']}")
        return run, RunLog(args.resume, data.name, checkpoint["sizes"])
    run.path = utils.make_run_directory(args.save_dir, run_name(settings), args.overwrite)
    utils.write_config(
        run.path,
        settings,
        options=options,
        dataset=describe(run.data),
        epochs=run.epochs,
        device=str(group.device),
        processes=group.size,
    )
    log = RunLog(run.path, data.name)
    greet(log, run, [device_line, f"Creating dataset: {data.name}", *notices])
    return run, log


def take_part(group: Group) -> Run:
    """Return the run that the first process prepares."""
    plan = group.agree(None)
    settings = plan["settings"]
    data = datasets.load(settings["dataset"], Path(plan["options"]["data_root"]))
    data, _, _ = data.part(settings["known_classes"], settings["hold_out"])
    return group_run(group, data, **plan)


def group_run(
    group: Group,
    data: Digits,
    settings: dict[str, Any],
    options: dict[str, Any],
    checkpoint: dict[str, Any] | None,
    stop_after: int | None,
    path: Path,
) -> Run:
    """Return the same run on its data in every process of the group: as the first has it."""
    if settings["deterministic"]:
        make_deterministic()
    torch.set_num_threads(settings.get("threads", torch.get_num_threads()))  # sums depend on it
    data = data.to(group.device)
    batches = Batches(data.train_images, data.train_labels, settings["batch_size"], settings["seed"], settings["shift"])
    trainer = build(settings, batches, len(data.classes), group)
    epochs, iterations = length_of_run(settings, len(batches))
    done, progress = 0, {}
    if checkpoint is not None:
        utils.load_state(trainer, checkpoint, path)
        utils.restore_random_states(checkpoint.get("random"))
        done, progress = checkpoint["epoch"], {key: checkpoint[key] for key in ("best", "elapsed")}
    last = min(epochs, stop_after or epochs)
    return Run(path, settings, options, data, batches, trainer, epochs, iterations, done + 1, last, **progress)


def build(settings: dict[str, Any], batches: Batches, num_classes: int, group: Group) -> Trainer:
    """Build network, head, losses, optimizers and schedules on the device, from the seed."""
    seed_everything(settings["seed"])
    network = build_network(settings, num_classes, autocast(settings["precision"], group.device))
    center_loss = CenterLoss(
        num_classes,
        settings["feat_dim"],
        update=settings["center_update"],
        weight=settings["weight_cent"],
        init=initial_centers(settings["center_init"], network.head.weight),
        exchange=False,  # over several processes each has the whole batch's features
    )
    for module in (network.model, network.head, center_loss):
        module.to(group.device)
    if group.device.type == "cpu" and settings["compile"] == "off":
        vectorize_prelu(network.model)
    spread = group.spread(network.model)
    return Trainer(
        **vars(network),
        spread=compiled(spread, settings["batch_size"], group.device) if settings["compile"] == "on" else spread,
        center_loss=center_loss,
        **build_optimizers(network.model, network.head, center_loss, settings, batches),
        clip=settings["clip"],
    )


def complete(settings: dict[str, Any], by_hand: dict[str, Any], data: Digits, group: Group) -> dict[str, Any]:
    """Return the settings with everything that was left open decided."""
    asked = settings["dataset"]
    settings = settings | resolve(settings["recipe"], data.name, by_hand)
    precision, why = choose_precision(settings["precision"], group.device)
    compile_, why_compile = choose_compile(settings["compile"], group.device)
    return settings | {
        "dataset": data.name,
        "asked_dataset": asked,
        "precision": precision,
        "asked_precision": settings["precision"],
        "precision_why": why,
        "compile": compile_,
        "asked_compile": settings["compile"],
        "compile_why": why_compile,
        "threads": torch.get_num_threads(),
    }


def run_name(settings: dict[str, Any]) -> str:
    """Return what a run's directory is called: its losses."""
    center = ["center"] if settings["weight_cent"] > 0 else []
    head = [] if settings["head"] == "softmax" and center else [settings["head"]]
    return "+".join(head + center)


def greet(log: RunLog, run: Run, first_lines: list[str]) -> None:
    """Log what is about to be trained."""
    settings, data = run.settings, run.data
    for line in first_lines:
        log(line)
    classes = "" if len(data.classes) == 10 else f" of the classes {', '.join(map(str, data.classes))}"
    held = f"; {settings['hold_out']} training images held out" if settings["hold_out"] else ""
    log(f"{len(data.train_labels)} training and {len(data.test_labels)} test images{classes}{held}")
    log(f"Creating model: {settings['model']} ({settings['feat_dim']}-D features, {settings['head']} head)")
    log(f"Recipe: {settings['recipe']}, seed {settings['seed']}")
    choices = (f"{key.title()}: {settings[key]}, {settings[f'{key}_why']}" for key in ("precision", "compile"))
    log(". ".join(choices))
    log(f"Loss = XentLoss + {settings['weight_cent']:g} * CenterLoss (centres: {settings['center_update']} update)")
    log(f"Run directory: {run.path}")


def describe(data: Digits) -> dict[str, Any]:
    """Return what config.json says of the data."""
    return {
        "name": data.name,
        "classes": list(data.classes),
        "train": len(data.train_labels),
        "test": len(data.test_labels),
        "md5": data.checksums,
    }
