"""Train LeNet++ on digits with softmax + center loss (Wen et al., ECCV 2016).

python main.py --gpu 0 --plot
"""

from __future__ import annotations

import os
import sys

from training.arguments import Request, parse_arguments

if __name__ == "__main__":
    if os.environ.get("RANK", "0") != "0":  # of the processes that torchrun starts the first one speaks
        sys.stdout = open(os.devnull, "w")
    REQUEST = parse_arguments()

import itertools
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

import datasets
import utils
from datasets import Digits
from rundir.directory import Guard, check_save_dir, keep_options, make_run_directory, refuse_links, write_config
from rundir.loading import Checkpoint, check_same_plan, load_checkpoint, load_state, restore_random_states
from rundir.reading import how_to_go_on, training_sample
from rundir.writing import (  # fmt: skip
    Drawer,
    Events,
    LossMeter,
    RunLog,
    random_states,
    require_tensorboard,
    save_checkpoint,
    save_features,
)
from training.building import Training, build_training
from training.hardware import choose_device, decide, precision_here
from training.order import order_around
from training.parallel import Group
from training.settings import Choice, Options, Plan, resolve, take
from training.trainer import Diverged
from utils import Interrupted, UserError, say


def main(argv: list[str]) -> int:
    """Run a command line; return the exit status."""
    return run(parse_arguments(argv))


def run(request: Request) -> int:
    """Train as asked for; return the exit status."""
    return utils.run_command("main.py", partial(train, request))


def train(request: Request) -> int:
    """Lead the training, or follow the process that does."""
    for note in request.notes:
        say(note)
    device, device_line = choose_device(request.gpu, request.use_cpu)
    group = Group(device)
    try:
        if group.rank == 0:
            with ExitStack() as held:
                lead(request, group, device_line, held)
        else:
            follow(group)
    finally:
        group.leave()
    return 0


@dataclass
class Session:
    """A run that trains from epoch `first` on: what the first process decides for all."""

    plan: Plan
    checkpoint: Checkpoint | None
    stop_after: int | None
    directory: Path = Path()
    best: float = -1.0
    elapsed: float = 0.0  # seconds, in earlier sessions

    def build(self, group: Group, data: Digits) -> Training:
        """Return what trains, from the seed or the checkpoint."""
        settings, note = self.plan.settings, None
        if self.checkpoint is not None:  # perhaps from another machine
            precision, note = precision_here(settings.precision, group.device)
            settings = replace(settings, precision=precision, class_order="labels")  # it is in the checkpoint
        if note is not None:
            say(note)
        training = build_training(replace(self.plan, settings=settings), data, group)
        if self.checkpoint is not None:
            load_state(training.trainer, self.checkpoint, self.directory)
            restore_random_states(self.checkpoint.states.get("random"))
            self.best, self.elapsed = self.checkpoint.best, self.checkpoint.elapsed
        self.first = self.checkpoint.epoch + 1 if self.checkpoint else 1
        self.last = min(training.epochs, self.stop_after or training.epochs)
        return training


def lead(request: Request, group: Group, device_line: str, held: ExitStack) -> None:
    """Settings → data → trainer → run directory → epochs. No other process may write in the directory until what
    is `held` is let go of."""
    # Settings: the recipe's and the flags', or those of the run that is taken up again.
    checkpoint = take_up(request, held)
    there = checkpoint.plan if checkpoint else None
    options = take(there.options, request.options, request.by_hand) if there else request.options
    if options.tensorboard:
        require_tensorboard()
    if there and options.regions and there.settings.feat_dim != 2:
        raise UserError(f"--regions: {request.resume} has {there.settings.feat_dim} features; the regions of two can be drawn")  # fmt: skip

    # Data: verified, on the CPU.
    notices: list[str] = []
    name = there.settings.dataset if there else request.settings.dataset
    data = datasets.load(name, Path(options.data_root), notices.append)
    if checkpoint and checkpoint.checksums != data.checksums:
        raise UserError(f"{request.resume}: was trained on other data than there is in {options.data_root}")

    # Trainer: the same in every process.
    plan = replace(there, options=options) if there else decided(request, options, data.source, group)
    session = group.agree(Session(plan, checkpoint, request.stop_after, request.resume or Path()))
    training = session.build(group, data)

    # Run directory: a new one, or the one that is resumed.
    if checkpoint:
        say(f"{device_line}. Resuming {session.directory} after epoch {checkpoint.epoch}")
        if session.first > training.epochs:
            say(f"{session.directory}: already finished, after epoch {training.epochs}")
        keep_options(session.directory, options)
        cut = session.first <= session.last
        log = RunLog(session.directory, data.name, checkpoint.sizes, checkpoint.tail, cut)
    else:
        guard = make_run_directory(request.save_dir, run_name(plan), request.overwrite)
        session.directory = held.enter_context(closing(guard)).directory
        write_config(session.directory, plan, training.data, training.epochs, group.device, group.size)
        log = RunLog(session.directory, data.name)
        greet(log, session, training, [device_line, f"Creating dataset: {data.name}", *notices])

    # Epochs.
    try:
        train_epochs(session, training, log)
    except KeyboardInterrupt:
        raise Interrupted(how_to_go_on(session.directory)) from None
    finally:
        log.close()


