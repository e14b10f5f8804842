"""All that a GPU has to say about this project, in at most 30 minutes, part by part.

    python benchmarks/gpu.py --out results                      # on a machine with a GPU, full MNIST under data/
    python benchmarks/gpu.py --out results --only tests steps   # one part or two a command
    python benchmarks/gpu.py --out results --rehearse           # the same parts on the CPU with a few digits

Each part is a process of its own with a limit below ten minutes, and has a page of its own in the folder, which is
written as the part goes on: what hangs or fails loses nothing else. MNIST may be gzipped.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import importlib.util
import itertools
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import datasets
from analysis.tables import mean_and_std, plus_minus
from benchmarks.timing import by_turns, machine
from rundir.log import read_epochs
from training.arguments import parse_arguments
from training.building import Training, build_training
from training.hardware import choose_device, gpu_name, plan_for
from training.parallel import Group
from utils import HERE

CPU = torch.device("cpu")
TARGETS = (98.51, 99.0)  # percent; the first is what the widely copied code logs at its epoch 30
REHEARSAL = ("--known-classes", "0", "1", "--batch-size", "100", "--use-cpu")
LIMITS = {"tests": 300, "steps": 300, "accuracy": 540, "speed": 400, "figures": 200}  # seconds


def prepare(rehearse: bool, *flags: str, device: torch.device | None = None) -> Training:
    """Return what trains on MNIST on the GPU, or a few digits on the CPU, with further flags."""
    name = "auto" if rehearse else "mnist"
    data = datasets.load(name, HERE / "data", lambda line: None)
    request = parse_arguments(["-d", data.name, *(REHEARSAL if rehearse else ()), *flags])
    device = device or choose_device(0, rehearse)[0]
    return build_training(plan_for(request, data.name, device), data, Group(device))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the project."""
    return subprocess.run([sys.executable, *words], cwd=HERE, capture_output=True, text=True)


def tests(rehearse: bool) -> Iterator[str]:
    """Tests that need a GPU"""
    if importlib.util.find_spec("pytest") is None:
        yield "pytest is not installed: not run."
        return
    files = [str(file) for file in sorted((HERE / "tests").glob("test_*.py")) if "mark.cuda" in file.read_text()]
    flags = ("-q", "-o", "addopts=-ra", "-m", "cuda", "-p", "no:cacheprovider", "--continue-on-collection-errors")
    done = run("-m", "pytest", *flags, *files)
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "SKIPPED", "E  "))]
    yield "\n".join(["```", *told[:40], *done.stdout.strip().splitlines()[-1:], *done.stderr.splitlines()[-3:], "```"])


def steps(rehearse: bool) -> Iterator[str]:
    """The same float32 training on both devices, and ways to compute a step"""
    flags = ("--precision", "fp32", "--deterministic", "--convolutions", "direct")
    count = 8 if rehearse else 40
    losses = []
    for device in (None, CPU):
        training = prepare(rehearse, *flags, device=device)
        some = itertools.islice(training.steps(1)[0], count)
        losses.append(torch.stack([both.clone() for _, both in some]).cpu())
    gap = (losses[0] - losses[1]).abs().max()
    yield f"Largest difference of a loss in {count} steps: {gap:.1e}, relative {gap / losses[1].abs().max():.1e}.\n"
    torch.use_deterministic_algorithms(False)
    yield "| step | milliseconds |\n|---|---|"
    ways = {"float32": ("--precision", "fp32"), "bf16": ("--precision", "bf16")}
    if not rehearse:
        ways |= {"TF32": ("--precision", "tf32"), "bf16, compiled": ("--precision", "bf16", "--compile", "on")}
    works = {name: partial(train, prepare(rehearse, *flags), count) for name, flags in ways.items()}
    contiguous = prepare(rehearse, "--precision", "fp32")
    contiguous.trainer.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    works["float32, contiguous weights"] = partial(train, contiguous, count)
    fused = prepare(rehearse, "--precision", "fp32")
    for group in fused.trainer.optimizer_model.param_groups:
        group |= {"fused": True, "foreach": False}
    works["float32, fused SGD"] = partial(train, fused, count)
    for work in works.values():
        work()
    for name, seconds in by_turns(works, 5).items():
        yield f"| {name} | {plus_minus([1000 * one / count for one in seconds], 2)} |"


def train(training: Training, count: int) -> None:
    """Train the first batches of the first epoch, and wait for them."""
    torch.stack([losses for _, losses in training.steps(1, count)[0]]).cpu()


