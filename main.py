"""Train LeNet++ on digits with softmax + center loss (Wen et al., ECCV 2016).

python main.py --gpu 0 --plot
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from arguments import parse_arguments

if TYPE_CHECKING:
    from prepare import Run
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
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            raise
        reason = str(error).strip().splitlines()[0]
        print(f"main.py: stopped: process {os.environ['RANK']}: {reason}", file=sys.stderr)
        return 1
    return 0


def train(args: argparse.Namespace) -> None:
    """Build a run, or take one up, and loop over its epochs."""
    from hardware import choose_device
    from parallel import Group
    from prepare import prepare, take_part

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


if __name__ == "__main__":
    sys.exit(main())
