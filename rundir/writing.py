"""What a run leaves while it trains: log, CSV files, checkpoints, features, and figures drawn beside it."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rundir.directory import PARTIAL, remove
from rundir.reading import kept_epochs
from training.trainer import Evaluation
from utils import HERE, UserError, naming, say, usable_cores, whole

FORMAT = 2  # of a checkpoint; 1 had no tail, and the settings in one dictionary


class RunLog:
    """Lines for the screen and for ``log_<dataset>.txt``, and the rows of the two CSV files.

    Args:
        directory: the run directory, which this process has for itself.
        dataset: name of the data set.
        sizes: how much of each file to keep, in bytes, when a run is resumed.
        tail: what the checkpoint says comes after that, by file.
        cut: whether what comes after that is cut off; not where there is nothing left to train.
    """

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
        names = {"log": f"log_{dataset}.txt", "batches": "batches.csv", "epochs": "epochs.csv"}
        self.files = {
            key: open(directory / name, "a", newline="", encoding="utf-8", errors="backslashreplace")
            for key, name in names.items()
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
                raise UserError(f"{file.name}: is shorter than when the checkpoint was written")
            if cut or size == sizes[key]:
                file.truncate(sizes[key])
                file.write((tail or {}).get(key, ""))

    def __call__(self, line: str) -> None:
        """Print a line and log it."""
        self._write("log", line + "\n")
        say(line)

    def row(self, key: str, values: tuple[Any, ...]) -> None:
        """Add a row to ``batches`` or ``epochs``."""
        with naming(self.files[key].name):
            csv.writer(self.files[key], lineterminator="\n").writerow(values)

    def _write(self, key: str, text: str) -> None:
        with naming(self.files[key].name):
            self.files[key].write(text)
            self.files[key].flush()

    def prepare_epoch(
        self, epoch: int, train_loss: float, test_loss: float | None, accuracy: float | None, seconds: float
    ) -> None:
        """Take what there is to say of an epoch; it is said by `report_epoch`, when its checkpoint is on the
        disk. What was not evaluated is left empty."""
        losses = ["" if loss is None else f"{loss:.6g}" for loss in (train_loss, test_loss)]
        cells = (str(epoch), *losses, "" if accuracy is None else f"{accuracy:.4f}", f"{seconds:.2f}")
        line = "" if accuracy is None else f"Accuracy (%): {accuracy:.2f}\t Error rate (%): {100 - accuracy:.2f}\n"
        self.tail = {"log": line, "batches": "", "epochs": ",".join(cells) + "\n"}

    def report_epoch(self) -> None:
        """Write and print what was prepared."""
        for key, text in self.tail.items():
            self._write(key, text)
        if self.tail.get("log"):
            say(self.tail["log"].rstrip("\n"))
        self.tail = {}

    def close(self) -> None:
        """Close the files; nothing can be logged any more."""
        for file in self.files.values():
            file.close()

    def sizes(self) -> dict[str, int]:
        """Return the size of each file in bytes, everything written to the disk."""
        for file in self.files.values():
            with naming(file.name):
                file.flush()
                os.fsync(file.fileno())
        return {key: os.fstat(file.fileno()).st_size for key, file in self.files.items()}


class LossMeter:
    """The losses of one epoch: kept on the device, read and logged every `print_freq` batches."""

    def __init__(self, log: RunLog, epoch: int, batches: int, weight_cent: float, print_freq: int) -> None:
        self.log = log
        self.epoch = epoch
        self.batches = batches
        self.weight_cent = weight_cent
        self.print_freq = print_freq
        self.pending: list[tuple[float, Tensor]] = []
        self.rows: list[tuple[float, ...]] = []
        self.count = 0
        self.sums = np.zeros(3)

    def add(self, lr: float, losses: Tensor) -> bool:
        """Take a batch's learning rate and (loss_xent, loss_center); False if one is not finite."""
        self.pending.append((lr, losses))
        batch = self.count + len(self.pending)
        if batch % self.print_freq and batch != self.batches:
            return True
        values = torch.stack([losses for _, losses in self.pending]).cpu().double().numpy()
        for (lr, _), (loss_xent, loss_center) in zip(self.pending, values, strict=True):
            now = np.array([loss_xent + self.weight_cent * loss_center, loss_xent, loss_center])
            self.count += 1
            self.sums += now
            self.rows.append((*now, lr))
            self.log.row("batches", (self.epoch, self.count, *(f"{value:.6g}" for value in self.rows[-1])))
            if not np.isfinite(now).all():
                return False
        self.pending.clear()
        if batch % self.print_freq == 0:
            terms = zip(("Loss", "XentLoss", "CenterLoss"), now, self.sums / self.count, strict=True)
            line = " ".join(f"{name} {value:.6f} ({mean:.6f})" for name, value, mean in terms)
            self.log(f"Batch {batch}/{self.batches}\t {line}")
        return True

    @property
    def mean_loss(self) -> float:
        """Mean total loss of the batches read so far."""
        return float(self.sums[0] / max(self.count, 1))


