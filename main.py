"""Train LeNet++ on digits with softmax + center loss (Wen et al., ECCV 2016).

python main.py --gpu 0 --plot
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arguments import BASICS, OPTIONS, parse_arguments
from recipes import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from datasets import Batches, Digits
    from engine import Trainer
    from parallel import Group
    from utils import LossMeter, RunLog

# Torch is imported inside the functions, behind the parsing: --help and a bad flag answer at once.


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    if os.environ.get("RANK", "0") != "0":  # of the processes that torchrun starts the first one speaks
        sys.stdout = open(os.devnull, "w")
    args = parse_arguments(argv)
    if args.workers is not None:
        print("Note: --workers does nothing: the images lie on the device, there is nothing left for workers to do")
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a console without λ
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return report_errors(args)
    except KeyboardInterrupt as interrupt:
        print(f"\nInterrupted. {interrupt}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def report_errors(args: argparse.Namespace) -> int:
    """Train; turn what can go wrong into one line and an exit status."""
    import torch

    from datasets import DataError
    from engine import Diverged
    from utils import RunError

    try:
        train(args)
    except (RunError, DataError, ValueError) as error:
        print(f"main.py: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has left
        sys.stderr.close()
        return 1
    except OSError as error:  # a full disk, for one
        print(f"main.py: stopped: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError:
        print("main.py: error: the GPU's memory is full; try a smaller --batch-size", file=sys.stderr)
        return 1
    except Diverged as error:
        print(f"main.py: stopped: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not torch.distributed.is_initialized():
            raise
        reason = str(error).strip().splitlines()[0]
        print(f"main.py: stopped: process {os.environ['RANK']}: {reason}", file=sys.stderr)
        return 1
    return 0


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
        import utils

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


def train(args: argparse.Namespace) -> None:
    """Build a run, or take one up, and loop over its epochs."""
    from hardware import choose_device
    from parallel import Group

    device, device_line = choose_device(args.gpu, args.use_cpu)
    group = Group(device)
    try:
        if group.rank > 0:
            follow(take_part(group))
        else:
            lead(*prepare(args, group, device_line))
    finally:
        group.leave()


def lead(run: Run, log: RunLog) -> None:
    """Train, evaluate, log, draw and save, epoch by epoch."""
    import utils

    start = time.monotonic()
    options, data, trainer = run.options, run.data, run.trainer
    drawer = utils.Drawer(run.path, log)
    events = utils.Events(run.path) if options["tensorboard"] else None
    if options["plot"]:
        drawer.draw_missing()  # of a run that was cut off
    try:
        for epoch in range(run.first, run.last + 1):
            log(f"==> Epoch {epoch}/{run.epochs}")
            epoch_start = time.monotonic()
            meter = run_epoch(run, log, epoch)
            seconds = time.monotonic() - epoch_start

            test_loss = accuracy = None
            plot = options["plot"] and (epoch % options["plot_freq"] == 0 or epoch == run.last)
            if plot or epoch == run.last or epoch % options["eval_freq"] == 0:
                log("==> Test")
                test = trainer.evaluate(data.test_images, data.test_labels)
                test_loss, accuracy = test.loss, test.accuracy
                log(f"Accuracy (%): {accuracy:.2f}\t Error rate (%): {100 - accuracy:.2f}")
            log.epoch_row(epoch, meter.mean_loss, test_loss, accuracy, seconds)
            if events is not None:
                events.scalars(epoch, meter, test_loss, accuracy)
            if plot or epoch == run.last:
                train_set = trainer.evaluate(data.train_images, data.train_labels)
                utils.save_features(run.path, epoch, trainer.center_loss.centers, train=train_set, test=test)
            if plot:
                drawer.draw(epoch)

            better = accuracy is not None and accuracy > run.best
            run.best = max(run.best, accuracy if accuracy is not None else run.best)
            state = run.checkpoint(epoch, run.elapsed + time.monotonic() - start, log.sizes())
            if better:
                utils.save_checkpoint(run.path / "best.pt", state)
            utils.save_checkpoint(run.path / "checkpoint.pt", state)
        trained = run.first <= run.last
        if options["animate"] and run.last == run.epochs and (trained or not (run.path / "animation.gif").exists()):
            drawer.animate()
        if trained:
            log(f"Finished. Total elapsed time (h:m:s): {utils.hours(run.elapsed + time.monotonic() - start)}")
        if run.first > run.epochs:
            print(f"{run.path}: already finished, after epoch {run.epochs}")
        elif run.last < run.epochs:
            print(f"Stopped after epoch {max(run.last, run.first - 1)} of {run.epochs}. {utils.how_to_go_on(run.path)}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(utils.how_to_go_on(run.path)) from None
    finally:
        drawer.finish()
        if events is not None:
            events.close()
        log.close()


def follow(run: Run) -> None:
    """Take part in the training that the first process leads; write nothing."""
    for epoch in range(run.first, run.last + 1):
        for _ in run.trainer.train_epoch(run.batches_of(epoch)[0]):
            pass


def run_epoch(run: Run, log: RunLog, epoch: int) -> LossMeter:
    """Train one epoch; return its losses."""
    from engine import Diverged
    from utils import LossMeter, how_to_go_on, progress_bar

    batches, count = run.batches_of(epoch)
    meter = LossMeter(log, epoch, count, run.settings["weight_cent"], run.options["print_freq"])
    for lr, losses in progress_bar(run.trainer.train_epoch(batches), count, f"Epoch {epoch}/{run.epochs}"):
        if not meter.add(lr, losses):
            raise Diverged(
                f"the loss is not finite at batch {meter.count} of epoch {epoch}. Try a smaller --lr-model, "
                f"a smaller --weight-cent or --precision fp32. {how_to_go_on(run.path)}"
            )
    return meter


def prepare(args: argparse.Namespace, group: Group, device_line: str) -> tuple[Run, RunLog]:
    """Make a new run in a directory of its own, or take up the one that is to be resumed."""
    import datasets
    import utils

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
    if checkpoint is None:
        settings = complete(settings, args.settings, data, group)
    elif checkpoint["checksums"] != data.checksums:
        raise utils.RunError(f"{args.resume}: was trained on other data than there is in {options['data_root']}")
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
        return run, utils.RunLog(args.resume, data.name, checkpoint["sizes"])
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
    log = utils.RunLog(run.path, data.name)
    greet(log, run, [device_line, f"Creating dataset: {data.name}", *notices])
    return run, log


def take_part(group: Group) -> Run:
    """Return the run that the first process prepares."""
    import datasets

    plan = group.agree(None)
    data = datasets.load(plan["settings"]["dataset"], Path(plan["options"]["data_root"]))
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
    """Return the same run in every process of the group: as the first has it."""
    import torch

    import datasets
    import utils
    from engine import length_of_run
    from hardware import make_deterministic

    if settings["deterministic"]:
        make_deterministic()
    torch.set_num_threads(settings.get("threads", torch.get_num_threads()))  # sums depend on it
    if settings["known_classes"]:
        data = data.only(settings["known_classes"])
    if settings["hold_out"]:
        data, _, _ = data.hold_out(settings["hold_out"])
    data = data.to(group.device)
    batches = datasets.Batches(
        data.train_images, data.train_labels, settings["batch_size"], settings["seed"], settings["shift"]
    )
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
    from center_loss import CenterLoss
    from engine import Trainer, build_network, build_optimizers, initial_centers
    from hardware import autocast, compiled
    from utils import seed_everything

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
    spread = group.spread(network.model)
    return Trainer(
        **vars(network),
        spread=compiled(spread, settings["batch_size"]) if settings["compile"] == "on" else spread,
        center_loss=center_loss,
        **build_optimizers(network.model, network.head, center_loss, settings, batches),
        clip=settings["clip"],
    )


def complete(settings: dict[str, Any], by_hand: dict[str, Any], data: Digits, group: Group) -> dict[str, Any]:
    """Return the settings with everything that was left open decided."""
    import torch

    from engine import length_of_run
    from hardware import choose_compile, choose_precision

    asked = settings["dataset"]
    settings = settings | resolve(settings["recipe"], data.name, by_hand)
    precision, why = choose_precision(settings["precision"], group.device)
    _, iterations = length_of_run(settings, math.ceil(len(data.train_labels) / settings["batch_size"]))
    compile_, why_compile = choose_compile(settings["compile"], group.device, iterations, group.size)
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
    log(
        f"Precision: {settings['precision']}, {settings['precision_why']}. Compile: {settings['compile']}, {settings['compile_why']}"
    )
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


if __name__ == "__main__":
    sys.exit(main())
