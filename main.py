"""Train LeNet++ on digits with softmax + center loss (Wen et al., ECCV 2016).

python main.py --gpu 0 --plot
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the loading of modules without a traceback

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -P leaves it out

from training.arguments import Request, parse_arguments

if __name__ == "__main__":
    REQUEST = parse_arguments()

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial

import datasets
from analysis.draw import draw_epoch, film
from rundir import checkpoint as checkpoints
from rundir.directory import Guard, check_save_dir, how_to_go_on, make_run_directory, refuse_links, run_name
from rundir.epoch import Figures, keep_epoch
from rundir.events import require_tensorboard
from rundir.log import Log, LossMeter, RunLog, greet
from rundir.network import data_root, same_data
from rundir.run import write_config
from training.building import Training, build_training
from training.hardware import choose_device, plan_for, plan_from
from training.parallel import Group
from training.settings import Plan
from training.trainer import Diverged
from utils import hours, progress_bar, run_command, say


def main(argv: list[str]) -> int:
    """Run a command line; return the exit status."""
    return run_command("main.py", partial(train, parse_arguments(argv)))


def train(request: Request) -> int:
    """Data → plan → training → run directory → epochs, in every process; only the first prints and writes."""
    for note in request.notes:
        say(note)
    device, device_line = choose_device(request.gpu, request.use_cpu)
    with ExitStack() as held, Group(device) as group:
        # The run to resume, if any; no other process may write in its directory.
        checkpoint = group.agree(partial(lock_and_load, request, held))

        # Data: verified, on the CPU.
        lines = [device_line]
        data = group.agree(partial(load_data, request, checkpoint, lines))

        # Plan: everything decided.
        decide = partial(plan_from, request, checkpoint.plan) if checkpoint else partial(plan_for, request, data.source)
        plan = group.agree(partial(decide, device))

        # Training: the same in every process.
        directory, log = request.resume or Path(), Log()
        if checkpoint:
            training = checkpoints.take_up(checkpoint, plan, data, group, directory)
        else:
            training = build_training(plan, data, group)

        # Run directory: a new one, or the one that is resumed.
        if group.rank == 0 and checkpoint:
            log = checkpoints.reopen(directory, checkpoint, plan, training, device_line, request.stop_after)
        elif group.rank == 0:
            guard = make_run_directory(request.save_dir, run_name(plan), request.overwrite)
            directory = held.enter_context(closing(guard)).directory
            unseen = sorted({*data.classes} - {*training.data.classes})
            write_config(directory, plan, training, unseen, device, group.size)
            log = RunLog(directory, data.name)
            greet(log, plan, training, directory, lines)
        with closing(log):
            try:
                train_epochs(plan, training, directory, log, request.stop_after, request.device_flags)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(how_to_go_on(directory, request.device_flags)) from None
    return 0


def train_epochs(
    plan: Plan, training: Training, directory: Path, log: Log, stop_after: int | None, device_flags: Sequence[str]
) -> None:
    """Train a run's remaining epochs; save and draw their results."""
    first, last = training.epoch + 1, min(training.epochs, stop_after or training.epochs)
    began = time.monotonic() - training.elapsed
    with closing(Figures(directory, plan, log, draw_epoch, film)) as figures:
        for epoch in range(first, last + 1):
            log(f"==> Epoch {epoch}/{training.epochs}")
            start, (steps, count) = time.monotonic(), training.steps(epoch)
            meter = LossMeter(log, epoch, count, plan.settings.weight_cent, plan.print_freq)
            for lr, losses in progress_bar(steps, count, f"Epoch {epoch}/{training.epochs}"):
                if not meter.add(lr, losses):
                    raise Diverged(epoch, len(meter.rows))
                start += figures.add_batch(training, epoch, meter.batch)  # which is no training
            training.epoch, training.elapsed = epoch, time.monotonic() - began
            if isinstance(log, RunLog):
                test = keep_epoch(directory, plan, training, log, meter, time.monotonic() - start, epoch == last)
                figures.add(training, meter, test, epoch == last)
        if last == training.epochs:
            figures.animate(again=first <= last)
    if first <= last == training.epochs:
        log(f"Finished. Total elapsed time (h:m:s): {hours(time.monotonic() - began)}")
    if training.epoch < training.epochs:
        go_on = how_to_go_on(directory, device_flags)
        say(f"Stopped after epoch {training.epoch} of {training.epochs}. {go_on}")


def lock_and_load(request: Request, held: ExitStack) -> checkpoints.Checkpoint | None:
    """Lock the run to resume and return its checkpoint; for a new run, check its directory and return None."""
    if request.plan.tensorboard:
        require_tensorboard()
    if request.resume is None:
        check_save_dir(request.save_dir, request.overwrite)
        return None
    refuse_links(request.resume)
    path = request.resume / "checkpoint.pt"
    if path.is_file():  # before it is read: another process may be writing it
        held.enter_context(closing(Guard(request.resume)))
    checkpoint = checkpoints.load_checkpoint(path)
    checkpoints.check_same_plan(request.resume, checkpoint.plan, request)
    return checkpoint


def load_data(request: Request, checkpoint: checkpoints.Checkpoint | None, lines: list[str]) -> datasets.Digits:
    """Return the whole data set of the new or resumed run; append notices about it to `lines`."""
    if checkpoint is None:
        data = datasets.load(request.plan.settings.dataset, Path(request.plan.data_root), lines.append)
        lines.insert(1, f"Creating dataset: {data.name}")
        return data
    root = Path(request.plan.data_root) if "data_root" in request.by_hand else data_root(checkpoint.plan)
    data = datasets.load(checkpoint.plan.settings.dataset, root, lines.append)
    return same_data(data, checkpoint.checksums, root, request.resume)


if __name__ == "__main__":
    sys.exit(run_command("main.py", partial(train, REQUEST)))
