"""A run as its directory describes it: config.json, written and read back, and the run's progress."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
from msgspec import Meta

import datasets
from rundir.directory import how_to_go_on, is_being_trained
from rundir.features import kept_features, read_features
from rundir.log import last_batch, read_epochs
from training.settings import Count, Plan, Settings, plan_from_json
from utils import ROOT, UserError, atomically, command_line, naming, processor_name, usable_cores

if TYPE_CHECKING:
    import torch

    from training.building import Training

FORMAT = 4  # number of the format of config.json and checkpoint.pt
LARGEST_JSON = 1 << 20  # bytes
Natural = Annotated[int, Meta(ge=0, le=10**9)]


@dataclass(eq=False)
class Run:
    """A run, read back from its directory."""

    path: Path
    command: str
    plan: Plan
    dataset: str
    classes: tuple[int, ...]  # the original label of each class
    unseen: tuple[int, ...]  # the classes of the data set that --known-classes left out
    train: int  # number of images
    test: int
    checksums: Mapping[str, str]
    epochs: int
    made_on: str  # machine, versions, precision
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return self.plan.settings

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The features of the last epoch, see `read_features`."""
        return read_features(self.path, f"epoch_{self.epochs}", len(self.classes), self.settings.feat_dim)

    @property
    def accuracy(self) -> float:
        """The test accuracy after the last epoch, in percent."""
        return 100 * float(np.mean(self.arrays["test_predictions"] == self.arrays["test_labels"]))


def read_run(path: Path) -> Run:
    """Return the finished run in a directory.

    Raises:
        UserError: if there is none, it is not finished, or it is damaged.
    """
    run, done = read_config(path), len(read_epochs(path))
    if done < run.epochs and is_being_trained(path):
        raise UserError(f"{path}: is being trained, epoch {done + 1} of {run.epochs}; wait for it")
    if done < run.epochs:
        raise UserError(f"{path}: has finished {done} of {run.epochs} epochs. {how_to_go_on(path)}")
    if run.epochs not in kept_features(path):
        raise UserError(f"{path}: lacks features/epoch_{run.epochs}.npz; train the run again, with --overwrite")
    _ = run.arrays  # reads them now
    return run


# ---------------------------------------------------------------- config.json


class _Dataset(msgspec.Struct):
    name: str
    classes: Annotated[list[Natural], Meta(min_length=2, max_length=1000)]
    unseen: list[Natural]
    train: Natural
    test: Natural
    md5: dict[str, str]


class _Versions(msgspec.Struct):
    python: str
    torch: str
    numpy: str


class _Machine(msgspec.Struct):
    processor: str
    threads: Natural
    cores: Natural
    gpu: str | None


class _Config(msgspec.Struct):
    """The entries of config.json besides the plan."""

    command: str
    dataset: _Dataset
    epochs: Count
    device: str
    processes: Count
    versions: _Versions
    machine: _Machine
    git_commit: str | None
    started: str


