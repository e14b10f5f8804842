"""Threads wait briefly for each other while other programs use the cores, and no result depends on it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, spawn

import utils

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's scheduler statistics")

TWO = os.environ | {"OMP_NUM_THREADS": "2"}
TRAIN = "-d mnist5k --use-cpu --known-classes 0 1 --hold-out 300 --max-epoch 1 --batch-size 100".split()

# Multiplies for three seconds once it is told to.
WORK = """
import test_sharing_cores, torch
print("ready", flush=True)
input()
print(*test_sharing_cores.helpers(3.0))
"""


@contextlib.contextmanager
def busy(programs: int) -> Iterator[None]:
    """Run this number of programs, each of which uses a core."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()


def helpers(seconds: float) -> tuple[int, int]:
    """Return the largest number of `sharing_cores`' threads during a computation, and how many of them are left."""
    import torch

    def count() -> int:
        return len([thread for thread in threading.enumerate() if thread.name == "sharing_cores"])

    a = torch.randn(256, 256)
    with utils.sharing_cores():
        most, end = count(), time.monotonic() + seconds
        while time.monotonic() < end:
            (a @ a).relu_()
            most = max(most, count())
    return most, count()


def test_threads_are_held_beside_other_programs_and_let_go() -> None:
    env = TWO | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    with subprocess.Popen([sys.executable, "-c", WORK], **how) as process:
        assert process.stdout.readline() == "ready\n"  # torch is imported before the cores are taken
        with busy(2 * utils.usable_cores()):
            most, left = map(int, process.communicate("go\n")[0].split())
    assert most >= 2  # the one that measures, and at least one that sleeps
    assert left == 0


@pytest.mark.parametrize("setting", ["OMP_WAIT_POLICY=active", "GOMP_SPINCOUNT=1000", "KMP_BLOCKTIME=0"])
def test_the_user_s_own_setting_wins(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*setting.split("="))
    assert helpers(0.0) == (0, 0)


def test_one_thread_waits_for_nobody() -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with busy(utils.usable_cores()):
            assert helpers(1.0) == (1, 0)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_weights_do_not_depend_on_the_waiting(tmp_path: Path) -> None:
    """The same run alone, beside other programs, and with the library's passive waiting."""
    import torch

    def weights(name: str, **env: str) -> dict:
        spawn("main.py", *TRAIN, "--save-dir", tmp_path / name, env=TWO | env)
        assert json.loads((tmp_path / name / "config.json").read_text())["threads"] == 2
        return torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"]

    alone = weights("alone", GOMP_SPINCOUNT="300000")
    with busy(utils.usable_cores()):
        for name, env in (("held", {}), ("passive", {"OMP_WAIT_POLICY": "passive"})):
            there = weights(name, **env)
            assert all(torch.equal(there[key], alone[key]) for key in alone)
