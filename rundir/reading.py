"""What a run directory holds, read back and checked: nothing here needs torch.

A run directory may come from a stranger: sizes and shapes are looked at before anything is read.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import datasets
from training.settings import Plan, Settings, plan_from_json
from utils import UserError, command_line

LARGEST_JSON = 1 << 20  # bytes
LARGEST_ARRAYS = 1 << 30
LARGEST_SAMPLE = 60_000  # training images


@dataclass(frozen=True)
class Record:
    """What a run's config.json says."""

    command: str
    plan: Plan
    dataset: str
    classes: tuple[int, ...]  # the original label of each class
    train: int  # images
    test: int
    checksums: Mapping[str, str]
    epochs: int
    made_on: str  # machine, versions, precision


@dataclass(eq=False)
class Run:
    """A finished run: its directory, its record and the arrays of its last epoch."""

    path: Path
    record: Record
    arrays: dict[str, np.ndarray]
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return self.record.plan.settings

    @property
    def unseen(self) -> list[int]:
        """The classes of its data set that a run with --known-classes has never seen."""
        if self.settings.known_classes is None:
            return []
        return [label for label in datasets.classes_of(self.data_set) if label not in self.record.classes]

    @property
    def data_set(self) -> str:
        """What `datasets.load` finds its data by: a name, or the path of a folder."""
        asked = self.settings.dataset
        return self.record.dataset if asked in datasets.NAMES else asked


def read_run(path: Path) -> Run:
    """Return the run in a directory.

    Raises:
        UserError: if there is none, it is not finished, or it is damaged.
    """
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: holds no run (no config.json)")
    record = read_record(path)
    kept, done = kept_epochs(path), len(read_epochs(path))
    if record.epochs not in kept or done < record.epochs:
        raise UserError(f"{path}: has finished {done} of {record.epochs} epochs. {how_to_go_on(path)}")
    return Run(path, record, read_arrays(path, record.epochs, len(record.classes), record.plan.settings.feat_dim))


def how_to_go_on(directory: Path) -> str:
    """Return what to do about a run that has stopped early."""
    if (directory / "checkpoint.pt").exists():
        return f"Continue with: {command_line('main.py', '--resume', directory)}"
    again = command_line("main.py", "--save-dir", directory, "--overwrite")
    return f"No epoch was finished, so there is nothing to continue; start again with {again} and the same flags"


# ---------------------------------------------------------------- config.json


def read_record(path: Path) -> Record:
    """Return a run's config.json; what an older run did not know of has its default.

    Raises:
        UserError: if it is missing or damaged; the message names the file and the entry.
    """
    file = path / "config.json"
    try:
        if not file.is_file() or file.stat().st_size > LARGEST_JSON:
            raise UserError(f"{file}: missing, or too large to be a run's")
        config = json.loads(file.read_text(encoding="utf-8"))
        plan = plan_from_json(config, str(file))
        data = config["dataset"]
        classes = tuple(_whole(label, 0, 255) for label in data["classes"])
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise ValueError("dataset: classes must be different labels, at least two")
        epochs = config.get("epochs") or plan.settings.max_epoch
        return Record(
            command=_text(config.get("command", "")),
            plan=plan,
            dataset=_dataset(data["name"]),
            classes=classes,
            train=_whole(data.get("train", 0)),
            test=_whole(data.get("test", 0)),
            checksums={_text(key): _text(value) for key, value in data.get("md5", {}).items()},
            epochs=_whole(epochs, 1, 10**6),
            made_on=_made_on(config, plan),
        )
    except KeyError as error:
        raise UserError(f"{file}: damaged: {error} is missing") from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: damaged: {str(error)[:200] or type(error).__name__}") from None


def _whole(value: object, low: int = 0, high: int = 10**9) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{str(value)[:40]!r} must be a whole number from {low} to {high}")
    return value


def _dataset(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", value):
        names = ", ".join(datasets.SOURCES)
        raise ValueError(
            f"dataset: name: {str(value)[:40]!r}: must be one of {names}, or a folder's name of plain letters"
        )
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} must be a text")
    return value


def _made_on(config: Mapping[str, object], plan: Plan) -> str:
    """Return where and how a run was made: machine, versions, precision."""
    machine, versions = (config.get(key) or {} for key in ("machine", "versions"))
    if not isinstance(machine, Mapping) or not isinstance(versions, Mapping):
        raise ValueError("machine and versions must be objects")
    how = ", compiled" if plan.execution.compile == "on" else ""
    how += ", fourier" if plan.execution.convolutions == "fourier" else ""
    return (
        f"{machine.get('gpu') or machine.get('processor', 'unknown')} "
        f"({config.get('device', 'cpu')}, {machine.get('threads', '?')} threads), "
        f"torch {versions.get('torch', '?')}, {plan.settings.precision}{how}"
    )


# ---------------------------------------------------------------- the tables


@dataclass(frozen=True)
class EpochRow:
    """A row of epochs.csv; what was not measured is nan."""

    epoch: int
    train_loss: float
    test_loss: float
    test_accuracy: float  # percent
    seconds: float  # of training alone