def write_config(
    directory: Path, plan: Plan, training: Training, unseen: list[int], device: torch.device, processes: int
) -> None:
    """Write config.json: command, plan, data, versions, machine.

    Raises:
        UserError: if there is one: where a `Guard` cannot lock, two processes can start in one directory.
    """
    import torch

    from training.hardware import gpu_name

    data = training.data
    gpu = gpu_name(device) if device.type == "cuda" else None
    config = _Config(
        command=command_line(os.path.abspath(sys.argv[0]), *sys.argv[1:]),
        dataset=_Dataset(
            name=data.name,
            classes=list(data.classes),
            unseen=unseen,
            train=len(data.train_labels),
            test=len(data.test_labels),
            md5=dict(data.checksums),
        ),
        epochs=training.epochs,
        device=str(device),
        processes=processes,
        versions=_Versions(platform.python_version(), str(torch.__version__), np.__version__),
        machine=_Machine(processor_name(), torch.get_num_threads(), usable_cores(), gpu),
        git_commit=_git_commit(),
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    text = json.dumps({"format": FORMAT, **asdict(plan), **msgspec.to_builtins(config)}, indent=2) + "\n"
    try:  # "x": two new runs never share a directory
        file = open(directory / "config.json", "x", encoding="utf-8")
    except FileExistsError:
        raise UserError(f"{directory}: another run has just been started here; name another folder") from None
    with naming(file.name), file:
        file.write(text)


def keep_plan(directory: Path, plan: Plan) -> None:
    """Write the plan of a resumed run into its config.json, if it has changed.

    Raises:
        UserError: if there is no config.json, or it is damaged.
    """
    path = directory / "config.json"
    config = _read_json(path)
    if plan_from_json(config, str(path)) != plan:
        with atomically(path) as unfinished:
            unfinished.write_text(json.dumps({**config, **asdict(plan)}, indent=2) + "\n", encoding="utf-8")


def read_config(path: Path) -> Run:
    """Return the run that config.json describes, finished or not.

    Raises:
        UserError: if there is no config.json, or it is damaged; the message names the file and the entry.
    """
    file = path / "config.json"
    raw = _read_json(file)
    plan = plan_from_json(raw, str(file))
    try:
        config = msgspec.convert(raw, _Config)
    except msgspec.ValidationError as error:
        raise UserError(f"{file}: damaged: {error}") from None
    data = config.dataset
    if len(set(data.classes)) != len(data.classes):
        raise UserError(f"{file}: damaged: dataset: classes: must be different")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", data.name):
        names = f"{', '.join(datasets.SOURCES)}, or a folder's name of plain letters"
        raise UserError(f"{file}: damaged: dataset: name: {data.name[:40]!r}: must be one of {names}")
    return Run(
        path=path,
        command=config.command,
        plan=plan,
        dataset=data.name,
        classes=tuple(data.classes),
        unseen=tuple(data.unseen),
        train=data.train,
        test=data.test,
        checksums=data.md5,
        epochs=config.epochs,
        made_on=_made_on(config, plan),
    )


def _read_json(file: Path) -> dict[str, object]:
    """Return the object in a config.json of this format; raise UserError for anything else."""
    if not file.is_file():
        raise UserError(f"{file.parent}: holds no run (no config.json)")
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError("larger than 1 MiB")
        raw = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: damaged: {str(error)[:200] or type(error).__name__}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{file}: damaged: must be an object with the run's settings")
    if raw.get("format") != FORMAT:
        raise UserError(f"{file}: {other_format(raw.get('format'))}")
    return raw


def other_format(found: object) -> str:
    """Return the error message for a run that another version of this program made."""
    if isinstance(found, int) and found > FORMAT:
        return f"has format {found}, but this version of main.py reads {FORMAT}: get a newer one"
    return "was made by an earlier version of main.py; train the run again"


def _made_on(config: _Config, plan: Plan) -> str:
    """Return in words where and how a run was made: machine, versions, precision."""
    how = ", compiled" if plan.compile == "on" else ""
    how += ", fourier" if plan.convolutions == "fourier" else ""
    machine = config.machine
    threads = f"{machine.threads} thread{'s' if machine.threads != 1 else ''}"
    return (
        f"{machine.gpu or machine.processor} ({config.device}, {threads}), "
        f"torch {config.versions.torch}, {plan.settings.precision}{how}"
    )


def _git_commit() -> str | None:
    """Return the commit of this code, with ``-dirty`` if files have been changed since, None outside of git."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return None


# ---------------------------------------------------------------- progress


def epochs_of(path: Path) -> tuple[int, int]:
    """Return how many epochs a run has finished and how many it has in all; zeros if there is no run."""
    try:
        return len(read_epochs(path)), read_config(path).epochs
    except UserError:
        return 0, 0


def progress_of(path: Path) -> float:
    """Return how many epochs a run has trained, including the finished part of the current one."""
    done, epochs = epochs_of(path)
    epoch, batch = last_batch(path)
    if not done < epochs or epoch != done + 1:
        return done
    run = read_config(path)
    return done + min(batch * run.settings.batch_size / max(run.train, 1), 1.0)


def is_finished(path: Path) -> bool:
    """Return whether a run has all its epochs and the features of the last."""
    done, epochs = epochs_of(path)
    return 0 < epochs <= done and epochs in kept_features(path)


def keeps_features(path: Path, plan: Plan) -> bool:
    """Return whether a run directory has the features that a plan keeps for figures and film, up to its last finished
    epoch."""
    done, every = epochs_of(path)
    epochs = range(plan.plot_freq, done + 1, plan.plot_freq) if plan.plot else ()
    one_frame = plan.animate and done and every <= plan.plot_freq and not kept_features(path, "batch")
    return not one_frame and {*epochs} <= {*kept_features(path)}
