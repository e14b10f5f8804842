"""Train the runs that a comparison lacks: starts main.py for each, several at once if asked to."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

import datasets
from analysis.wanted import Wanted
from rundir.directory import is_being_trained
from rundir.reading import epochs_of, is_finished, keeps_every_epoch, progress_of, read_record
from training.arguments import parse_arguments
from training.settings import Execution, Plan, resolve
from utils import HERE, UserError, hours, say, usable_cores

MAIN = HERE / "main.py"


def is_that_run(path: Path, flags: list[str]) -> bool:
    """Return whether a directory holds a run made with the same settings as these flags ask for."""
    try:
        plan = read_record(path).plan
    except UserError:
        return False
    request = parse_arguments(flags)
    dataset = wanted = request.settings.dataset
    if wanted == "auto":  # what a run falls back to counts only while there is no MNIST
        dataset = "mnist" if datasets.is_there("mnist", Path(request.options.data_root)) else plan.settings.dataset
        if dataset != "mnist" and plan.asked("dataset") != "auto":
            return False
    asked = resolve(request.settings, request.by_hand, dataset)
    if asked.precision == plan.asked("precision"):
        asked = replace(asked, precision=plan.settings.precision)
    return asked == plan.settings and is_computed_so(plan, request.execution)


def is_computed_so(plan: Plan, asked: Execution) -> bool:
    """Return whether a run was computed as asked for; what it left open may have been decided in any way."""
    there = plan.execution
    same_compile = asked.compile in (there.compile, plan.asked("compile")) or (asked.compile, there.compile) == ("auto", "off")  # fmt: skip
    same_convolutions = asked.convolutions in ("auto", there.convolutions)
    same_graph = asked.cuda_graph in ("auto", there.cuda_graph, plan.asked("cuda_graph"))
    return same_compile and same_convolutions and same_graph and asked.deterministic == there.deterministic


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
        self.start = self.next_look = time.monotonic()
        self.already = self._done()
        self.guesses = [self._guess(run) for run in runs]
        form = "{l_bar}{bar}| {n:.1f}/{total_fmt} epochs [{elapsed}]"
        self.bar = tqdm(initial=self.already, bar_format=form, disable=not sys.stderr.isatty())

    def _done(self) -> float:
        return sum(progress_of(run.path) for run in self.runs if run.path)

    @staticmethod
    def _guess(run: Wanted) -> int:
        """Return the epochs of a run that has not started, as its recipe has them."""
        request = parse_arguments(run.flags)
        dataset = "mnist" if request.settings.dataset == "auto" else request.settings.dataset
        return resolve(request.settings, request.by_hand, dataset).max_epoch or 22

    def _total(self) -> int:
        return sum(
            epochs_of(run.path)[1] or guess for run, guess in zip(self.runs, self.guesses, strict=True) if run.path
        )

    def left(self) -> str:
        """Move the bar; return the time left, from the epochs so far, and nothing before the first."""
        self.next_look = time.monotonic() + 2
        done, self.bar.total = self._done(), self._total()
        self.bar.n = done
        self.bar.refresh()
        if done - self.already < 0.2:
            return ""
        pace = (time.monotonic() - self.start) / (done - self.already)
        return f", {hours(pace * max(0, self.bar.total - done))} left"


def train(runs: list[Wanted], jobs: int) -> dict[str, str]:
    """Train the runs, so many at once; return the reasons of those that failed, by the name of their directory.

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
                assert run.path is not None
                if is_being_trained(run.path):
                    failed[run.path.name] = (
                        f"{run.path} is still being trained by another process; wait for it, or end it"
                    )
                    continue
                say(f"Run {number} of {len(runs)}: {run.path}{progress.left()}")
                active.append((number, run, _start(run, env)))
            time.sleep(0.2)
            if time.monotonic() > progress.next_look:
                progress.left()
            for item in [item for item in active if item[2].poll() is not None]:
                active.remove(item)
                number, run, process = item
                assert run.path is not None
                if process.returncode:
                    failed[run.path.name] = _reason(run, process.returncode)
                    say(f"Run {number} of {len(runs)} failed: {failed[run.path.name]}")
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
    run.log.unlink(missing_ok=True)  # a link that lies here is not followed
    with open(run.log, "xb") as output:
        return subprocess.Popen(
            [sys.executable, str(MAIN), *where, *run.flags],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,  # Ctrl-C reaches it through us, once
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _end_with_parent() -> None:
    """Have the kernel end this process like Ctrl-C when the one that started it is gone, however it went."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _reason(run: Wanted, status: int) -> str:
    lines = run.log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else f'exit status {status}'} (see {run.log})"