def follow(group: Group) -> None:
    """Take part in the training that the first process leads; write nothing."""
    session: Session = group.agree(None)
    data = datasets.load(session.plan.settings.dataset, Path(session.plan.options.data_root))
    training = session.build(group, data)
    for epoch in range(session.first, session.last + 1):
        for _ in training.steps(epoch)[0]:
            pass


def take_up(request: Request, held: ExitStack) -> Checkpoint | None:
    """Return the checkpoint of the run that is to be resumed, its directory held; check that a new run has a place."""
    if request.resume is None:
        check_save_dir(request.save_dir, request.overwrite)
        return None
    refuse_links(request.resume)
    path = request.resume / "checkpoint.pt"
    if path.is_file():  # before it is read: another process may be writing it
        held.enter_context(closing(Guard(request.resume)))
    checkpoint = load_checkpoint(path)
    free = {*vars(request.options)}  # may change
    asked = vars(request.settings) | vars(request.execution)
    check_same_plan(request.resume, checkpoint.plan, {name: asked[name] for name in sorted(request.by_hand - free)})
    return checkpoint


def decided(request: Request, options: Options, dataset: str, group: Group) -> Plan:
    """Return the plan of a new run, with everything that was left open decided."""
    settings = resolve(request.settings, request.by_hand, dataset)
    settings, execution, choices = decide(settings, request.execution, group.device, group.size)
    why = "as asked for" if request.settings.dataset == dataset else "MNIST first, else the digits that are here"
    choices["dataset"] = Choice(request.settings.dataset, why)
    return Plan(settings=settings, execution=execution, options=options, choices=choices)


def run_name(plan: Plan) -> str:
    """Return what a run's directory is called: its losses."""
    settings = plan.settings
    center = ["center"] if settings.weight_cent > 0 else []
    head = [] if settings.head == "softmax" and center else [settings.head]
    return "+".join(head + center)


def greet(log: RunLog, session: Session, training: Training, first_lines: list[str]) -> None:
    """Log what is about to be trained."""
    plan, data = session.plan, training.data
    settings = plan.settings
    for line in itertools.chain.from_iterable(map(str.splitlines, first_lines)):
        log(line)
    classes = "" if len(data.classes) == 10 else f" of the classes {', '.join(map(str, data.classes))}"
    held = f"; {settings.hold_out} training images held out" if settings.hold_out else ""
    log(f"{len(data.train_labels)} training and {len(data.test_labels)} test images{classes}{held}")
    log(f"Creating model: {settings.model} ({settings.feat_dim}-D features, {settings.head} head)")
    log(f"Recipe: {settings.recipe}, seed {settings.seed}")
    if settings.class_order != "labels":
        order = (str(data.classes[k]) for k in order_around(training.trainer.head.weight.detach()))
        log(f"Classes around the circle: {' '.join(order)} ({settings.class_order})")
    chosen = {"Precision": settings.precision, "Compile": plan.execution.compile, "Convolutions": plan.execution.convolutions}  # fmt: skip
    if data.test_labels.device.type == "cuda" or plan.choices["cuda_graph"].asked != "auto":
        chosen["CUDA graph"] = plan.execution.cuda_graph
    log(
        ". ".join(
            f"{name}: {what}, {plan.choices[name.lower().replace(' ', '_')].why}" for name, what in chosen.items()
        )
    )
    log(f"Loss = XentLoss + {settings.weight_cent:g} * CenterLoss (centers: {settings.center_update} update)")
    log(f"Run directory: {session.directory}")


