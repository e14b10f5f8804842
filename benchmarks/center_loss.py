"""Time and peak memory of a center-loss step: forward + backward + SGD on the centers.

    python benchmarks/center_loss.py | tee benchmarks/results/center_loss.txt

Compares `center_loss.CenterLoss` with a direct implementation that builds all B×C distances and
masks them, as the formula is often written down. Both have the widely copied semantics (mean
without ½, the loss's own gradient); ours keeps its checks, and its gradient is sparse where C is
large. The two alternate, each in a process of its own for the memory.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.timing import machine
from center_loss import CenterLoss

SHAPES = ((10, 2, 128), (10_000, 512, 256), (10_575, 512, 256), (85_742, 512, 256), (1_000_000, 512, 256))
LARGEST_DIRECT = 100_000  # beyond this B×C and C×D together do not fit the memory of a small machine


class DirectCenterLoss(nn.Module):
    """All distances, then a mask: O(B·C) memory and O(B·C·D) time."""

    def __init__(self, num_classes: int, feat_dim: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(num_classes, feat_dim))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        squares = features.square().sum(1, keepdim=True) + self.centers.square().sum(1)  # (B, C)
        distances = squares - 2 * features @ self.centers.t()
        mask = labels[:, None] == torch.arange(len(self.centers), device=labels.device)
        return (distances * mask).clamp(1e-12, 1e12).sum() / len(labels)


def make_step(name: str, num_classes: int, feat_dim: int, batch: int) -> Callable[[], None]:
    torch.manual_seed(0)
    if name == "direct":
        loss: nn.Module = DirectCenterLoss(num_classes, feat_dim)
    else:
        loss = CenterLoss(num_classes, feat_dim, sparse=num_classes > 1_000)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    features = torch.randn(batch, feat_dim, requires_grad=True)
    labels = torch.randint(0, num_classes, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        features.grad = None
        loss(features, labels).backward()
        optimizer.step()

    return step


def peak_of_this_process() -> float:
    """Return MiB, from Linux (getrusage would give the parent's peak to a child)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def peak_memory(name: str, shape: tuple[int, int, int]) -> float:
    """Return MiB that three steps take at their peak, beyond the process before them."""
    command = [sys.executable, __file__, "--memory", name, *map(str, shape)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compare(shape: tuple[int, int, int], rounds: int) -> None:
    """Print a line of the table: milliseconds and MiB of both ways for C classes, D features and a batch of B."""
    names = ["ours", "direct"] if shape[0] <= LARGEST_DIRECT else ["ours"]
    steps = {name: make_step(name, *shape) for name in names}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in steps.items():
            count, seconds = timeit.Timer(step).autorange()  # for at least 0.2 seconds
            times[name].append(1e3 * seconds / count)
    del steps
    columns = {}
    for name in names:
        low, middle, high = min(times[name]), statistics.median(times[name]), max(times[name])
        columns[name] = f"{middle:.4f} ({low:.4f} to {high:.4f})", f"{peak_memory(name, shape):.0f}"
    ratio = ""
    if "direct" in columns:
        ratio = f"{statistics.median(times['direct']) / statistics.median(times['ours']):.1f}"
    direct = columns.get("direct", ("", ""))
    print(
        f"{shape[0]:>9} {shape[1]:>4} {shape[2]:>4} | {columns['ours'][0]:>26} {columns['ours'][1]:>7} | "
        f"{direct[0]:>30} {direct[1]:>7} | {ratio}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="alternations (default: 7)")
    parser.add_argument("--memory", nargs=4, metavar=("NAME", "C", "D", "B"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        before = peak_of_this_process()
        step = make_step(args.memory[0], *map(int, args.memory[1:]))
        for _ in range(3):
            step()
        print(peak_of_this_process() - before)
        return

    print(machine())
    print("forward + backward + center step, checks included; median (fastest to slowest) of alternating rounds;")
    print("peak memory with the centers")
    print(f"{'C':>9} {'D':>4} {'B':>4} | {'ours ms':>26} {'MiB':>7} | {'direct ms':>30} {'MiB':>7} | ratio")
    for shape in SHAPES:
        compare(shape, args.rounds)


if __name__ == "__main__":
    main()
