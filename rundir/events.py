"""The losses, accuracies and figures of a run as TensorBoard events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rundir.log import LossMeter, RunLog
from training.trainer import Evaluation
from utils import UserError


def require_tensorboard() -> Any:
    """Return the class of TensorBoard's writer; raise UserError if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(f"--tensorboard needs the package tensorboard: pip install tensorboard ({error})") from None
    return SummaryWriter


class Events:
    """Writes a run's TensorBoard events into the run directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.written = set(directory.glob("*/epoch_*.png"))  # before the run was resumed
        self.writer: Any = require_tensorboard()(str(directory))

    def scalars(self, epoch: int, before: int, meter: LossMeter, test: Evaluation | None) -> None:
        """Write the numbers of an epoch and its batches; `before` counts the batches of the epochs before it."""
        for batch, row in enumerate(meter.rows, 1):
            for name, value in zip(RunLog.BATCHES[2:], row, strict=True):
                self.writer.add_scalar(f"batch/{name}", value, before + batch)
        self.writer.add_scalar("epoch/train_loss", meter.mean_loss, epoch)
        if test is not None:
            self.writer.add_scalar("epoch/test_loss", test.loss, epoch)
            self.writer.add_scalar("epoch/test_accuracy", test.accuracy, epoch)
        self.writer.flush()

    def close(self) -> None:
        """Write the new scatter plots as images, and close."""
        from matplotlib.image import imread

        for part in ("train", "test"):
            figures = set((self.directory / part).glob("epoch_*.png")) - self.written
            for figure in sorted(figures, key=lambda path: (len(path.name), path.name)):
                epoch = int(figure.stem.removeprefix("epoch_"))
                self.writer.add_image(f"features/{part}", imread(figure)[..., :3], epoch, dataformats="HWC")
        self.writer.close()
