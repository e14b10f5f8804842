"""Random states, the run directory, logs, checkpoints, and drawing beside the training."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import platform
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from runs import kept_epochs

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")
FORMAT = 1  # of a checkpoint
HERE = Path(__file__).resolve().parent
# What a run writes; nothing else in its directory is ever touched.
RUN_FILES = (
    "config.json", "log_*.txt", "batches.csv", "epochs.csv", "checkpoint.pt", "best.pt", "events.out.*",
    "features/epoch_*.npz", "train/epoch_*.png", "test/epoch_*.png", "animation.gif", "animation.mp4",
)  # fmt: skip


class RunError(Exception):
    """A run that cannot start; the message is one line for the user."""


# ---------------------------------------------------------------- errors and randomness


def seed_everything(seed: int) -> None:
    """Seed the generators of Python and torch; no other is drawn from."""
    random.seed(seed)
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """Return the states of torch's generators. Training draws from none of them: order and shifts
    follow from seed and epoch."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def restore_random_states(states: dict[str, Any] | None) -> None:
    """Take up the states, as far as they and the devices are there."""
    if states is None:
        return
    torch.set_rng_state(states["cpu"])
    if torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])


# ---------------------------------------------------------------- the run directory


def check_save_dir(save_dir: Path | None, overwrite: bool) -> None:
    """Check, before anything is loaded or written, that a new run may go into `save_dir`.

    Raises:
        RunError: if it is a file, or holds a run and `overwrite` is not set.
    """
    if save_dir is None:
        return
    if save_dir.exists() and not save_dir.is_dir():
        raise RunError(f"--save-dir {save_dir}: is a file, name a folder")
    if not overwrite and any(any(save_dir.glob(pattern)) for pattern in RUN_FILES):
        go_on = f"continue it with --resume {save_dir}, " if (save_dir / "checkpoint.pt").exists() else ""
        raise RunError(
            f"--save-dir {save_dir}: already holds a run; {go_on}replace it with --overwrite, or name another folder"
        )


def make_run_directory(save_dir: Path | None, name: str, overwrite: bool) -> Path:
    """Make and return the directory of a new run, emptied of an old one if `overwrite`; without
    `save_dir` the first of ``log/name``, ``log/name-2``, … that is free.

    Raises:
        RunError: if it cannot be written, or has come to hold a run.
    """
    check_save_dir(save_dir, overwrite)
    try:
        if save_dir is None:
            return _free_directory(HERE / "log", name)
        save_dir.mkdir(parents=True, exist_ok=True)
        probe = save_dir / ".writable"
        probe.touch()
        probe.unlink()
        if overwrite:
            _empty(save_dir)
        return save_dir
    except OSError as error:
        raise RunError(f"{error.filename or save_dir}: cannot be written: {error.strerror}") from None


def _empty(path: Path) -> None:
    """Remove the run in a directory, unless it is being trained."""
    for log in path.glob("log_*.txt"):
        with open(log, "a") as stream:
            if not _lock(stream):
                raise RunError(f"--overwrite: another process is training in {path}")
    for pattern in RUN_FILES:
        for file in path.glob(pattern):
            file.unlink()


def _free_directory(parent: Path, name: str) -> Path:
    parent.mkdir(exist_ok=True)
    for number in itertools.count(1):
        path = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    raise AssertionError("itertools.count ends never")


