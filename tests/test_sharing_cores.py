"""Threads wait briefly for each other while other programs use the cores, and no result depends on it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, spawn

import utils

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's scheduler statistics")

TWO = os.environ | {"OMP_NUM_THREADS": "2"}
TRAIN = "-d mnist5k --use-cpu --known-classes 0 1 --hold-out 300 --max-epoch 1 --batch-size 100".split()

# Multiplies for some seconds; prints the largest number of `sharing_cores`' threads, and how many threads are left.
WORK = """
import sys, threading, time, torch, utils
torch.manual_seed(0)
a = torch.randn(256, 256)
with utils.sharing_cores():
    (a @ a).relu_()
    most, end = 0, time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        (a @ a).relu_()
        most = max(most, len([t for t in threading.enumerate() if t.name == "sharing_cores"]))
print(most, threading.active_count())
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


def helpers(seconds: float, **env: str) -> tuple[int, int]:
    """Return the largest number of `sharing_cores`' threads during a computation, and how many threads are left."""
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(seconds)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=TWO | env,
        check=True,
    )
    most, left = map(int, done.stdout.split())
    return most, left


def test_threads_are_held_beside_other_programs_and_let_go() -> None:
    with busy(2 * utils.usable_cores()):
        most, left = helpers(3)
    assert most >= 2  # the one that measures, and at least one that sleeps
    assert left == 1


@pytest.mark.parametrize("setting", ["OMP_WAIT_POLICY=active", "GOMP_SPINCOUNT=1000", "KMP_BLOCKTIME=0"])
def test_the_user_s_own_setting_wins(setting: str) -> None:
    name, _, value = setting.partition("=")
    with busy(utils.usable_cores()):
        assert helpers(0.5, **{name: value}) == (0, 1)


def test_one_thread_waits_for_nobody() -> None:
    with busy(utils.usable_cores()):
        assert helpers(1, OMP_NUM_THREADS="1") == (1, 1)


@pytest.mark.slow
def test_weights_do_not_depend_on_the_waiting(tmp_path: Path) -> None:
    """The same run alone, beside other programs, and with the library's passive waiting."""
    import torch

    def weights(name: str, **env: str) -> dict:
        done = spawn("main.py", *TRAIN, "--save-dir", tmp_path / name, env=TWO | env)
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / name / "config.json").read_text())["threads"] == 2
        return torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"]

    alone = weights("alone", GOMP_SPINCOUNT="300000")
    with busy(utils.usable_cores()):
        for name, env in (("held", {}), ("passive", {"OMP_WAIT_POLICY": "passive"})):
            there = weights(name, **env)
            assert all(torch.equal(there[key], alone[key]) for key in alone)
