"""A run that is killed and resumed, again and again, ends as one that was left alone."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

# main.py as it is, killed when it has written a part of its n-th checkpoint. From outside, the moment is too
# short to be met on a busy machine.
KILLED_WHILE_IT_WRITES = """
import os, runpy, signal, sys
from pathlib import Path

write, number, part = Path.write_bytes, int(sys.argv[1]), float(sys.argv[2])

def write_a_part(path, data):
    global number
    number -= path.name.endswith("-checkpoint.pt")
    if number == 0:
        write(path, bytes(data)[: int(part * len(data))])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, data)

Path.write_bytes = write_a_part
sys.argv = sys.argv[3:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(path: Path, flags: list[str], around: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """Start the run, or take it up where its checkpoint is; `around` it another program, with its arguments."""
    where = ["--save-dir", str(path), "--overwrite", *flags]
    if (path / "checkpoint.pt").exists():
        where = ["--resume", str(path)]
    return subprocess.Popen([sys.executable, *around, str(ROOT / "main.py"), *where], stdout=subprocess.DEVNULL)


def differences(whole: Path, killed: Path) -> list[str]:
    """Return what differs between two runs, apart from times."""
    found = []
    a, b = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (whole, killed))
    for name in ("model", "head", "center_loss", "optimizer_model", "optimizer_center", "epoch", "best"):
        if not equal(a[name], b[name]):
            found.append(f"checkpoint: {name}")
    for name, forget in (
        ("batches.csv", r"$^"),
        ("epochs.csv", r",[^,]*$"),  # seconds
        ("log_mnist5k.txt", r"^(Finished|Run directory).*$"),
    ):
        texts = [re.sub(forget, "", (path / name).read_text(), flags=re.MULTILINE) for path in (whole, killed)]
        if texts[0] != texts[1]:
            found.append(name)
    return found


def equal(a: object, b: object) -> bool:
    """Return whether two nested states are the same to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_kills(tmp_path: Path, kills: int) -> None:
    """Every other one while a checkpoint is being written, the rest at any time."""
    rng = random.Random(0)
    epochs = 3 if kills == 1 else 10 * kills  # one kill falls on the first or second checkpoint; of more, some later
    flags = ["-d", "mnist5k", "--use-cpu", "--known-classes", "0", "1", "--batch-size", "100", "--print-freq", "3"]
    flags += ["--max-epoch", str(epochs), "--hold-out", "500"]  # 300 images are enough
    whole, killed, parts = tmp_path / "whole", tmp_path / "killed", 0
    assert start(whole, flags).wait() == 0
    for number in range(kills):
        [file.unlink() for file in killed.glob(".partial-*")]  # of the kill before
        if number % 2 == 0:
            process = start(killed, flags, ("-c", KILLED_WHILE_IT_WRITES, str(rng.randint(1, 2)), str(rng.random())))
        else:
            process = start(killed, flags)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(2.0, 8.0))
            process.kill()
        parts += process.wait() == -signal.SIGKILL and any(killed.glob(".partial-*-checkpoint.pt"))
    assert parts == (kills + 1) // 2
    assert start(killed, flags).wait() == 0
    assert differences(whole, killed) == []
