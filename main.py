"""Train LeNet++ on digits with softmax + center loss (Wen et al., ECCV 2016).

python main.py --gpu 0 --plot
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arguments import BASICS, OPTIONS, parse_arguments
from recipes import resolve

if TYPE_CHECKING:
    import torch

    from datasets import Batches, Digits
    from engine import Trainer
    from utils import LossMeter, RunLog

# Torch is imported inside the functions, behind the parsing: --help and a bad flag answer at once.


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parse_arguments(argv)
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
    except OSError as error:
        print(f"main.py: error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError:
        print("main.py: error: the GPU's memory is full; try a smaller --batch-size", file=sys.stderr)
        return 1
    except Diverged as error:
        print(f"main.py: stopped: {error}", file=sys.stderr)
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
    log: RunLog
    epochs: int
    iterations: int
    first: int = 1
    best: float = -1.0
    elapsed: float = 0.0

    def checkpoint(self, epoch: int, elapsed: float) -> dict[str, Any]:
        """Return what it takes to go on after that epoch."""
        return self.trainer.state_dict() | {
            "format": 1,
            "settings": self.settings,
            "options": self.options,
            "checksums": self.data.checksums,
            "epoch": epoch,
            "best": self.best,
            "elapsed": elapsed,
            "sizes": self.log.sizes(),
        }


def train(args: argparse.Namespace) -> None:
    """Build a run, or take one up, and loop over its epochs."""
    import utils

    start = time.monotonic()
    run = prepare(args)
    log, options, data, trainer = run.log, run.options, run.data, run.trainer
    drawer = utils.Drawer(run.path, log)
    events = utils.Events(run.path) if options["tensorboard"] else None
    last = min(run.epochs, args.stop_after or run.epochs)
    if options["plot"]:
        drawer.draw_missing()  # of a run that was cut off
    try:
        for epoch in range(run.first, last + 1):
            log(f"==> Epoch {epoch}/{run.epochs}")
            epoch_start = time.monotonic()
            meter = run_epoch(run, epoch)
            seconds = time.monotonic() - epoch_start

            test_loss = accuracy = None
            plot = options["plot"] and (epoch % options["plot_freq"] == 0 or epoch == last)
            if plot or epoch == last or epoch % options["eval_freq"] == 0:
                log("==> Test")
                test = trainer.evaluate(data.test_images, data.test_labels)
                test_loss, accuracy = test.loss, test.accuracy
                log(f"Accuracy (%): {accuracy:.2f}\t Error rate (%): {100 - accuracy:.2f}")
            log.epoch_row(epoch, meter.mean_loss, test_loss, accuracy, seconds)
            if events is not None:
                events.scalars(epoch, meter, test_loss, accuracy)
            if plot or epoch == last:
                train_set = trainer.evaluate(data.train_images, data.train_labels)
                utils.save_features(run.path, epoch, trainer.center_loss.centers, train=train_set, test=test)
            if plot:
                drawer.draw(epoch)

            better = accuracy is not None and accuracy > run.best
            run.best = max(run.best, accuracy if accuracy is not None else run.best)
            state = run.checkpoint(epoch, run.elapsed + time.monotonic() - start)
            if better:
                utils.save_checkpoint(run.path / "best.pt", state)
            utils.save_checkpoint(run.path / "checkpoint.pt", state)
        if run.first <= last:
            log(f"Finished. Total elapsed time (h:m:s): {utils.hours(run.elapsed + time.monotonic() - start)}")
        if run.first > run.epochs:
            print(f"{run.path}: already finished, after epoch {run.epochs}")
        elif last < run.epochs:
            print(f"Stopped after epoch {max(last, run.first - 1)} of {run.epochs}. {utils.how_to_go_on(run.path)}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(utils.how_to_go_on(run.path)) from None
    finally:
        drawer.finish()
        if events is not None:
            events.close()
        log.close()


def run_epoch(run: Run, epoch: int) -> LossMeter:
    """Train one epoch, the last one perhaps cut short; return its losses."""
    from engine import Diverged
    from utils import LossMeter, how_to_go_on, progress_bar

    count = min(len(run.batches), run.iterations - (epoch - 1) * len(run.batches))
    meter = LossMeter(run.log, epoch, count, run.settings["weight_cent"], run.options["print_freq"])
    steps = run.trainer.train_epoch(itertools.islice(run.batches.epoch(epoch), count))
    for lr, losses in progress_bar(steps, count, f"Epoch {epoch}/{run.epochs}"):
        if not meter.add(lr, losses):
            raise Diverged(
                f"the loss is not finite at batch {meter.count} of epoch {epoch}. Try a smaller --lr-model, "
                f"a smaller --weight-cent or --precision fp32. {how_to_go_on(run.path)}"
            )
    return meter


def prepare(args: argparse.Namespace) -> Run:
    """Make a new run in a directory of its own, or take up the one that is to be resumed."""
    import datasets
    import utils
    from engine import length_of_run

    device, device_line = utils.choose_device(args.gpu, args.use_cpu)
    checkpoint = utils.load_checkpoint(args.resume / "checkpoint.pt") if args.resume else None
    if checkpoint is None:
        utils.check_save_dir(args.save_dir, args.overwrite)
        settings, options = BASICS | args.settings, OPTIONS | args.options
    else:
        settings, options = checkpoint["settings"], checkpoint["options"] | args.options
        utils.check_same_settings(args.resume, settings, args.settings)
    if options["tensorboard"]:
        utils.require_tensorboard()

    notices: list[str] = []
    data = datasets.load(settings["dataset"], Path(options["data_root"]), notices.append)
    if checkpoint is None:
        settings = complete(settings, args.settings, data.name, device)
    elif checkpoint["checksums"] != data.checksums:
        raise utils.RunError(f"{args.resume}: was trained on other data than there is in {options['data_root']}")
    if settings["known_classes"]:
        data = data.only(settings["known_classes"])
    data = data.to(device)
    batches = datasets.Batches(
        data.train_images, data.train_labels, settings["batch_size"], settings["seed"], settings["shift"]
    )
    trainer = build(settings, batches, len(data.classes), device)
    epochs, iterations = length_of_run(settings, len(batches))

    if checkpoint is not None:
        utils.load_state(trainer, checkpoint, args.resume)
        print(f"{device_line}. Resuming {args.resume} after epoch {checkpoint['epoch']}")
        log = utils.RunLog(args.resume, data.name, checkpoint["sizes"])
        rest = checkpoint["epoch"] + 1, checkpoint["best"], checkpoint["elapsed"]
        return Run(args.resume, settings, options, data, batches, trainer, log, epochs, iterations, *rest)
    path = utils.make_run_directory(args.save_dir, run_name(settings), args.overwrite)
    utils.write_config(path, settings, options=options, dataset=describe(data), epochs=epochs, device=str(device))
    log = utils.RunLog(path, data.name)
    greet(log, path, settings, data, [device_line, f"Creating dataset: {data.name}", *notices])
    return Run(path, settings, options, data, batches, trainer, log, epochs, iterations)


def build(settings: dict[str, Any], batches: Batches, num_classes: int, device: torch.device) -> Trainer:
    """Build network, head, losses, optimizers and schedules on the device, from the seed."""
    from center_loss import CenterLoss
    from engine import Trainer, build_network, build_optimizers, initial_centers
    from utils import autocast, seed_everything

    seed_everything(settings["seed"])
    network = build_network(settings, num_classes, autocast(settings["precision"], device))
    center_loss = CenterLoss(
        num_classes,
        settings["feat_dim"],
        update=settings["center_update"],
        weight=settings["weight_cent"],
        init=initial_centers(settings["center_init"], network.head.weight),
    )
    for module in (network.model, network.head, center_loss):
        module.to(device)
    return Trainer(
        **vars(network),
        center_loss=center_loss,
        **build_optimizers(network.model, network.head, center_loss, settings, batches),
        clip=settings["clip"],
    )


def complete(settings: dict[str, Any], by_hand: dict[str, Any], dataset: str, device: torch.device) -> dict[str, Any]:
    """Return the settings with everything that was left open decided."""
    from utils import choose_precision

    asked = settings["dataset"]
    settings = settings | resolve(settings["recipe"], dataset, by_hand)
    precision, why = choose_precision(settings["precision"], device)
    return settings | {
        "dataset": dataset,
        "asked_dataset": asked,
        "precision": precision,
        "asked_precision": settings["precision"],
        "precision_why": why,
    }


def run_name(settings: dict[str, Any]) -> str:
    """Return what a run's directory is called: its losses."""
    center = ["center"] if settings["weight_cent"] > 0 else []
    head = [] if settings["head"] == "softmax" and center else [settings["head"]]
    return "+".join(head + center)


def greet(log: RunLog, path: Path, settings: dict[str, Any], data: Digits, first_lines: list[str]) -> None:
    """Log what is about to be trained."""
    for line in first_lines:
        log(line)
    classes = "" if len(data.classes) == 10 else f" of the classes {', '.join(map(str, data.classes))}"
    log(f"{len(data.train_labels)} training and {len(data.test_labels)} test images{classes}")
    log(f"Creating model: {settings['model']} ({settings['feat_dim']}-D features, {settings['head']} head)")
    log(f"Recipe: {settings['recipe']}, seed {settings['seed']}")
    log(f"Precision: {settings['precision']}, {settings['precision_why']}")
    log(f"Loss = XentLoss + {settings['weight_cent']:g} * CenterLoss (centres: {settings['center_update']} update)")
    log(f"Run directory: {path}")


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
