"""All that a GPU has to say about this project, in one sitting of at most 20 minutes.

    python benchmarks/gpu.py                  # on a machine with a GPU, full MNIST under data/
    python benchmarks/gpu.py --rehearse       # the same steps on the CPU with a few digits, to try this program

Tests that need CUDA; equality with the CPU; accuracy in bf16, float32 and TF32, and compiled; speed of our loops
beside the ordinary one; time to 98.51 and 99 %; a run with figures; memory. Prints one page, and on a GPU writes it
to benchmarks/results/gpu.md.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import datasets
from rundir.log import read_epochs
from training.arguments import parse_arguments
from training.building import Training, build_training
from training.hardware import choose_device, gpu_name, plan_for
from training.parallel import Group
from utils import HERE, mean_and_std, plus_minus, processor_name

TARGETS = (98.51, 99.0)  # percent; the first is what the widely copied code logs at its epoch 30
Part = Callable[["Sitting"], Iterator[str]]


@dataclass(frozen=True)
class Sitting:
    """Where it is run, on what, and how much of it."""

    device: torch.device
    data: datasets.Digits
    flags: tuple[str, ...]  # of every run
    seeds: tuple[int, ...]
    lengths: tuple[int, ...]  # of runs whose accuracy is told, in epochs
    steps: int  # of a comparison step by step
    plot_epochs: int
    train: tuple[str, ...]  # flags for benchmarks/train.py

    def prepare(self, *flags: str, device: torch.device | None = None) -> Training:
        """Return what trains with further flags."""
        request = parse_arguments(["-d", self.data.name, *self.flags, *flags])
        device = device or self.device
        return build_training(plan_for(request, self.data.name, device), self.data, Group(device))

    def wait(self) -> None:
        """Wait until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def run_command(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program of the project for at most ten minutes."""
    try:
        return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{' '.join(command)}: not done after ten minutes")


def first_losses(steps: Iterator[tuple[float, Tensor]], count: int) -> Tensor:
    """Return the losses of the first steps, (count, 2), on the CPU."""
    return torch.stack([losses.clone() for _, losses in itertools.islice(steps, count)]).cpu()


def tests(sitting: Sitting) -> Iterator[str]:
    """Tests that need a GPU"""
    if importlib.util.find_spec("pytest") is None:
        yield "pytest is not installed: not run."
        return
    files = [str(file) for file in sorted((HERE / "tests").glob("test_*.py")) if "mark.cuda" in file.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=-ra", "-m", "cuda", "-p", "no:cacheprovider"]
    done = run_command([*command, "--continue-on-collection-errors", *files])
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "SKIPPED", "E  "))]
    yield "\n".join(["```", *told[:40], *done.stdout.strip().splitlines()[-1:], *done.stderr.splitlines()[-3:], "```"])


def same_as_cpu(sitting: Sitting) -> Iterator[str]:
    """The same training on both devices, float32"""
    flags = ("--precision", "fp32", "--deterministic", "--set", "convolutions=direct")
    here, there = sitting.prepare(*flags), sitting.prepare(*flags, device=torch.device("cpu"))
    losses = [first_losses(training.steps(1)[0], sitting.steps) for training in (here, there)]
    yield "| after | largest difference of a loss | relative |\n|---|---|---|"
    for step in sorted({1, sitting.steps // 4, sitting.steps}):
        gap = (losses[0] - losses[1])[:step].abs().max()
        yield f"| {step} steps | {gap:.1e} | {gap / losses[1][:step].abs().max():.1e} |"


def accuracy(sitting: Sitting) -> Iterator[str]:
    """Accuracy at the end of a run, and the seconds that it trained"""
    yield "Start and evaluation are not counted, nor is a first run for each row, in which cuDNN chooses its ways.\n"
    names = (
        "epochs | precision | compiled | accuracy, % | each seed | seconds of training | an epoch | peak memory, MiB"
    )
    yield f"| {names} |\n|---|---|---|---|---|---|---|---|"
    on_gpu = sitting.device.type == "cuda"
    ways = [("bf16", "off"), ("fp32", "off"), *([("tf32", "off"), ("bf16", "on")] if on_gpu else [])]
    reached: dict[float, str] = {}
    for length, (precision, compiled) in itertools.product(sitting.lengths, ways):
        accuracies, seconds = [], []
        for number, seed in enumerate((sitting.seeds[0], *sitting.seeds)):
            if number == 1 and sitting.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(sitting.device)  # what cuDNN tried is not a run's
            flags = ("--max-epoch", str(length), "--precision", precision, "--compile", compiled, "--seed", str(seed))
            training = sitting.prepare(*flags)
            sitting.wait()
            start = time.perf_counter()
            for epoch in range(1, length + 1):
                losses = [losses for _, losses in training.steps(epoch)[0]]
                torch.stack(losses).cpu()
            seconds.append(time.perf_counter() - start)
            data = training.data
            accuracies.append(training.trainer.evaluate(data.test_images, data.test_labels).accuracy)
            del training, data, losses
            gc.collect()  # a graph and its memory
        memory = f"{torch.cuda.max_memory_allocated(sitting.device) / 2**20:.0f}" if on_gpu else "–"
        each = ", ".join(f"{value:.2f}" for value in accuracies[1:])
        epochs = [taken / length for taken in seconds[1:]]
        figures = (plus_minus(accuracies[1:], 2), each, plus_minus(seconds[1:], 2), plus_minus(epochs, 3), memory)
        yield f"| {length} | {precision} | {compiled} | {' | '.join(figures)} |"
        for target in TARGETS:
            if mean_and_std(accuracies[1:])[0] >= target:
                said = (
                    f"{plus_minus(seconds[1:], 2)} s of training ({length} epochs, {precision}, compiled: {compiled})"
                )
                reached.setdefault(target, said)
    yield ""
    for target in TARGETS:
        yield f"Mean accuracy of at least {target} %: {reached.get(target, 'not in runs of these lengths')}."


def speed(sitting: Sitting) -> Iterator[str]:
    """Speed beside the ordinary loop"""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        yield f"torchvision cannot be imported: not run ({error})."
        return
    if not datasets.is_there("mnist", HERE / "data"):
        yield "The ordinary loop needs MNIST under data/: not run."
        return
    program = [sys.executable, str(HERE / "benchmarks/train.py"), *sitting.train]
    for variants in (["--precision fp32", "--compile on"], ["--precision fp32"]):
        command = [*program, *(f"--variant={one}" for one in variants)]
        done = run_command(command)
        if done.returncode == 0:
            yield done.stdout.strip()
            return
        yield f"With {', '.join(variants)}:\n```\n{done.stderr.strip()[-2000:]}\n```"  # a compiler may be missing


def with_figures(sitting: Sitting) -> Iterator[str]:
    """A run with --plot, from its start to its last figure"""
    yield "| seconds | seconds of training | accuracy, % | figures |\n|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "main.py"), "-d", sitting.data.name, *sitting.flags, "--plot"]
        command += ["--max-epoch", str(sitting.plot_epochs), "--save-dir", f"{folder}/run"]
        command += ["--use-cpu"] if sitting.device.type == "cpu" else []
        start = time.perf_counter()
        done = run_command(command)
        seconds = time.perf_counter() - start
        if done.returncode:
            yield f"\n```\n{done.stderr.strip()[-2000:]}\n```"
            return
        trained = sum(row.seconds for row in read_epochs(Path(folder) / "run"))
        figures = len(list((Path(folder) / "run").glob("*/epoch_*.png")))
        found = re.findall(r"Accuracy \(%\): ([\d.]+)", done.stdout)
        yield f"| {seconds:.1f} | {trained:.1f} | {found[-1]} | {figures} |"


PARTS: tuple[Part, ...] = (tests, accuracy, speed, with_figures, same_as_cpu)  # the last: deterministic


def sit(rehearse: bool) -> Sitting:
    """Return the sitting: on the GPU with all of MNIST, or on the CPU with two digits of the bundled ones."""
    if rehearse:
        data = datasets.load("mnist5k", HERE / "data")
        flags = ("--known-classes", "0", "1", "--batch-size", "100")
        train = ("--use-cpu", "--images", "384", "--rounds", "2", "--workers", "0")
        return Sitting(torch.device("cpu"), data, flags, (1, 2), (1,), 8, 2, train)
    device, line = choose_device(0, use_cpu=False)
    if device.type != "cuda":
        sys.exit(f"{line}. To try this program without a GPU: --rehearse")
    data = datasets.load("mnist", HERE / "data")
    return Sitting(device, data, (), (1, 2, 3, 4, 5), (1, 2, 3), 40, 10, ("--rounds", "5"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with a few digits; nothing is written")
    some = "some of the parts; they are added to the page"
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS], help=some)
    parser.add_argument("--out", type=Path, default=HERE / "benchmarks/results/gpu.md", help="where the page goes")
    args = parser.parse_args()
    sitting = sit(args.rehearse)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    page = open(os.devnull if args.rehearse else args.out, "a" if args.only else "w", encoding="utf-8")

    def tell(line: str) -> None:
        print(line, flush=True)
        print(line, file=page, flush=True)

    name = gpu_name(sitting.device) if sitting.device.type == "cuda" else f"{processor_name()} (a rehearsal)"
    tell(f"# {name}\n\n`python benchmarks/gpu.py`; Python {platform.python_version()}, torch {torch.__version__}")
    deterministic = torch.are_deterministic_algorithms_enabled()
    for part in PARTS:
        if args.only and part.__name__ not in args.only:
            continue
        start = time.perf_counter()
        tell(f"\n## {part.__doc__}\n")
        try:
            for line in part(sitting):
                tell(line)
        except Exception as error:  # the other parts are worth having
            tell(f"\nStopped: {type(error).__name__}: {str(error).strip()[:500]}")
        torch.use_deterministic_algorithms(deterministic)
        tell(f"\n({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
