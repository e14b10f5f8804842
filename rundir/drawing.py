"""Figures drawn by other processes during the training."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from pathlib import Path

from rundir.features import kept_features
from utils import usable_cores


class Drawer:
    """Draws epochs in one process of low priority during the training, and what is left on all cores at its end.

    Args:
        directory: the run directory.
        log: called with a line about each figure that could not be drawn.
        draw: a function of directory and epoch that draws the epoch's figures; it must be picklable.
    """

    def __init__(self, directory: Path, log: Callable[[str], None], draw: Callable[[Path, int], object]) -> None:
        self.directory = directory.resolve()
        self.log = log
        self.draw_epoch = draw
        self.waiting: list[int] = []
        self.running: list[Future[object]] = []
        spawn = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(min(61, usable_cores()), mp_context=spawn, initializer=_give_way)

    def draw(self, epoch: int) -> None:
        """Queue an epoch's figures; they are drawn one epoch at a time."""
        self.waiting.append(epoch)
        if all(one.done() for one in self.running):
            self._submit(self.draw_epoch, self.directory, self.waiting.pop(0))

    def draw_missing(self) -> None:
        """Queue every epoch that has features but lacks a figure."""
        for epoch in kept_features(self.directory):
            if not all((self.directory / part / f"epoch_{epoch}.png").exists() for part in ("train", "test")):
                self.draw(epoch)

    def animate(self, animate: Callable[[Path], object]) -> None:
        """Let the function make the film of all epochs; it exists after `close`."""
        self._finish()
        self._submit(animate, self.directory)

    def close(self) -> None:
        """Wait until every figure is drawn."""
        self._finish()
        self.pool.shutdown()

    def _finish(self) -> None:
        for epoch in self.waiting:
            self._submit(self.draw_epoch, self.directory, epoch)
        self.waiting = []
        for one in self.running:
            if (error := one.exception()) is not None:
                self.log(f"A figure could not be drawn: {' '.join(str(error).split()) or type(error).__name__}")
        self.running = []

    def _submit(self, work: Callable[..., object], *arguments: object) -> None:
        with _interrupts_ignored(), _main_hidden():
            try:
                self.running.append(self.pool.submit(work, *arguments))
            except (BrokenExecutor, OSError) as error:  # no process, or the system killed one; the training goes on
                self.running.append(Future())
                self.running[-1].set_exception(error)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Start processes that ignore Ctrl-C: it ends the training, not the figure that is being drawn."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Start processes that do not import the program again: a script that calls `main.main` need not guard the call."""
    program: dict[str, object] = vars(sys.modules["__main__"])
    names = {"__file__", "__spec__"} & {*program}  # with python -m it is found by its specification
    hidden = {name: program[name] for name in names}
    program.update(dict.fromkeys(names))
    try:
        yield
    finally:
        program.update(hidden)


def _give_way() -> None:
    """Give this process the lowest priority, and end it with the training."""
    if hasattr(os, "nice"):
        os.nice(19)
    threading.Thread(target=_end_with_the_training, daemon=True).start()


def _end_with_the_training() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
