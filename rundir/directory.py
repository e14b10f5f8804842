"""A run's directory: created, locked, emptied."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import BaseFileLock, FileLock, Timeout

from utils import UserError, command_line

if TYPE_CHECKING:
    from training.settings import Plan

LOCK = ".lock"
FOLDERS = ("features", "train", "test")
# The files of a run; besides these it touches only LOCK and PARTIAL in its directory.
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
PARTIAL = (".partial-*", *(f"{folder}/.partial-*" for folder in FOLDERS))  # unfinished files of a killed run


def run_name(plan: Plan) -> str:
    """Return the name of a run's directory, made of its losses."""
    settings = plan.settings
    center = ["center"] if settings.weight_cent > 0 else []
    head = [] if settings.head == "softmax" and center else [settings.head]
    return "+".join(head + center)


def how_to_go_on(directory: Path, device_flags: Sequence[str] = ()) -> str:
    """Return a line that says how to continue a run that stopped early, on the device that these flags choose."""
    if (directory / "checkpoint.pt").exists():
        return f"Continue with: {command_line('main.py', '--resume', directory, *device_flags)}"
    again = command_line("main.py", "--save-dir", directory, "--overwrite")
    return f"No epoch was finished, so there is nothing to continue; start again with {again} and the same flags"


def check_save_dir(save_dir: Path | None, overwrite: bool) -> None:
    """Check, before anything is loaded or written, that a new run may be written to `save_dir`.

    Raises:
        UserError: if it is a file, contains links, or holds a run and `overwrite` is not set.
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
    """Raise UserError if a file of a run is a symbolic link, which leads elsewhere, a named pipe, which would make the
    run wait for ever, or a folder, or if a folder of a run is a file."""
    by_name = {directory / name for name in (*FOLDERS, LOCK, *RUN_FILES) if "*" not in name}  # broken links, too
    by_pattern = {path for pattern in RUN_FILES for path in directory.glob(pattern)}
    for path in sorted(by_name | by_pattern):
        if path.is_symlink():
            raise UserError(f"{path}: is a symbolic link, and the run would write to another place; remove it")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path}: is not a regular file; remove it")
        there, wanted = (("file", "folder")[is_folder] for is_folder in (path.is_dir(), path.name in FOLDERS))
        if path.exists() and there != wanted:
            raise UserError(f"{path}: is a {there}, but the run writes a {wanted} of this name; remove it")


def make_run_directory(save_dir: Path | None, name: str, overwrite: bool) -> Guard:
    """Create and lock the directory of a new run; with `overwrite`, remove an old run from it.

    Without `save_dir` it is the first of ``log/name``, ``log/name-2``, … that does not exist.

    Raises:
        UserError: if it cannot be written, another process has it, or another run was started in it meanwhile.
    """
    check_save_dir(save_dir, overwrite)
    try:
        if save_dir is None:
            return Guard(_free_directory(Path("log"), name))
        guard = claim(save_dir)
        try:
            check_save_dir(save_dir, overwrite)  # again: another process may have trained here since the first check
            if overwrite:
                remove(save_dir, (*RUN_FILES, *PARTIAL))
        except BaseException:
            guard.close()
            raise
        return guard
    except OSError as error:
        raise _unwritable(Path(error.filename or save_dir or "log"), error) from None


def claim(directory: Path) -> Guard:
    """Create, if it is missing, and lock a directory that this process will write.

    Raises:
        UserError: if it cannot be written, or another process has it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass  # so it can be written
    except OSError as error:
        place = Path(error.filename or directory)
        raise _unwritable(directory if place.parent == directory else place, error) from None
    return Guard(directory)


def _unwritable(directory: Path, error: OSError) -> UserError:
    """Return what to say about a directory that could not be made or written."""
    if directory.is_symlink() and not directory.exists():
        return UserError(f"{directory}: is a link that leads nowhere; remove it, or name another folder")
    return UserError(f"{directory}: cannot be written: {error.strerror}; name another folder")


def remove(directory: Path, patterns: Iterable[str]) -> None:
    """Remove the files in a directory whose names match."""
    for pattern in patterns:
        for file in directory.glob(pattern):
            file.unlink()


def _free_directory(parent: Path, name: str) -> Path:
    parent.mkdir(exist_ok=True)
    directory, number = parent / name, 1
    while True:
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
            return directory
        number += 1
        directory = parent / f"{name}-{number}"


class Guard:
    """Locks a directory for this process until `close`, or until the process ends; where the file system has no
    locks, or we may not write, it locks nothing.

    Raises:
        UserError: if another process has locked it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock: BaseFileLock | None = FileLock(directory / LOCK)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UserError(f"{directory}: another process is at work here; wait for it, or end it") from None
        except (NotImplementedError, OSError):
            self._lock = None

    def close(self) -> None:
        """Unlock the directory."""
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