def train_epochs(session: Session, training: Training, log: RunLog) -> None:
    """Train what is left of a run; draw, film and say what has become of it."""
    start = time.monotonic()
    options, directory = session.plan.options, session.directory
    drawer = Drawer(directory, log, options.regions)
    if training.graphed is not None:
        training.graphed.note = log
    events = Events(directory) if options.tensorboard else None
    if options.plot:
        drawer.draw_missing()  # of a run that was cut off
    try:
        for epoch in range(session.first, session.last + 1):
            log(f"==> Epoch {epoch}/{training.epochs}")
            meter, seconds = train_epoch(session, training, log, epoch)
            drawn = options.plot and (epoch % options.plot_freq == 0 or epoch == session.last)
            end_epoch(session, training, log, epoch, meter, seconds, drawn, start, events)
            if drawn:
                drawer.draw(epoch)
        trained = session.first <= session.last
        whole = session.last == training.epochs
        if options.animate and whole and (trained or not (directory / "animation.gif").exists()):
            drawer.animate()
        if trained and whole:
            log(f"Finished. Total elapsed time (h:m:s): {utils.hours(session.elapsed + time.monotonic() - start)}")
        if not whole:
            done = max(session.last, session.first - 1)
            say(f"Stopped after epoch {done} of {training.epochs}. {how_to_go_on(directory)}")
    finally:
        drawer.finish()
        if events is not None:
            events.close()


def train_epoch(session: Session, training: Training, log: RunLog, epoch: int) -> tuple[LossMeter, float]:
    """Train one epoch; return its losses and the seconds that it took."""
    start = time.monotonic()
    steps, count = training.steps(epoch)
    plan = session.plan
    meter = LossMeter(log, epoch, count, plan.settings.weight_cent, plan.options.print_freq)
    for lr, losses in utils.progress_bar(steps, count, f"Epoch {epoch}/{training.epochs}"):
        if not meter.add(lr, losses):
            raise Diverged(
                f"the loss is not finite at batch {meter.count} of epoch {epoch}. Try a smaller --lr-model, "
                f"a smaller --weight-cent or --precision fp32. {how_to_go_on(session.directory)}"
            )
    return meter, time.monotonic() - start


def end_epoch(
    session: Session, training: Training, log: RunLog, epoch: int, meter: LossMeter, seconds: float,
    drawn: bool, start: float, events: Events | None,
) -> None:  # fmt: skip
    """Evaluate, keep features and checkpoint, and, when they are on the disk, say how the epoch went."""
    data, trainer, directory = training.data, training.trainer, session.directory
    keep = drawn or epoch == session.last
    test_loss = accuracy = None
    if keep or epoch % session.plan.options.eval_freq == 0:
        log("==> Test")
        test = trainer.evaluate(data.test_images, data.test_labels)
        test_loss, accuracy = test.loss, test.accuracy
    if keep:
        sample = None if epoch == session.last else training_sample(len(data.train_labels))
        some = slice(None) if sample is None else torch.from_numpy(sample).to(data.train_labels.device)
        train_set = trainer.evaluate(data.train_images[some], data.train_labels[some])
        centers, head = trainer.center_loss.centers, trainer.decision()
        save_features(directory, epoch, centers, head, sample, train=train_set, test=test)
    log.prepare_epoch(epoch, meter.mean_loss, test_loss, accuracy, seconds)
    better = accuracy is not None and accuracy > session.best
    session.best = max(session.best, accuracy if accuracy is not None else session.best)
    state = trainer.state_dict() | session.plan.to_json() | {
        "random": random_states(), "checksums": data.checksums, "epoch": epoch, "best": session.best,
        "elapsed": session.elapsed + time.monotonic() - start, "sizes": log.sizes(), "tail": log.tail,
    }  # fmt: skip
    save_checkpoint(state, *([directory / "best.pt"] if better else []), directory / "checkpoint.pt")
    log.report_epoch()
    if events is not None:
        events.scalars(epoch, meter, test_loss, accuracy)


if __name__ == "__main__":
    sys.exit(run(REQUEST))
