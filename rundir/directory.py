"""The directory of a run: made, guarded, emptied."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import BaseFileLock, FileLock, Timeout

from utils import UserError, command_line

if TYPE_CHECKING:
    from training.settings import Plan

LOCK = ".lock"
FOLDERS = ("features", "train", "test")
# What a run writes; nothing else in its directory is ever touched.
RUN_FILES = (
    "config.json",
    "log_*.txt",
    "batches.csv",
    "epochs.csv",
    "checkpoint.pt",
    "best.pt",
    "events.out.*",
    "calibration.json",
    "features/epoch_*.npz",
    "features/batch_*.npz",
    "train/epoch_*.png",
    "test/epoch_*.png",
    "animation.gif",
    "animation.mp4",
)
PARTIAL = (".partial-*", *(f"{folder}/.partial-*" for folder in FOLDERS))  # what it was writing when it was killed


def run_name(plan: Plan) -> str:
    """Return the name of a run's directory: its losses."""
    settings = plan.settings
    center = ["center"] if settings.weight_cent > 0 else []
    head = [] if settings.head == "softmax" and center else [settings.head]
    return "+".join(head + center)


def how_to_go_on(directory: Path) -> str:
    """Return what to do about a run that stopped early."""
    if (directory / "checkpoint.pt").exists():
        return f"Continue with: {command_line('main.py', '--resume', directory)}"
    again = command_line("main.py", "--save-dir", directory, "--overwrite")
    return f"No epoch was finished, so there is nothing to continue; start again with {again} and the same flags"


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
            return Guard(_free_directory(Path("log"), name))
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
    if not parent.is_dir() and parent.is_symlink():
        raise UserError(f"{parent}: is a link that leads nowhere; remove it, or name a folder with --save-dir")
    parent.mkdir(exist_ok=True)
    for number in itertools.count(1):
        directory = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
            return directory
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
        """Release the directory."""
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
