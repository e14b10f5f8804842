"""Kill a training run at random moments, resume it each time, and compare it with one left alone.

python tests/kill_and_resume.py --kills 20
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


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


def start_and_kill(path: Path, flags: list[str], writing: bool, rng: random.Random) -> int:
    """Start the run or take it up, and kill it: while a checkpoint is being written, or at any time.
    Return its exit status."""
    if writing:
        return start(path, flags, ("-c", KILLED_WHILE_IT_WRITES, str(rng.randint(1, 2)), str(rng.random()))).wait()
    process = start(path, flags)
    deadline = time.monotonic() + rng.uniform(2.0, 8.0)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    return process.wait()


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


def kill_and_resume(folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Return how many kills left a part of a checkpoint behind, and how many fell elsewhere.

    Raises:
        AssertionError: if the killed run ends up other than the one that was left alone.
    """
    rng = random.Random(seed)
    epochs = 3 if kills == 1 else 10 * kills  # one kill falls on the first or second checkpoint; of more, some later
    flags = ["-d", "mnist5k", "--use-cpu", "--known-classes", "0", "1", "--batch-size", "100", "--print-freq", "3"]
    flags += ["--max-epoch", str(epochs), "--hold-out", "500"]  # 300 images are enough
    whole, killed = folder / "whole", folder / "killed"
    assert start(whole, flags).wait() == 0
    counts = {"while a checkpoint was being written": 0, "elsewhere": 0, "after the end": 0}
    for number in range(kills):
        [file.unlink() for file in killed.glob(".partial-*")]  # of the kill before
        if start_and_kill(killed, flags, number % 2 == 0, rng) != -signal.SIGKILL:
            counts["after the end"] += 1
        elif any(killed.glob(".partial-*-checkpoint.pt")):
            counts["while a checkpoint was being written"] += 1
        else:
            counts["elsewhere"] += 1
    assert start(killed, flags).wait() == 0
    assert not (found := differences(whole, killed)), found
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        counts = kill_and_resume(Path(temporary), args.kills, args.seed)
    moments = ", ".join(f"{count} {moment}" for moment, count in counts.items())
    print(f"{args.kills} kills: {moments}. The run ended as the one that was left alone, to the last bit")
