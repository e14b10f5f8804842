"""What a run keeps and draws after each epoch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from rundir import checkpoint
from rundir.drawing import Drawer
from rundir.events import Events
from rundir.features import save_features, training_sample
from rundir.log import LossMeter, RunLog, Silent
from training.building import Training
from training.settings import Plan
from training.trainer import Evaluation


def is_drawn(plan: Plan, epoch: int, last: bool) -> bool:
    """Return whether an epoch's figures are drawn."""
    return plan.plot and (epoch % plan.plot_freq == 0 or last)


def keep_epoch(
    directory: Path, plan: Plan, training: Training, log: RunLog, meter: LossMeter, seconds: float, last: bool
) -> Evaluation | None:
    """Evaluate, save features and checkpoint, then log the epoch; return the evaluation of the test set, or None if
    this epoch is not evaluated."""
    data, trainer, epoch = training.data, training.trainer, training.epoch
    test = None
    if last or is_drawn(plan, epoch, last) or epoch % plan.eval_freq == 0:
        log("==> Test")
        test = trainer.evaluate(data.test_images, data.test_labels)
    if test is not None and (last or is_drawn(plan, epoch, last)):
        sample = None if last else training_sample(len(data.train_labels))
        some = slice(None) if sample is None else torch.from_numpy(sample).to(data.train_labels.device)
        train = trainer.evaluate(data.train_images[some], data.train_labels[some])
        centers, head = trainer.center_loss.centers, trainer.decision()
        save_features(directory, epoch, centers, head, sample, train=train, test=test)
    loss, accuracy = (None, None) if test is None else (test.loss, test.accuracy)
    log.prepare_epoch(epoch, meter.mean_loss, loss, accuracy, seconds)
    better = accuracy is not None and accuracy > training.best
    if accuracy is not None and better:
        training.best = accuracy
    checkpoint.keep(directory, plan, training, log, better)
    log.report_epoch()
    return test


class Figures:
    """The figures, the film and the TensorBoard events of a run while it trains, those that the plan asks for.

    Args:
        directory: the run directory.
        plan: says what is asked for.
        log: a `RunLog` in the process that writes; the others draw nothing.
        draw_epoch: draws an epoch, given the directory, the epoch, and whether with regions.
        film: makes the film, given the directory, and whether with regions.
    """

    def __init__(
        self,
        directory: Path,
        plan: Plan,
        log: Silent,
        draw_epoch: Callable[..., object],
        film: Callable[..., object],
    ) -> None:
        self.directory, self.plan = directory, plan
        writes = isinstance(log, RunLog)
        self.film = partial(film, regions=plan.regions)
        self.drawer = (
            Drawer(directory, log, partial(draw_epoch, regions=plan.regions)) if writes and plan.plot else None
        )
        self.events = Events(directory) if writes and plan.tensorboard else None
        if self.drawer:
            self.drawer.draw_missing()  # of a run that was cut off

    def add(self, epoch: int, meter: LossMeter, test: Evaluation | None, last: bool) -> None:
        """Draw an epoch if it is its turn, and write its scalars."""
        if self.drawer and is_drawn(self.plan, epoch, last):
            self.drawer.draw(epoch)
        if self.events:
            self.events.scalars(epoch, meter, test)

    def animate(self, again: bool) -> None:
        """Make the film if the plan asks for it; `again` even if the file exists."""
        if self.drawer and self.plan.animate and (again or not (self.directory / "animation.gif").exists()):
            self.drawer.animate(self.film)

    def close(self) -> None:
        """Wait until all files are written."""
        if self.drawer:
            self.drawer.close()
        if self.events:
            self.events.close()
