"""What a run directory holds, read back: nothing here needs torch."""

from __future__ import annotations

import csv
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from arguments import BASICS, OPTIONS


class BadRun(Exception):
    """A directory that holds no run to be read; the message is one line for the user."""


@dataclass(eq=False)
class FinishedRun:
    """A finished run: its config.json and the arrays of its last epoch."""

    path: Path
    config: dict[str, Any]
    arrays: dict[str, np.ndarray]
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        return self.config["settings"]

    @property
    def unseen(self) -> list[int]:
        """The digits that a run with --known-classes has never seen."""
        return [digit for digit in range(10) if digit not in self.config["dataset"]["classes"]]


def read_run(path: Path) -> FinishedRun:
    """Return the run in a directory.

    Raises:
        BadRun: if there is none, or it is not finished.
    """
    if not (path / "config.json").is_file():
        raise BadRun(f"{path}: holds no run (no config.json)")
    kept = kept_epochs(path)
    done, epochs = epochs_of(path)
    if not kept or kept[-1] != epochs:
        raise BadRun(f"{path}: has finished {done} of {epochs} epochs; go on with python main.py --resume {path}")
    try:
        return FinishedRun(path, read_config(path), read_arrays(path, kept[-1]))
    except (OSError, ValueError, KeyError) as error:
        raise BadRun(f"{path}: cannot be read: {error}") from None


def read_config(path: Path) -> dict[str, Any]:
    """Return a run's config.json; a setting or option that an older run did not know of has its default.

    Raises:
        OSError, ValueError, KeyError, TypeError: if the file is missing or damaged.
    """
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    settings, options = BASICS | config["settings"], OPTIONS | config.get("options", {})
    return config | {"settings": settings, "options": options}


def made_on(config: dict[str, Any]) -> str:
    """Return where and how a run was made: machine, versions, precision."""
    machine, settings = config["machine"], config["settings"]
    compiled = ", compiled" if settings.get("compile") == "on" else ""
    return (
        f"{machine['processor']} ({config['device']}, {machine['threads']} threads), "
        f"torch {config['versions']['torch']}, {settings['precision']}{compiled}"
    )


def epochs_of(path: Path) -> tuple[int, int]:
    """Return how many epochs a run has finished, and how many it is to have; zeros for no run."""
    try:
        config = read_config(path)
        rows = (path / "epochs.csv").read_text().splitlines()[1:]
        return len(rows), int(config.get("epochs") or config["settings"]["max_epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


def read_epochs_csv(path: Path) -> list[dict[str, float]]:
    """Return the rows of a run's epochs.csv; a test accuracy that was not measured is nan.

    Raises:
        OSError, ValueError: if the file is missing or damaged.
    """
    with open(path / "epochs.csv", newline="", encoding="utf-8") as file:
        return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]


def kept_epochs(path: Path) -> list[int]:
    """Return the epochs whose features a run directory keeps."""
    names = [file.stem.removeprefix("epoch_") for file in (path / "features").glob("epoch_*.npz")]
    return sorted(int(name) for name in names if name.isdecimal())


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
    step = read_config(path)["options"]["plot_freq"]
    return {*range(step, done + 1, step)} <= {*kept_epochs(path)}


def read_arrays(path: Path, epoch: int) -> dict[str, np.ndarray]:
    """Return the arrays of ``features/epoch_N.npz``.

    Raises:
        ValueError, OSError: if the file is damaged or missing.
    """
    with open(path / "features" / f"epoch_{epoch}.npz", "rb") as file:
        try:
            with np.load(file) as data:
                return {key: data[key] for key in data.files}
        except (BadZipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{file.name}: damaged ({error})") from None
