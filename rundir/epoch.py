"""The files and figures of an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rundir import checkpoint
from rundir.drawing import Drawer
from rundir.events import Events
from rundir.features import sample_of, save_features
from rundir.log import Log, LossMeter, RunLog
from training.building import Training
from training.settings import Plan
from training.trainer import Evaluation, Network

MOST_IMAGES = 2_000  # of a set that are evaluated after a batch


def is_drawn(plan: Plan, epoch: int, last: bool) -> bool:
    """Return whether an epoch's figures are drawn."""
    return plan.plot and (epoch % plan.plot_freq == 0 or last)


def keep_epoch(
    directory: Path, plan: Plan, training: Training, log: RunLog, meter: LossMeter, seconds: float, last: bool
) -> Evaluation | None:
    """Evaluate, save features and checkpoint, then log the epoch; return the evaluation of the test set, or None if
    there was none."""
    data, trainer, epoch = training.data, training.trainer, training.epoch
    test, better, kept = None, False, last or is_drawn(plan, epoch, last)
    if kept or epoch % plan.eval_freq == 0:
        log("==> Test")
        test = trainer.evaluate(data.test_images, data.test_labels)
        better, training.best = test.accuracy > training.best, max(test.accuracy, training.best)
    if test is not None and kept:
        samples = {} if last else {"train": sample_of(len(data.train_labels))}
        train = evaluate_some(trainer, data.train_images, data.train_labels, samples.get("train"))
        centers, head = trainer.center_loss.centers, trainer.decision()
        save_features(directory, f"epoch_{epoch}", centers, head, samples, train=train, test=test)
    log.prepare_epoch(epoch, meter.mean_loss, test, seconds)
    checkpoint.keep(directory, plan, training, log, better)
    log.report_epoch()
    return test


def keep_batch(directory: Path, training: Training, batch: int) -> None:
    """Save the features of some training and test images after a batch of the first epoch."""
    data, trainer = training.data, training.trainer
    parts = {"train": (data.train_images, data.train_labels), "test": (data.test_images, data.test_labels)}
    samples = {part: sample_of(len(labels), MOST_IMAGES) for part, (_, labels) in parts.items()}
    found = {part: evaluate_some(trainer, *images, samples[part]) for part, images in parts.items()}
    save_features(directory, f"batch_{batch}", trainer.center_loss.centers, trainer.decision(), samples, **found)


def evaluate_some(network: Network, images: Tensor, labels: Tensor, sample: np.ndarray | None) -> Evaluation:
    """Return the network's results for a sample of the images, or for all if `sample` is None."""
    if sample is None:
        return network.evaluate(images, labels)
    some = torch.from_numpy(sample).to(labels.device)
    return network.evaluate(images[some], labels[some])


class Figures:
    """The figures, the film and the TensorBoard events that the plan of a run asks for, written while it trains.

    Args:
        directory: the run directory.
        plan: the run's plan.
        log: a `RunLog` in the process that writes; the others draw nothing.
        draw_epoch: a function of directory, epoch and ``regions`` (whether to shade them) that draws an epoch.
        film: a function of directory and ``regions`` that makes the film.
    """

    def __init__(
        self, directory: Path, plan: Plan, log: Log, draw_epoch: Callable[..., object], film: Callable[..., object]
    ) -> None:
        self.directory, self.plan = directory, plan
        self.film = partial(film, regions=plan.regions)
        writes, draw = isinstance(log, RunLog), partial(draw_epoch, regions=plan.regions)
        self.drawer = Drawer(directory, log, draw) if writes and plan.plot else None
        self.events = Events(directory) if writes and plan.tensorboard else None
        if self.drawer:
            self.drawer.draw_missing()  # a run that was cut off may have left some

    def add(self, training: Training, meter: LossMeter, test: Evaluation | None, last: bool) -> None:
        """Draw the epoch that has just ended if the plan says so, and write its TensorBoard events."""
        epoch = training.epoch
        if self.drawer and is_drawn(self.plan, epoch, last):
            self.drawer.draw(epoch)
        if self.events:
            self.events.scalars(epoch, (epoch - 1) * len(training.batches), meter, test)

    def add_batch(self, training: Training, epoch: int, batch: int) -> float:
        """Save features for the film at batches 1, 2, 4, 8, … of the first epoch; return how many seconds that took."""
        start = time.monotonic()
        if self.drawer and self.plan.animate and epoch == 1 and batch & (batch - 1) == 0:
            keep_batch(self.directory, training, batch)
        return time.monotonic() - start

    def animate(self, again: bool) -> None:
        """Make the film if the plan asks for it; with `again`, even if it exists."""
        if self.drawer and self.plan.animate and (again or not (self.directory / "animation.gif").exists()):
            self.drawer.animate(self.film)

    def close(self) -> None:
        """Wait until all files are written."""
        if self.drawer:
            self.drawer.close()
        if self.events:
            self.events.close()
