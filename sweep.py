"""Train the runs that a comparison lacks: starts main.py for each, several at once if asked to."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import datasets
from arguments import BASICS, OPTIONS, parse_arguments
from recipes import resolve
from runs import epochs_of, is_finished, keeps_every_epoch, read_config
from utils import hours, usable_cores

MAIN = Path(__file__).resolve().parent / "main.py"


@dataclass
class Wanted:
    """A run that a comparison needs: `flags` for main.py, a `name` for its directory."""

    name: str
    flags: list[str]
    path: Path | None = None  # where it is, or will be

    @property
    def log(self) -> Path:
        """What main.py prints, beside the run's directory."""
        assert self.path is not None
        return self.path.with_name(f"{self.path.name}.out")


def is_that_run(path: Path, flags: list[str]) -> bool:
    """Return whether a directory holds a run made with the same settings as these flags ask for."""
    try:
        there = read_config(path)["settings"]
        dataset, asked = there["dataset"], there["asked_dataset"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    args = parse_arguments(flags)
    wanted = BASICS | args.settings
    if wanted["dataset"] == "auto":  # what a run falls back to counts only while there is no MNIST
        root = Path((OPTIONS | args.options)["data_root"])
        expected = "mnist" if datasets.is_there("mnist", root) else dataset
        if dataset != expected or (dataset != "mnist" and asked != "auto"):
            return False
        wanted["dataset"] = dataset
    wanted |= resolve(wanted["recipe"], dataset, args.settings) | {"dataset": wanted["dataset"]}
    return all(value in [there[k] for k in (key, f"asked_{key}") if k in there] for key, value in wanted.items())


def find(wanted: Iterable[Wanted], folder: Path, elsewhere: Iterable[Path], every_epoch: bool = False) -> list[Wanted]:
    """Set each run's path; return those that are still to be trained, or trained to their end.

    A finished run with the same settings counts wherever it lies; one that was cut off counts only in
    `folder`, whose runs are ours to continue. With `every_epoch` either must have kept the features of
    all its epochs.
    """
    missing = []
    taken = set()
    for run in wanted:
        ours = [path for path in sorted(folder.glob("*/")) if is_that_run(path, run.flags)]
        others = [path for path in elsewhere if is_that_run(path, run.flags)]
        finished = [path for path in (*ours, *others) if is_finished(path, every_epoch)]
        ours = [path for path in ours if not is_finished(path) and (not every_epoch or keeps_every_epoch(path))]
        if finished:
            run.path = finished[0]
            continue
        names = (run.name if n == 1 else f"{run.name}-{n}" for n in itertools.count(1))
        free = (folder / name for name in names if folder / name not in taken and not (folder / name).exists())
        run.path = ours[0] if ours else next(free)
        taken.add(run.path)
        missing.append(run)
    return missing


class Progress:
    """A line of what is running: which run of how many, and the time left."""

    def __init__(self, runs: list[Wanted]) -> None:
        self.runs = runs
        self.start = time.monotonic()
        self.already = self._done()
        self.guesses = [self._guess(run) for run in runs]
        self.bar = tqdm(initial=self.already, unit="epoch", disable=not sys.stderr.isatty())

    def _done(self) -> int:
        return sum(epochs_of(run.path)[0] for run in self.runs if run.path)

    @staticmethod
    def _guess(run: Wanted) -> int:
        """Return the epochs of a run that has not started, as its recipe has them."""
        settings = parse_arguments(run.flags).settings
        name, dataset = settings.get("recipe", "default"), settings.get("dataset", "mnist")
        return resolve(name, dataset, settings)["max_epoch"] or 22

    def _total(self) -> int:
        return sum(
            epochs_of(run.path)[1] or guess for run, guess in zip(self.runs, self.guesses, strict=True) if run.path
        )

    def left(self) -> str:
        """Move the bar; return the time left, from the epochs so far, and nothing before the first."""
        done, self.bar.total = self._done(), self._total()
        self.bar.n = done
        self.bar.refresh()
        if done <= self.already:
            return ""
        pace = (time.monotonic() - self.start) / (done - self.already)
        return f", {hours(pace * max(0, self.bar.total - done))} left"

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()


def train(runs: list[Wanted], jobs: int) -> dict[str, str]:
    """Train the runs, so many at once; return the reasons of those that failed, by name.

    A run that was cut off goes on from its checkpoint. On an exception, Ctrl-C among them, the runs
    that are being trained are ended cleanly, each with its last epoch kept.
    """
    env = dict(os.environ)
    if jobs > 1 and "OMP_NUM_THREADS" not in env:
        env["OMP_NUM_THREADS"] = str(max(1, usable_cores() // jobs))
    waiting = list(enumerate(runs, 1))
    active: list[tuple[int, Wanted, subprocess.Popen[bytes]]] = []
    failed: dict[str, str] = {}
    progress = Progress(runs)
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                number, run = waiting.pop(0)
                progress.say(f"Run {number} of {len(runs)}: {run.path}{progress.left()}")
                active.append((number, run, _start(run, env)))
            time.sleep(0.2)
            progress.left()
            for item in [item for item in active if item[2].poll() is not None]:
                active.remove(item)
                number, run, process = item
                if process.returncode:
                    failed[run.name] = _reason(run, process.returncode)
                    progress.say(f"Run {number} of {len(runs)} failed: {failed[run.name]}")
    finally:
        for *_, process in active:
            process.terminate()
        for *_, process in active:
            process.wait()
        progress.bar.close()
    return failed


def _start(run: Wanted, env: dict[str, str]) -> subprocess.Popen[bytes]:
    assert run.path is not None
    run.path.parent.mkdir(parents=True, exist_ok=True)
    where = ["--save-dir", str(run.path), "--overwrite"]
    if (run.path / "checkpoint.pt").exists():
        where = ["--resume", str(run.path)]
    with open(run.log, "wb") as output:
        return subprocess.Popen(
            [sys.executable, str(MAIN), *where, *run.flags],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,  # Ctrl-C reaches it through us, once
        )


def _reason(run: Wanted, status: int) -> str:
    lines = run.log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else f'exit status {status}'} (see {run.log})"