def require_tensorboard() -> None:
    """Raise UserError if TensorBoard's writer is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(f"--tensorboard needs the package tensorboard: pip install tensorboard ({error})") from None


class Events:
    """The same scalars and figures as TensorBoard events, in the run directory."""

    def __init__(self, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.directory = directory
        self.written = set(directory.glob("*/epoch_*.png"))  # by an earlier session of the run
        self.writer: Any = SummaryWriter(str(directory))

    def scalars(self, epoch: int, meter: LossMeter, test_loss: float | None, accuracy: float | None) -> None:
        """Write an epoch's figures."""
        for batch, row in enumerate(meter.rows, 1):
            for name, value in zip(RunLog.BATCHES[2:], row, strict=True):
                self.writer.add_scalar(f"batch/{name}", value, (epoch - 1) * meter.batches + batch)
        self.writer.add_scalar("epoch/train_loss", meter.mean_loss, epoch)
        if test_loss is not None:
            self.writer.add_scalar("epoch/test_loss", test_loss, epoch)
            self.writer.add_scalar("epoch/test_accuracy", accuracy, epoch)
        self.writer.flush()

    def close(self) -> None:
        """Write the scatters that were drawn as images, and close."""
        from matplotlib.image import imread

        for part in ("train", "test"):
            figures = set((self.directory / part).glob("epoch_*.png")) - self.written
            for figure in sorted(figures, key=lambda path: (len(path.name), path.name)):
                epoch = int(figure.stem.removeprefix("epoch_"))
                self.writer.add_image(f"features/{part}", imread(figure)[..., :3], epoch, dataformats="HWC")
        self.writer.close()


def save_checkpoint(state: dict[str, Any], *paths: Path) -> None:
    """Write a checkpoint under each of the names, whole or not at all."""
    buffer = io.BytesIO()  # torch.save hides what a failing file says
    torch.save(state | {"format": FORMAT}, buffer)
    for path in paths:
        with whole(path) as unfinished:
            unfinished.write_bytes(buffer.getbuffer())


def random_states() -> dict[str, Any]:
    """Return the states of torch's generators. Training draws from none of them: order and shifts
    follow from seed and epoch."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def save_features(
    directory: Path, epoch: int, centers: Tensor, head: Tensor, sample: np.ndarray | None, **evaluations: Evaluation
) -> None:
    """Write ``features/epoch_N.npz`` from an evaluation each of ``train`` and ``test``, and the `head`'s
    decision; `sample` says which of the training images were evaluated, where not all were."""
    arrays: dict[str, Any] = {
        "centers": centers.detach().float().cpu().numpy(),
        "head": head.detach().float().cpu().numpy(),
    }
    if sample is not None:
        arrays["train_sample"] = sample.astype(np.int32)
    for key, evaluation in evaluations.items():
        arrays[f"{key}_features"] = evaluation.features.cpu().numpy().astype(np.float16)
        arrays[f"{key}_labels"] = evaluation.labels.cpu().numpy().astype(np.uint8)
        arrays[f"{key}_predictions"] = evaluation.predictions.cpu().numpy().astype(np.uint8)
        arrays[f"{key}_scores"] = evaluation.scores.float().cpu().numpy()
    (directory / "features").mkdir(exist_ok=True)
    with whole(directory / "features" / f"epoch_{epoch}.npz") as unfinished, open(unfinished, "wb") as file:
        np.savez_compressed(file, **arrays)


class Drawer:
    """Draws epochs in another process that gives way to the training, and what is left at the end in as many
    processes as there are cores."""

    def __init__(self, directory: Path, log: Callable[[str], None], regions: bool = False) -> None:
        self.directory = directory
        self.log = log
        self.flags = ["--regions"] if regions else []
        self.waiting: list[int] = []
        self.processes: list[subprocess.Popen[str]] = []

    def draw(self, epoch: int) -> None:
        """Have that epoch's figures drawn as soon as the drawing process is free."""
        self.waiting.append(epoch)
        if all(process.poll() is not None for process in self.processes):
            self._collect()
            self._run("--give-way", "--epochs", *map(str, self.waiting))
            self.waiting = []

    def draw_missing(self) -> None:
        """Have every epoch drawn whose features are kept and whose figures are not there."""
        for epoch in kept_epochs(self.directory):
            if not all((self.directory / part / f"epoch_{epoch}.png").exists() for part in ("train", "test")):
                self.draw(epoch)

    def finish(self) -> None:
        """Wait until every figure is there."""
        count = min(usable_cores(), len(self.waiting))
        for turn in range(count):
            self._run("--epochs", *map(str, self.waiting[turn::count]))
        self.waiting = []
        self._collect()

    def animate(self) -> None:
        """Have the film of all epochs made; it is there after `finish`."""
        self.finish()
        self._run("--animate")

    def _run(self, *flags: str) -> None:
        path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, "-m", "analysis.draw", str(self.directory.resolve()), *self.flags, *flags],
            cwd=HERE,  # -m puts it first among the places of modules: another utils.py may lie where we are
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C ends the training, not the figure that is being drawn
        )
        self.processes.append(process)

    def _collect(self) -> None:
        for process in self.processes:
            _, errors = process.communicate()
            if process.returncode:
                lines = errors.strip().splitlines() or [f"exit status {process.returncode}"]
                self.log(f"A figure could not be drawn: {lines[-1]}")
        self.processes = []
