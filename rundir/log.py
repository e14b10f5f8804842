"""``log_<dataset>.txt``, ``batches.csv`` and ``epochs.csv``, written while a run trains, and read back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

import numpy as np

from rundir.directory import PARTIAL, remove
from utils import UserError, naming, say

if TYPE_CHECKING:
    from torch import Tensor

    from training.building import Training
    from training.settings import Plan
    from training.trainer import Evaluation


class Log:
    """Writes nothing: for every process but the first."""

    def __call__(self, line: str) -> None: ...

    def row(self, key: str, values: tuple[Any, ...]) -> None: ...

    def close(self) -> None: ...


class RunLog(Log):
    """Writes lines to the screen and to ``log_<dataset>.txt``, and rows to the two CSV files.

    Args:
        directory: the run directory, locked by this process.
        dataset: name of the data set.
        sizes: for a resumed run, the number of bytes to keep of each file.
        tail: for a resumed run, the checkpoint's text to append to the kept part of each file.
        cut: whether to cut off the rest of a file; False if nothing is left to train.

    Raises:
        UserError: if a file is shorter than `sizes` says.
    """

    FILES: ClassVar = {"log": "log_{}.txt", "batches": "batches.csv", "epochs": "epochs.csv"}
    BATCHES = ("epoch", "batch", "loss", "loss_xent", "loss_center", "lr")
    EPOCHS = ("epoch", "train_loss", "test_loss", "test_accuracy", "seconds")

    def __init__(
        self,
        directory: Path,
        dataset: str,
        sizes: Mapping[str, int] | None = None,
        tail: Mapping[str, str] | None = None,
        cut: bool = True,
    ) -> None:
        self.files = {
            key: open(directory / name.format(dataset), "a", newline="", encoding="utf-8", errors="backslashreplace")
            for key, name in self.FILES.items()
        }
        self.tail: dict[str, str] = {}
        remove(directory, PARTIAL)
        if sizes is None:
            self.row("batches", self.BATCHES)
            self.row("epochs", self.EPOCHS)
            return
        for key, file in self.files.items():
            size = os.fstat(file.fileno()).st_size
            if size < sizes[key]:
                self.close()
                raise UserError(f"{file.name}: is shorter than when the checkpoint was written; restore it")
            if cut or size == sizes[key]:
                file.truncate(sizes[key])
                file.write((tail or {}).get(key, ""))

    def __call__(self, line: str) -> None:
        """Print a line and log it."""
        self._write("log", line + "\n")
        say(line)

    def row(self, key: str, values: tuple[Any, ...]) -> None:
        """Add a row to ``batches`` or ``epochs``."""
        self._write(key, ",".join(map(str, values)) + "\n")

    def _write(self, key: str, text: str) -> None:
        with naming(self.files[key].name):
            self.files[key].write(text)
            self.files[key].flush()

    def prepare_epoch(self, epoch: int, train_loss: float, test: Evaluation | None, seconds: float) -> None:
        """Prepare the lines about an epoch; `report_epoch` writes them once the checkpoint is on the disk. Without an
        evaluation of the test set its cells stay empty."""
        line, tested = "", ","
        if test is not None:
            line = f"Accuracy (%): {test.accuracy:.2f}\t Error rate (%): {100 - test.accuracy:.2f}\n"
            tested = f"{test.loss:.6g},{test.accuracy:.4f}"
        self.tail = {"log": line, "batches": "", "epochs": f"{epoch},{train_loss:.6g},{tested},{seconds:.2f}\n"}

    def report_epoch(self) -> None:
        """Write and print the prepared lines."""
        for key, text in self.tail.items():
            self._write(key, text)
        if self.tail.get("log"):
            say(self.tail["log"].rstrip("\n"))
        self.tail = {}

    def close(self) -> None:
        """Close the files, each even if another cannot be written to its end."""
        with contextlib.ExitStack() as closed:
            for file in self.files.values():
                closed.callback(_close, file)

    def sizes(self) -> dict[str, int]:
        """Write everything to the disk, and return the size of each file in bytes."""
        for file in self.files.values():
            with naming(file.name):
                file.flush()
                os.fsync(file.fileno())
        return {key: os.fstat(file.fileno()).st_size for key, file in self.files.items()}


def greet(log: RunLog, plan: Plan, training: Training, directory: Path, first_lines: list[str]) -> None:
    """Log the data, the model and the settings of a new run."""
    from training.class_order import order_around

    data, settings, why = training.data, plan.settings, plan.why
    for line in "\n".join(first_lines).splitlines():
        log(line)
    classes = "" if not settings.known_classes else f" of the classes {', '.join(map(str, data.classes))}"
    held = f"; {settings.hold_out} training images held out" if settings.hold_out else ""
    log(f"{len(data.train_labels)} training and {len(data.test_labels)} test images{classes}{held}")
    log(f"Creating model: {settings.model} ({settings.feat_dim}-D features, {settings.head} head)")
    log(f"Recipe: {settings.recipe}, seed {settings.seed}")
    if settings.class_order != "labels":
        order = (str(data.classes[k]) for k in order_around(training.trainer.head.weight.detach()))
        log(f"Classes around the circle: {' '.join(order)} ({settings.class_order})")
    log(
        f"Precision: {settings.precision}, {why['precision']}. Compile: {plan.compile}, {why['compile']}. "
        f"Convolutions: {plan.convolutions}, {why['convolutions']}"
    )
    log(f"Loss = XentLoss + {settings.weight_cent:g} * CenterLoss (centers: {settings.center_update} update)")
    log(f"Run directory: {directory}")


def _close(file: TextIO) -> None:
    with naming(file.name):
        file.close()


@dataclass
class LossMeter:
    """The losses of one epoch; they stay on the device, and are read and logged every `print_freq` batches."""

    log: Log
    epoch: int
    batches: int
    weight_cent: float
    print_freq: int
    pending: list[tuple[float, Tensor]] = field(default_factory=list)
    rows: list[tuple[float, ...]] = field(default_factory=list)  # of the batches that were read
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def add(self, lr: float, losses: Tensor) -> bool:
        """Add a batch's learning rate and (loss_xent, loss_center); return False if a loss is not finite."""
        import torch

        self.pending.append((lr, losses))
        batch = self.batch
        if batch % self.print_freq and batch != self.batches:
            return True
        values = torch.stack([losses for _, losses in self.pending]).cpu().double().numpy()
        for (lr, _), (loss_xent, loss_center) in zip(self.pending, values, strict=True):
            now = np.array([loss_xent + self.weight_cent * loss_center, loss_xent, loss_center])
            self.sums += now
            self.rows.append((*now, lr))
            self.log.row("batches", (self.epoch, len(self.rows), *(f"{value:.6g}" for value in self.rows[-1])))
            if not np.isfinite(now).all():
                return False
        self.pending.clear()
        if batch % self.print_freq == 0:
            terms = zip(("Loss", "XentLoss", "CenterLoss"), now, self.sums / batch, strict=True)
            line = " ".join(f"{name} {value:.6f} ({mean:.6f})" for name, value, mean in terms)
            self.log(f"Batch {batch}/{self.batches}\t {line}")
        return True

    @property
    def batch(self) -> int:
        """Number of batches added so far."""
        return len(self.rows) + len(self.pending)

    @property
    def mean_loss(self) -> float:
        """Mean total loss of the batches read so far."""
        return float(self.sums[0] / max(len(self.rows), 1))