def accuracy(rehearse: bool) -> Iterator[str]:
    """Accuracy at the end of a run, and the seconds that it trained"""
    yield "Start and evaluation are not counted, nor is a first run for each row, in which cuDNN chooses its ways.\n"
    columns = "epochs | precision | compiled | accuracy, % | each seed | seconds of training | peak memory, MiB"
    yield f"| {columns} |\n|---|---|---|---|---|---|---|"
    ways = [("bf16", "off"), ("fp32", "off"), *([] if rehearse else [("tf32", "off"), ("bf16", "on")])]
    reached: dict[float, str] = {}
    seeds = (1, 1, 2) if rehearse else (1, 1, 2, 3, 4, 5)
    for length, (precision, compiled) in itertools.product((1,) if rehearse else (1, 2, 3), ways):
        accuracies, seconds = [], []
        for seed in seeds:
            flags = ("--max-epoch", str(length), "--precision", precision, "--compile", compiled, "--seed", str(seed))
            training = prepare(rehearse, *flags)
            start = time.perf_counter()
            for epoch in range(1, length + 1):
                torch.stack([losses for _, losses in training.steps(epoch)[0]]).cpu()
            seconds.append(time.perf_counter() - start)
            data = training.data
            accuracies.append(training.trainer.evaluate(data.test_images, data.test_labels).accuracy)
            del training, data
            gc.collect()  # a graph and its memory
        memory = "–" if rehearse else f"{torch.cuda.max_memory_allocated() / 2**20:.0f}"
        each = ", ".join(f"{value:.2f}" for value in accuracies[1:])
        figures = (plus_minus(accuracies[1:], 2), each, plus_minus(seconds[1:], 2), memory)
        yield f"| {length} | {precision} | {compiled} | {' | '.join(figures)} |"
        for target in TARGETS:
            if mean_and_std(accuracies[1:])[0] >= target:
                took = f"{plus_minus(seconds[1:], 2)} s of training, {length} epochs, {precision}, compiled: {compiled}"
                reached.setdefault(target, took)
    yield ""
    for target in TARGETS:
        yield f"Mean accuracy of at least {target} %: {reached.get(target, 'not in runs of these lengths')}."


def speed(rehearse: bool) -> Iterator[str]:
    """Speed beside the ordinary loop"""
    raw = HERE / "data/MNIST/raw"
    with tempfile.TemporaryDirectory() as folder:  # torchvision reads unpacked files alone
        (Path(folder) / "MNIST/raw").mkdir(parents=True)
        for stem in datasets.EXPECTED:
            if (file := datasets.find_file(raw, stem)) is None:
                yield f"The ordinary loop needs MNIST under data/, and {stem} is missing: not run."
                return
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            (Path(folder) / "MNIST/raw" / stem).write_bytes(content)
        few = ("--use-cpu", "--images", "384", "--rounds", "2", "--workers", "0") if rehearse else ("--rounds", "5")
        words = ("benchmarks/train.py", "--data-root", folder, *few, "--variant=--precision fp32")
        done = run(*words, *(() if rehearse else ("--variant=--precision tf32", "--variant=--compile on")))
        yield done.stdout.strip() if done.returncode == 0 else f"```\n{done.stderr.strip()[-2000:]}\n```"


def figures(rehearse: bool) -> Iterator[str]:
    """A run with --plot, from its start to its last figure"""
    yield "| seconds | seconds of training | accuracy, % | figures |\n|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        flags = (*REHEARSAL, "--max-epoch", "2") if rehearse else ("-d", "mnist", "--max-epoch", "10")
        start = time.perf_counter()
        done = run("main.py", *flags, "--plot", "--save-dir", f"{folder}/run")
        seconds = time.perf_counter() - start
        if done.returncode:
            yield f"\n```\n{done.stderr.strip()[-2000:]}\n```"
            return
        trained = sum(row.seconds for row in read_epochs(Path(folder) / "run"))
        drawn = len(list((Path(folder) / "run").glob("*/epoch_*.png")))
        yield f"| {seconds:.1f} | {trained:.1f} | {re.findall(r'Accuracy .*?: ([.0-9]+)', done.stdout)[-1]} | {drawn} |"


PARTS = {"tests": tests, "steps": steps, "accuracy": accuracy, "speed": speed, "figures": figures}


def write_part(name: str, rehearse: bool, page: Path) -> None:
    """Write the page of one part, line by line."""
    device = choose_device(0, rehearse)[0]
    start = time.perf_counter()
    with open(page, "w", encoding="utf-8", buffering=1) as file:
        print(f"## {PARTS[name].__doc__}\n", file=file)
        print(f"{'a rehearsal' if rehearse else gpu_name(device)}; {machine()}\n", file=file)
        for line in PARTS[name](rehearse):
            print(line, file=file)
        print(f"\n({time.perf_counter() - start:.0f} s)", file=file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with a few digits")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pages")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.rehearse:
        torch.set_num_threads(1)  # it shows that the parts work, beside whatever else the machine does
    device, line = choose_device(0, args.rehearse)
    if device.type != "cuda" and not args.rehearse:
        parser.error(f"{line}. To try this program without a GPU: --rehearse")
    for name in args.only:
        page = args.out / f"{name}.md"
        if args.inside:
            write_part(name, args.rehearse, page)
            continue
        words = [sys.executable, __file__, "--inside", "--only", name, "--out", str(args.out)]
        limit = 3_600 if args.rehearse else LIMITS[name]
        try:
            code = subprocess.run([*words, *(["--rehearse"] if args.rehearse else [])], timeout=limit).returncode
        except subprocess.TimeoutExpired:
            code = 124
        if code:
            with open(page, "a", encoding="utf-8") as file:
                print(f"\nStopped with status {code}; its limit is {limit} s.", file=file)
        print(page.read_text(encoding="utf-8"), flush=True)


if __name__ == "__main__":
    main()
