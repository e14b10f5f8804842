"""All that a GPU has to say about this project, in at most 30 minutes, part by part.

    python benchmarks/gpu.py --out results                      # on a machine with a GPU, full MNIST under data/
    python benchmarks/gpu.py --out results --only tests steps   # one part or two a command
    python benchmarks/gpu.py --out results --rehearse           # the same parts on the CPU with a few digits

Each part is a process of its own with a limit below ten minutes (an hour with --rehearse), and has a page of its own
in the folder, which is written as the part goes on: what hangs or fails loses nothing else. MNIST may be gzipped.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import datasets
from analysis.tables import plus_minus
from benchmarks.timing import clock, machine
from rundir.log import read_epochs
from training.arguments import parse_arguments
from training.building import Training, build_training
from training.hardware import choose_device, gpu_name, plan_for
from training.parallel import Group
from utils import ROOT, UserError

REHEARSAL = ("--known-classes", "0", "1", "--batch-size", "100", "--use-cpu")
LIMITS = {"tests": 300, "steps": 300, "accuracy": 480, "speed": 400, "figures": 200}  # seconds
WAYS = {
    "float32": ("--precision", "fp32"),
    "float32, contiguous": ("--precision", "fp32"),
    "float32, fused SGD": ("--precision", "fp32"),
    "TF32": ("--precision", "tf32"),
    "bf16": ("--precision", "bf16"),
    "bf16, compiled": ("--precision", "bf16", "--compile", "on"),
}


def prepare(rehearse: bool, *flags: str, device: torch.device | None = None) -> Training:
    """Return what trains on MNIST on the GPU, or a few digits on the CPU, with further flags."""
    data = datasets.load("auto" if rehearse else "mnist", ROOT / "data", lambda line: None)
    if rehearse:
        data = replace(data, train_images=data.train_images[:4_000], train_labels=data.train_labels[:4_000])
    request = parse_arguments(["-d", data.name, *(REHEARSAL if rehearse else ()), *flags])
    device = device or choose_device(0, rehearse)[0]
    return build_training(plan_for(request, data.name, device), data, Group(device))


def train(training: Training, epoch: int = 1, count: int | None = None) -> None:
    """Train an epoch, or its first batches, and wait for the device."""
    torch.stack([losses for _, losses in itertools.islice(training.steps(epoch)[0], count)]).cpu()


def run(*words: str) -> None:
    """Run a program of the project; what it says goes to the page."""
    subprocess.run([sys.executable, *words], cwd=ROOT)


def tests(rehearse: bool) -> Iterator[str]:
    """Tests that need a GPU"""
    files = [str(file) for file in sorted((ROOT / "tests").glob("test_*.py")) if "mark.cuda" in file.read_text()]
    yield "```"
    flags = ("-v", "-o", "addopts=-rs", "-m", "cuda", "--tb=short", "-p", "no:cacheprovider")
    run("-m", "pytest", *flags, "--continue-on-collection-errors", *files)
    yield "```"


def steps(rehearse: bool) -> Iterator[str]:
    """The same float32 training on both devices, and ways to compute a step"""
    flags = ("--precision", "fp32", "--deterministic", "--convolutions", "direct")
    count = 8 if rehearse else 40
    both = [
        itertools.islice(prepare(rehearse, *flags, device=device).steps(1)[0], count)
        for device in (None, torch.device("cpu"))
    ]
    here, there = (torch.stack([losses.cpu() for _, losses in some]) for some in both)
    gap = (here - there).abs().max()
    yield f"Largest difference of a loss in {count} steps: {gap:.1e}, relative {gap / there.abs().max():.1e}.\n"
    torch.use_deterministic_algorithms(False)
    yield "| step | milliseconds |\n|---|---|"
    for name, way in WAYS.items():  # one after another: whether convolutions take TF32 holds for the whole process
        try:
            training = prepare(rehearse, *way)
            if name.endswith("contiguous"):
                model = training.trainer.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
                model.register_forward_pre_hook(lambda _, images: images[0].flatten(1).view(-1, 1, 28, 28))
            for group in training.trainer.optimizer_model.param_groups if name.endswith("fused SGD") else ():
                group |= {"fused": True, "foreach": False}
            seconds = [clock(lambda: train(training, 1, count)) for _ in range(7)]  # noqa: B023
            yield f"| {name} | {plus_minus([1000 * one / count for one in seconds[2:]], 2)} |"
        except (RuntimeError, UserError) as error:
            yield f"| {name} | {' '.join(str(error).split())[:200]} |"


def accuracy(rehearse: bool) -> Iterator[str]:
    """Accuracy at the end of a run, and the seconds that it trained"""
    yield "Start and evaluation are not counted, nor is a first run for each row, in which cuDNN chooses its ways.\n"
    yield "| epochs | precision | accuracy, % | each seed | seconds of training |\n|---|---|---|---|---|"
    seeds = (1, 1, 2) if rehearse else (1, 1, 2, 3, 4, 5)
    lengths, precisions = ((1,), ("bf16", "fp32")) if rehearse else ((1, 2, 3), ("bf16", "fp32", "tf32"))
    for length, precision in itertools.product(lengths, precisions):
        accuracies, seconds = [], []
        for seed in seeds:
            training = prepare(rehearse, "--max-epoch", str(length), "--precision", precision, "--seed", str(seed))
            seconds.append(clock(lambda: [train(training, epoch) for epoch in range(1, length + 1)]))  # noqa: B023
            accuracies.append(training.trainer.evaluate(training.data.test_images, training.data.test_labels).accuracy)
        each = ", ".join(f"{value:.2f}" for value in accuracies[1:])
        yield f"| {length} | {precision} | {plus_minus(accuracies[1:], 2)} | {each} | {plus_minus(seconds[1:], 2)} |"


def speed(rehearse: bool) -> Iterator[str]:
    """Speed beside the ordinary loop"""
    few = ("--use-cpu", "--images", "384", "--rounds", "2", "--workers", "0") if rehearse else ("--rounds", "5")
    with tempfile.TemporaryDirectory() as folder:  # torchvision reads unpacked files alone
        raw = Path(folder) / "MNIST/raw"
        raw.mkdir(parents=True)
        for file in (ROOT / "data/MNIST/raw").iterdir():
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            (raw / file.name.removesuffix(".gz")).write_bytes(content)
        more = () if rehearse else ("--variant=--precision tf32", "--variant=--compile on")
        run("benchmarks/train.py", "--data-root", folder, *few, "--variant=--precision fp32", *more)
    yield ""


def figures(rehearse: bool) -> Iterator[str]:
    """A run with --plot, from its start to its last figure"""
    with tempfile.TemporaryDirectory() as folder:
        flags = (*REHEARSAL, "--max-epoch", "2") if rehearse else ("-d", "mnist", "--max-epoch", "10")
        seconds = clock(lambda: run("main.py", *flags, "--plot", "--save-dir", f"{folder}/run"))
        epochs = read_epochs(Path(folder) / "run")
        drawn = len(list((Path(folder) / "run").glob("*/epoch_*.png")))
    yield "\n| seconds | seconds of training | accuracy, % | figures |\n|---|---|---|---|"
    yield f"| {seconds:.1f} | {sum(row.seconds for row in epochs):.1f} | {epochs[-1].test_accuracy:.2f} | {drawn} |"


PARTS = {"tests": tests, "steps": steps, "accuracy": accuracy, "speed": speed, "figures": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with a few digits")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pages")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rehearse:
        torch.set_num_threads(1)  # it shows that the parts work, beside whatever else the machine does
    device, line = choose_device(0, args.rehearse)
    if device.type != "cuda" and not args.rehearse:
        parser.error(f"{line}. To try this program without a GPU: --rehearse")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        if args.inside:
            where = "a rehearsal" if args.rehearse else gpu_name(device)
            print(f"## {PARTS[name].__doc__}\n\n{where}; {machine()}\n")
            try:
                for line in PARTS[name](args.rehearse):
                    print(line)
            except (UserError, OSError) as error:
                sys.exit(f"Stopped: {error}")
            continue
        limit = 3_600 if args.rehearse else LIMITS[name]
        words = [sys.executable, "-u", *sys.argv, "--inside", "--only", name]
        page, start = args.out / f"{name}.md", time.perf_counter()
        with open(page, "w", encoding="utf-8") as file:  # timeout ends what the part started, too
            ended = subprocess.run(["timeout", "--kill-after=5", str(limit), *words], stdout=file, stderr=file)
            file.write(f"\n({time.perf_counter() - start:.0f} s of at most {limit}; status {ended.returncode})\n")
        print(page.read_text(encoding="utf-8"), flush=True)


if __name__ == "__main__":
    main()
