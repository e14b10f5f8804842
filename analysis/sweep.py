"""Train the runs that a comparison lacks: starts main.py for each, several at once with --jobs."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

import datasets
from analysis.comparison import Wanted
from rundir.directory import is_being_trained
from rundir.network import load_data
from rundir.run import Run, epochs_of, is_finished, keeps_features, progress_of, read_config
from training.arguments import Request, parse_arguments
from training.recipes import resolve
from training.settings import COMPUTED, Settings
from utils import ROOT, UserError, hours, say, usable_cores

MAIN = ROOT / "main.py"


# ---------------------------------------------------------------- which runs exist, which are missing


@functools.cache
def request_of(flags: tuple[str, ...]) -> Request:
    """Return the request that flags of main.py make."""
    return parse_arguments(list(flags))


def asked_for(flags: Sequence[str], dataset: str = "auto") -> tuple[Settings, dict[str, object]]:
    """Return the settings that flags of main.py lead to, and how they are computed. `dataset` counts if the flags leave
    the data set open."""
    request = request_of(tuple(flags))
    settings = request.plan.settings
    dataset = dataset if settings.dataset == "auto" else settings.dataset
    return resolve(settings, request.by_hand, dataset), {name: request.plan.value(name) for name in COMPUTED}


def is_that_run(path: Path, flags: Sequence[str]) -> bool:
    """Return whether a directory holds a run with the settings that these flags ask for."""
    try:
        run = read_config(path)
    except UserError:
        return False
    plan = run.plan
    request, dataset = request_of(tuple(flags)), plan.settings.dataset
    if request.plan.settings.dataset == "auto":  # a run on the substitute for MNIST counts only while MNIST is missing
        dataset = "mnist" if datasets.is_there("mnist", Path(request.plan.data_root)) else dataset
        if dataset != "mnist" and plan.asked_for("dataset") != "auto":
            return False
    settings, computed = asked_for(flags, dataset)
    wanted = computed | {"precision": settings.precision}
    alike = all(value in (None, plan.value(name), plan.asked_for(name)) for name, value in wanted.items())
    same = alike and replace(settings, precision=plan.settings.precision) == plan.settings
    return same and (plan.settings.dataset in datasets.NAMES or has_its_data(run))


def has_its_data(run: Run) -> bool:
    """Return whether the data of a run are there and still the same."""
    try:
        load_data(run)
    except UserError:
        return False
    return True


def find(wanted: Iterable[Wanted], folder: Path, elsewhere: Iterable[Path]) -> list[Wanted]:
    """Set the path of each run; return those that must be trained or continued; of several with equal settings only
    the first.

    A finished run with the same settings is taken from `folder` or `elsewhere`, an interrupted one only from `folder`.
    It must have kept the features that --plot and --animate ask for.
    """
    missing: list[Wanted] = []
    elsewhere = [path for path in elsewhere if path.parent != folder and os.access(path, os.X_OK) and is_finished(path)]

    def fits(path: Path, run: Wanted) -> bool:
        return is_that_run(path, run.flags) and keeps_features(path, request_of(tuple(run.flags)).plan)

    for run in wanted:
        ours = [path for path in sorted(folder.glob("*/")) if fits(path, run)]
        finished = [path for path in ours if is_finished(path)] + [path for path in elsewhere if fits(path, run)]
        ours = [path for path, (done, every) in zip(ours, map(epochs_of, ours), strict=True) if done < every]
        twins = [one.path for one in missing if one.path in ours or asked_for(one.flags) == asked_for(run.flags)]
        if there := finished + twins:
            run.path = there[0]
            continue
        taken = {one.path for one in missing}
        names = (run.name if n == 1 else f"{run.name}-{n}" for n in itertools.count(1))
        free = (folder / name for name in names if folder / name not in taken and not (folder / name).exists())
        run.path = ours[0] if ours else next(free)
        missing.append(run)
    return missing


# ---------------------------------------------------------------- training


class Progress:
    """The progress bar over all epochs of all runs, and the time left."""

    def __init__(self, runs: list[Wanted]) -> None:
        self.paths = [run.path for run in runs]
        self.start = self.next_look = time.monotonic()
        self.already = sum(map(progress_of, self.paths))
        self.guesses = [asked_for(run.flags, "mnist")[0].max_epoch or 22 for run in runs]  # until a run has started
        form = "{l_bar}{bar}| {n:.1f}/{total_fmt} epochs [{elapsed}]"
        self.bar = tqdm(initial=self.already, bar_format=form, disable=not sys.stderr.isatty())

    def left(self) -> str:
        """Move the bar; return the time left in words, or nothing if it is too early to say."""
        self.next_look = time.monotonic() + 2
        self.bar.n = sum(map(progress_of, self.paths))
        self.bar.total = sum(epochs_of(path)[1] or guess for path, guess in zip(self.paths, self.guesses, strict=True))
        self.bar.refresh()
        done = self.bar.n - self.already
        if done < 0.2:
            return ""
        pace = (time.monotonic() - self.start) / done
        return f", {hours(pace * max(0, self.bar.total - self.bar.n))} left"


def train(runs: list[Wanted], jobs: int) -> dict[str, str]:
    """Train the runs, `jobs` at once; return why runs failed, by the name of their directory.

    An interrupted run continues from its checkpoint. On an exception, such as Ctrl-C, the active runs are ended
    cleanly; each keeps its last epoch.
    """
    waiting = list(enumerate(runs, 1))
    active: dict[int, subprocess.Popen[bytes]] = {}
    failed: dict[str, str] = {}
    progress = Progress(runs)
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                number, run = waiting.pop(0)
                if is_being_trained(run.path):
                    why = f"{run.path} is still being trained by another process; wait for it, or end it"
                    failed[run.path.name] = why
                    continue
                say(f"Run {number} of {len(runs)}: {run.path}{progress.left()}")
                active[number] = _start(run, jobs)
            time.sleep(0.2)
            if time.monotonic() > progress.next_look:
                progress.left()
            for number in [number for number, process in active.items() if process.poll() is not None]:
                run = runs[number - 1]
                if status := active.pop(number).returncode:
                    failed[run.path.name] = _reason(run, status)
                    say(f"Run {number} of {len(runs)} failed: {failed[run.path.name]}")
    finally:
        for process in active.values():
            process.terminate()
        for process in active.values():
            process.wait()
        progress.bar.close()
    return failed


def _start(run: Wanted, jobs: int) -> subprocess.Popen[bytes]:
    env = dict(os.environ)
    if jobs > 1:
        env.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)))
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
    """Have the kernel end this process like Ctrl-C when its parent ends, even if that is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _reason(run: Wanted, status: int) -> str:
    if status < 0:
        return f"ended by signal {-status} (see {run.log})"
    lines = run.log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else f'exit status {status}'} (see {run.log})"