def read_epochs(path: Path) -> list[EpochRow]:
    """Return the rows of a run's epochs.csv, none where there is no such file.

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


def epochs_of(path: Path) -> tuple[int, int]:
    """Return how many epochs a run has finished, and how many it is to have; zeros for no run."""
    try:
        return len(read_epochs(path)), read_record(path).epochs
    except UserError:
        return 0, 0


def progress_of(path: Path) -> float:
    """Return how many epochs a run has trained, with the part of the one that it is in."""
    done, epochs = epochs_of(path)
    if not 0 <= done < epochs:
        return done
    try:
        with open(path / "batches.csv", "rb") as file:
            file.seek(-min(200, os.fstat(file.fileno()).st_size), os.SEEK_END)
            epoch, batch, *_ = file.read().decode().splitlines()[-2].split(",")  # the last may be cut
        record = read_record(path)
        share = int(batch) * record.plan.settings.batch_size / max(record.train, 1)
        return done + (min(share, 1.0) if int(epoch) == done + 1 else 0.0)
    except (OSError, ValueError, IndexError, UserError):
        return done


def kept_epochs(path: Path) -> list[int]:
    """Return the epochs whose features a run directory keeps."""
    names = [file.stem.removeprefix("epoch_") for file in (path / "features").glob("epoch_*.npz")]
    return sorted(int(name) for name in names if name.isdecimal() and len(name) < 8)


def is_finished(path: Path, every_epoch: bool = False) -> bool:
    """Return whether a run has all its epochs, and the features of the last, or of every one that
    --plot keeps."""
    done, epochs = epochs_of(path)
    if not 0 < epochs <= done or epochs not in kept_epochs(path):
        return False
    return keeps_every_epoch(path) if every_epoch else True


def keeps_every_epoch(path: Path) -> bool:
    """Return whether a run keeps the features of each epoch so far that --plot keeps."""
    done, _ = epochs_of(path)
    step = read_record(path).plan.options.plot_freq
    return {*range(step, done + 1, step)} <= {*kept_epochs(path)}


# ---------------------------------------------------------------- features


def training_sample(count: int) -> np.ndarray:
    """Return which of so many training images stand for all of them between the first and the last epoch, rising:
    always the same, a sixth, but no more than 10,000 and no fewer than 1,000."""
    size = max(1_000, min(10_000, count // 6))
    return np.sort(np.random.default_rng(0).permutation(count)[:size])


def read_arrays(path: Path, epoch: int, classes: int, feat_dim: int) -> dict[str, np.ndarray]:
    """Return the arrays of ``features/epoch_N.npz``: for ``train`` and ``test`` the features (N, D), labels
    and predictions (N,) in [0, C) and scores (N,), and the centers (C, D); where only some of the training
    images were evaluated, ``train_sample`` (N,) says which; ``head`` (C, D + 1), see `Network.decision`.

    Raises:
        UserError: if the file is missing, damaged, or does not fit the run.
    """
    file = path / "features" / f"epoch_{epoch}.npz"
    if not file.is_file():
        raise UserError(f"{file}: missing, or not a regular file")
    try:
        with zipfile.ZipFile(file) as archive:
            shapes = {member.filename.removesuffix(".npy"): _shape(archive, member) for member in archive.infolist()}
        _check_shapes(shapes, classes, feat_dim)
        with np.load(file) as data:
            arrays = {key: data[key] for key in shapes}
    except Exception as error:  # zipfile, zlib and NumPy's header reader raise whatever the bytes make them
        raise UserError(f"{file}: damaged ({str(error)[:200] or type(error).__name__})") from None
    for key in ("train_labels", "train_predictions", "test_labels", "test_predictions"):
        _check_range(file, key, arrays[key], classes)
    if "train_sample" in arrays:
        _check_range(file, "train_sample", arrays["train_sample"], LARGEST_SAMPLE)
    return arrays


def _check_range(file: Path, key: str, values: np.ndarray, high: int) -> None:
    for value in (values.min(), values.max()):
        if not 0 <= value < high:
            raise UserError(f"{file}: damaged ({key} must lie in [0, {high}); got {value})")


def _shape(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Return what the header of an array promises, if the archive has room for just that."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or size > LARGEST_ARRAYS or member.file_size != stream.tell() + size:
            raise ValueError(f"{member.filename}: its header promises {size:,} bytes, the file holds {member.file_size:,}")  # fmt: skip
    return shape, dtype


def _check_shapes(shapes: dict[str, tuple[tuple[int, ...], np.dtype]], classes: int, feat_dim: int) -> None:
    """Raise ValueError for arrays that are not a run's."""
    expected: dict[str, tuple[tuple[int, ...], str]] = {"centers": ((classes, feat_dim), "f")}
    for part in ("train", "test"):
        if f"{part}_features" not in shapes:
            raise ValueError(f"{part}_features is missing")
        count = shapes[f"{part}_features"][0][:1]
        expected[f"{part}_features"] = ((*count, feat_dim), "f")
        expected |= {f"{part}_{name}": (count, "iu") for name in ("labels", "predictions")}
        expected[f"{part}_scores"] = (count, "f")
        if count == (0,):
            raise ValueError(f"{part}_features is empty")
    if "head" in shapes:  # not in runs of before
        expected["head"] = ((classes, feat_dim + 1), "f")
    if "train_sample" in shapes:
        expected["train_sample"] = (shapes["train_features"][0][:1], "iu")
    for key, (shape, kinds) in expected.items():
        if key not in shapes:
            raise ValueError(f"{key} is missing")
        if shapes[key][0] != shape or shapes[key][1].kind not in kinds:
            raise ValueError(f"{key} must have shape {shape}; got {shapes[key][0]} of {shapes[key][1]}")
    if sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values()) > LARGEST_ARRAYS:
        raise ValueError("its arrays hold more than 1 GiB")