def write_config(path: Path, settings: dict[str, Any], **more: Any) -> None:
    """Write config.json: command, settings, versions, machine, and `more`."""
    config = {
        "command": shlex.join(["python", *sys.argv]),
        "settings": settings,
        **more,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "machine": {"processor": processor_name(), "threads": torch.get_num_threads(), "cores": usable_cores()},
        "git_commit": _git_commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    with open(path / "config.json", "x", encoding="utf-8") as file:  # "x": two runs never share a directory
        file.write(json.dumps(config, indent=2) + "\n")


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git_commit() -> str | None:
    """Return the commit of this code, with ``-dirty`` if it has been changed since."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(HERE)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
        return commit + ("-dirty" if changed.stdout.strip() else "")
    return None


# ---------------------------------------------------------------- logs


def _lock(file: Any) -> bool:
    """Keep a file for this process until it is closed; False if another has it. Nothing where there is no flock."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


class RunLog:
    """Lines for the screen and for ``log_<dataset>.txt``, and the rows of the two CSV files.

    Args:
        path: the run directory.
        dataset: name of the data set.
        sizes: how much of each file to keep, in bytes, when a run is resumed.
    """

    BATCHES = ("epoch", "batch", "loss", "loss_xent", "loss_center", "lr")
    EPOCHS = ("epoch", "train_loss", "test_loss", "test_accuracy", "seconds")

    def __init__(self, path: Path, dataset: str, sizes: dict[str, int] | None = None) -> None:
        names = {"log": f"log_{dataset}.txt", "batches": "batches.csv", "epochs": "epochs.csv"}
        self.files = {key: open(path / name, "a", newline="", encoding="utf-8") for key, name in names.items()}
        if not _lock(self.files["log"]):
            self.close()
            raise RunError(f"{path}: another process is training here")
        for key, file in self.files.items():
            if sizes is not None:
                if os.fstat(file.fileno()).st_size < sizes[key]:
                    self.close()
                    raise RunError(f"{file.name}: is shorter than when the checkpoint was written")
                file.truncate(sizes[key])
        if sizes is None:
            self.row("batches", self.BATCHES)
            self.row("epochs", self.EPOCHS)

    def __call__(self, line: str) -> None:
        """Print a line and log it."""
        self.files["log"].write(line + "\n")
        self.files["log"].flush()
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def row(self, key: str, values: tuple[Any, ...]) -> None:
        """Add a row to ``batches`` or ``epochs``."""
        csv.writer(self.files[key], lineterminator="\n").writerow(values)

    def epoch_row(
        self, epoch: int, train_loss: float, test_loss: float | None, accuracy: float | None, seconds: float
    ) -> None:
        """Add an epoch's row; what was not evaluated is left empty."""
        losses = ["" if loss is None else f"{loss:.6g}" for loss in (train_loss, test_loss)]
        self.row("epochs", (epoch, *losses, "" if accuracy is None else f"{accuracy:.4f}", f"{seconds:.2f}"))

    def close(self) -> None:
        """Close the files; nothing can be logged any more."""
        for file in self.files.values():
            file.close()

    def sizes(self) -> dict[str, int]:
        """Return the size of each file in bytes, everything written to the disk."""
        for file in self.files.values():
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
            parts = zip(("Loss", "XentLoss", "CenterLoss"), now, self.sums / self.count, strict=True)
            line = " ".join(f"{name} {value:.6f} ({mean:.6f})" for name, value, mean in parts)
            self.log(f"Batch {batch}/{self.batches}\t {line}")
        return True

    @property
    def mean_loss(self) -> float:
        """Mean total loss of the batches read so far."""
        return float(self.sums[0] / max(self.count, 1))


def progress_bar(steps: Iterable[T], total: int, title: str, unit: str = "batch") -> Iterable[T]:
    """Return the same steps, with a bar on a terminal."""
    return tqdm(steps, desc=title, total=total, unit=unit, leave=False, disable=not sys.stderr.isatty())


def hours(seconds: float) -> str:
    """Return h:mm:ss."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation over runs; a single run has no deviation."""
    with np.errstate(invalid="ignore"):  # a number that a run lacks is nan
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def plus_minus(values: list[float], digits: int) -> str:
    """Return the same in words: mean ± standard deviation."""
    mean, spread = mean_and_spread(values)
    return f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def how_to_go_on(path: Path) -> str:
    """Return what to do about a run that has stopped early."""
    if (path / "checkpoint.pt").exists():
        return f"Continue with: python main.py --resume {shlex.quote(str(path))}"
    return "No epoch was finished, so there is nothing to continue; start again with --overwrite"


def require_tensorboard() -> None:
    """Raise RunError if TensorBoard's writer is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise RunError(f"--tensorboard needs the package tensorboard: pip install tensorboard ({error})") from None


class Events:
    """The same scalars and figures as TensorBoard events, in the run directory."""

    def __init__(self, path: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = path
        self.written = set(path.glob("*/epoch_*.png"))  # by an earlier part of the run
        self.writer: Any = SummaryWriter(str(path))

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
            figures = set((self.path / part).glob("epoch_*.png")) - self.written
            for figure in sorted(figures, key=lambda path: (len(path.name), path.name)):
                epoch = int(figure.stem.removeprefix("epoch_"))
                self.writer.add_image(f"features/{part}", imread(figure)[..., :3], epoch, dataformats="HWC")
        self.writer.close()


# ---------------------------------------------------------------- checkpoints and features


def write_safely(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that its name holds the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        if hasattr(os, "O_DIRECTORY"):  # the new name, too, is on the disk
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
    finally:
        partial.unlink(missing_ok=True)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    buffer = io.BytesIO()  # torch.save hides what a failing file says
    torch.save(state, buffer)
    write_safely(path, lambda file: file.write(buffer.getbuffer()))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, on the CPU; runs no code from the file.

    Raises:
        RunError: if there is none, or it is not one of ours.
    """
    if not path.is_file():
        raise RunError(f"{path}: no checkpoint here; a run writes its first after its first epoch")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes make it
        raise RunError(f"{path}: damaged or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("format"), int):
        raise RunError(f"{path}: not a checkpoint of main.py")
    if checkpoint["format"] != FORMAT:
        raise RunError(
            f"{path}: of format {checkpoint['format']}, and this version of main.py reads {FORMAT}: get one that fits"
        )
    return checkpoint


def load_state(trainer: Any, checkpoint: dict[str, Any], path: Path) -> None:
    """Load a checkpoint into an `engine.Trainer`, or into an `engine.Network`.

    Raises:
        RunError: if it does not fit.
    """
    try:
        trainer.load_state_dict(checkpoint)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{path}: the checkpoint does not fit this model ({str(error).splitlines()[0]})") from None


def check_same_settings(path: Path, settings: dict[str, Any], by_hand: dict[str, Any]) -> None:
    """Raise RunError if a flag given by hand contradicts the run that is to be continued."""
    wrong = []
    for key, value in by_hand.items():
        there = [settings.get(key), settings.get(f"asked_{key}")]
        if value not in there:
            flag = f"--{key.replace('_', '-')} {value}"
            wrong.append(f"{flag} (there: {there[0]})")
    if wrong:
        raise RunError(f"--resume {path}: the run was made with other settings, leave out: {', '.join(wrong)}")


def save_features(path: Path, epoch: int, centers: Tensor, **evaluations: Any) -> None:
    """Write ``features/epoch_N.npz`` from an `engine.Evaluation` each for ``train`` and ``test``."""
    arrays: dict[str, Any] = {"centers": centers.detach().float().cpu().numpy()}
    for key, evaluation in evaluations.items():
        arrays[f"{key}_features"] = evaluation.features.cpu().numpy().astype(np.float16)
        arrays[f"{key}_labels"] = evaluation.labels.cpu().numpy().astype(np.uint8)
        arrays[f"{key}_predictions"] = evaluation.predictions.cpu().numpy().astype(np.uint8)
        arrays[f"{key}_scores"] = evaluation.scores.float().cpu().numpy()
    (path / "features").mkdir(exist_ok=True)
    write_safely(path / "features" / f"epoch_{epoch}.npz", lambda file: np.savez_compressed(file, **arrays))


class Drawer:
    """Draws epochs in another process, one at a time, while training goes on."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        self.path = path
        self.log = log
        self.waiting: list[int] = []
        self.process: subprocess.Popen[str] | None = None

    def draw(self, epoch: int) -> None:
        """Have that epoch's figures drawn as soon as the drawing process is free."""
        self.waiting.append(epoch)
        if self.process is None or self.process.poll() is not None:
            self._collect()
            self._start()

    def draw_missing(self) -> None:
        """Have every epoch drawn whose features are kept and whose figures are not there."""
        for epoch in kept_epochs(self.path):
            if not all((self.path / part / f"epoch_{epoch}.png").exists() for part in ("train", "test")):
                self.draw(epoch)

    def finish(self) -> None:
        """Wait until every figure is there."""
        self._collect()
        if self.waiting:
            self._start()
            self._collect()

    def animate(self) -> None:
        """Have the film of all epochs made; it is there after `finish`."""
        self.finish()
        self._run("--animate")

    def _start(self) -> None:
        epochs, self.waiting = self.waiting, []
        self._run("--epochs", *map(str, epochs))

    def _run(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "plots.py"), str(self.path), *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C ends the training, not the figure that is being drawn
        )

    def _collect(self) -> None:
        if self.process is None:
            return
        _, errors = self.process.communicate()
        if self.process.returncode:
            lines = errors.strip().splitlines() or [f"exit status {self.process.returncode}"]
            self.log(f"A figure could not be drawn: {lines[-1]}")
        self.process = None