# ---------------------------------------------------------------- read back


@dataclass(frozen=True)
class EpochRow:
    """A row of epochs.csv; a value that was not measured is nan."""

    epoch: int
    train_loss: float
    test_loss: float
    test_accuracy: float  # percent
    seconds: float  # of training alone


def read_epochs(path: Path) -> list[EpochRow]:
    """Return the rows of a run's epochs.csv, none if the file does not exist.

    Raises:
        UserError: if it is damaged.
    """
    file = path / "epochs.csv"
    if not file.is_file():
        return []
    try:
        header, *lines = file.read_text(encoding="utf-8").splitlines()
        names = header.split(",")
        rows = []
        for number, line in enumerate(lines, 1):
            cells = {key: float(cell or "nan") for key, cell in zip(names, line.split(","), strict=True)}
            rows.append(EpochRow(epoch=int(cells.pop("epoch")), **cells))
            if rows[-1].epoch != number:
                raise ValueError(f"line {number + 1} is of epoch {rows[-1].epoch}")
        return rows
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{file}: damaged: {str(error)[:200]}") from None


def last_batch(path: Path) -> tuple[int, int]:
    """Return epoch and batch in the last row but one of a run's batches.csv, zeros if there is none; the last row may
    be incomplete."""
    try:
        with open(path / "batches.csv", "rb") as file:
            file.seek(-min(200, os.fstat(file.fileno()).st_size), os.SEEK_END)
            epoch, batch, *_ = file.read().decode().splitlines()[-2].split(",")
        return int(epoch), int(batch)
    except (OSError, ValueError, IndexError):
        return 0, 0
