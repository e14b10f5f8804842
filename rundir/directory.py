"""The directory of a run: made, guarded, emptied, described in config.json."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from filelock import BaseFileLock, FileLock, Timeout

from datasets import Digits
from training.hardware import gpu_name
from training.settings import Options, Plan
from utils import HERE, UserError, command_line, processor_name, usable_cores, whole

LOCK = ".lock"
FOLDERS = ("features", "train", "test")
# What a run writes; nothing else in its directory is ever touched.
RUN_FILES = (
    "config.json", "log_*.txt", "batches.csv", "epochs.csv", "checkpoint.pt", "best.pt", "events.out.*", "calibration.json",
    "features/epoch_*.npz", "train/epoch_*.png", "test/epoch_*.png", "animation.gif", "animation.mp4",
)  # fmt: skip
PARTIAL = (".partial-*", *(f"{folder}/.partial-*" for folder in FOLDERS))  # what it was writing when it was killed


def check_save_dir(save_dir: Path | None, overwrite: bool) -> None:
    """Check, before anything is loaded or written, that a new run may go into `save_dir`.

    Raises:
        UserError: if it is a file, leads elsewhere, or holds a run and `overwrite` is not set.
    """
    if save_dir is None:
        return
    if save_dir.exists() and not save_dir.is_dir():
        raise UserError(f"--save-dir {save_dir}: is a file, name a folder")
    refuse_links(save_dir)
    if not overwrite and any(any(save_dir.glob(pattern)) for pattern in RUN_FILES):
        go_on = f"continue it with --resume {save_dir}, " if (save_dir / "checkpoint.pt").exists() else ""
        raise UserError(
            f"--save-dir {save_dir}: already holds a run; {go_on}replace it with --overwrite, or name another folder"
        )


def refuse_links(directory: Path) -> None:
    """Raise UserError if something that a run writes is a symbolic link, which would be written elsewhere, or a
    named pipe, which would wait for ever."""
    by_name = {directory / name for name in (*FOLDERS, LOCK, *RUN_FILES) if "*" not in name}  # leading nowhere, too
    by_pattern = {path for pattern in RUN_FILES for path in directory.glob(pattern)}
    for path in sorted(by_name | by_pattern):
        if path.is_symlink():
            raise UserError(f"{path}: is a symbolic link, and what a run writes would end elsewhere; remove it")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path}: is no regular file; remove it")


def make_run_directory(save_dir: Path | None, name: str, overwrite: bool) -> Guard:
    """Make the directory of a new run, emptied of an old one if `overwrite`, and keep it for this process;
    without `save_dir` it is the first of ``log/name``, ``log/name-2``, … that is free.

    Raises:
        UserError: if it cannot be written, has come to hold a run, or another process has it.
    """
    check_save_dir(save_dir, overwrite)
    try:
        if save_dir is None:
            return Guard(_free_directory(HERE / "log", name))
        save_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=save_dir):
            pass  # it can be written
        guard = Guard(save_dir)
        try:
            check_save_dir(save_dir, overwrite)  # again: another process may have trained here in between
            if overwrite:
                remove(save_dir, (*RUN_FILES, *PARTIAL))
        except BaseException:
            guard.close()
            raise
        return guard
    except OSError as error:
        raise UserError(f"{error.filename or save_dir}: cannot be written: {error.strerror}") from None


def remove(directory: Path, patterns: Iterable[str]) -> None:
    """Remove the files in a directory that have such names."""
    for pattern in patterns:
        for file in directory.glob(pattern):
            file.unlink()


def _free_directory(parent: Path, name: str) -> Path:
    parent.mkdir(exist_ok=True)
    for number in itertools.count(1):
        directory = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
            return directory.relative_to(Path.cwd()) if directory.is_relative_to(Path.cwd()) else directory
    raise AssertionError("itertools.count ends never")


class Guard:
    """Keeps a directory for one process until it is closed, or the process ends.

    Raises:
        UserError: if another process has it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock: BaseFileLock | None = FileLock(directory / LOCK)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UserError(f"{directory}: another process is at work here; wait for it, or end it") from None
        except (NotImplementedError, OSError):  # a file system without locks, or one that is not ours to write
            self._lock = None

    def close(self) -> None:
        """Let go of the directory."""
        if self._lock is not None:
            self._lock.release()


def is_being_trained(directory: Path) -> bool:
    """Return whether a process is training in a directory."""
    if not (directory / LOCK).exists():
        return False
    try:
        Guard(directory).close()
    except UserError:
        return True
    return False


def write_config(directory: Path, plan: Plan, data: Digits, epochs: int, device: torch.device, processes: int) -> None:
    """Write config.json: command, plan, data, versions, machine.

    Raises:
        UserError: if there is one, as there may be where a `Guard` could not lock and keeps nobody out.
    """
    config = {
        "command": command_line(*sys.argv),
        **plan.to_json(),
        "dataset": {
            "name": data.name,
            "classes": list(data.classes),
            "train": len(data.train_labels),
            "test": len(data.test_labels),
            "md5": data.checksums,
        },
        "epochs": epochs,
        "device": str(device),
        "processes": processes,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "machine": {
            "processor": processor_name(),
            "threads": torch.get_num_threads(),
            "cores": usable_cores(),
            "gpu": gpu_name(device) if device.type == "cuda" else None,
        },
        "git_commit": _git_commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    try:  # "x": two new runs never share a directory
        with open(directory / "config.json", "x", encoding="utf-8") as file:
            file.write(json.dumps(config, indent=2) + "\n")
    except FileExistsError:
        raise UserError(f"{directory}: another run has just been started here; name another folder") from None


def keep_options(directory: Path, options: Options) -> None:
    """Write the options with which a run goes on into its config.json, where they are others."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("options") != (now := dataclasses.asdict(options)):
        with whole(path) as unfinished:
            unfinished.write_text(json.dumps(config | {"options": now}, indent=2) + "\n", encoding="utf-8")


def _git_commit() -> str | None:
    """Return the commit of this code, with ``-dirty`` if it has been changed since."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(HERE)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
        return commit + ("-dirty" if changed.stdout.strip() else "")
    return None
