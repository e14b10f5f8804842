"""How fast training is: ours against the ordinary loop, and against the convolutions alone.

    python benchmarks/train.py --variant="--compile on" > benchmarks/results/train_cpu.txt

In one process, taking turns: an epoch (or its first --images) of main.py's training, and of the loop
that people write by default: torchvision's data set, PIL transforms, a DataLoader with workers, eager
float32, layers of torch.nn, `.item()` after each batch. Same model, batch size and number of images. In
each turn also the step's convolutions, each pass timed alone in the better of two memory layouts, in our
precision. Then the time of each part of our step. Each --variant is main.py's training once more, with
further flags.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import nn

from center_loss import CenterLoss
from datasets import Digits, load
from models import LeNetPP, SoftmaxHead
from training.arguments import parse_arguments
from training.building import build_training
from training.hardware import autocast, choose_device, gpu_name, plan_for
from training.parallel import Group
from training.settings import Plan
from training.trainer import Trainer
from utils import plus_minus, processor_name

BATCH = 128
LAYOUTS = (torch.contiguous_format, torch.channels_last)
CONVOLUTIONS = ((1, 32, 28), (32, 32, 28), (32, 64, 14), (64, 64, 14), (64, 128, 7), (128, 128, 7))  # in, out, side


def wait(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ours(data: Digits, device: torch.device, flags: list[str]) -> tuple[Trainer, Callable[[int], None], Plan]:
    """Return main.py's trainer, what trains it on the first batches of its first epoch, and its plan."""
    request = parse_arguments(flags)
    plan = plan_for(request, data.name, device)
    training, settings = build_training(plan, data, Group(device)), plan.settings
    if settings.batch_size != BATCH or len(training.data.train_labels) != 60_000:
        sys.exit(f"{' '.join(flags)}: every loop trains with the same batches of {BATCH} images of MNIST")

    def train(count: int) -> None:
        autocast(settings.precision, device)  # what float32 convolutions are is of the whole process
        for number, (_, losses) in enumerate(training.steps(1, count)[0], 1):
            if number % 50 == 0:
                losses.tolist()  # as --print-freq reads them
        wait(device)

    return training.trainer, train, plan


def ordinary(root: str, device: torch.device, workers: int) -> Callable[[int], None]:
    """Return what trains the ordinary way on so many batches."""
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    loader = torch.utils.data.DataLoader(
        datasets.MNIST(root, train=True, transform=transform),
        BATCH,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    model, head = LeNetPP().to(device), SoftmaxHead(2, 10).to(device)
    center_loss = CenterLoss(10, 2).to(device)
    optimizer_model = torch.optim.SGD([*model.parameters(), *head.parameters()], 0.001, momentum=0.9, weight_decay=5e-4)
    optimizer_center = torch.optim.SGD(center_loss.parameters(), 0.5)

    def train(count: int) -> None:
        total = 0.0
        if device.type == "cuda":
            torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]  # torch's default
        for images, labels in itertools.islice(loader, count):
            images, labels = images.to(device), labels.to(device)
            features = model(images)
            loss = F.cross_entropy(head(features), labels) + 0.1 * center_loss(features, labels)
            optimizer_model.zero_grad()
            optimizer_center.zero_grad()
            loss.backward()
            optimizer_model.step()
            optimizer_center.step()
            total += loss.item()
        wait(device)

    return train


def clock(work: Callable[[], object], device: torch.device) -> float:
    """Return how long some work takes, in seconds."""
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


@contextlib.contextmanager
def timed(spent: dict[str, float], name: str, owner: Any, attribute: str, device: torch.device) -> Iterator[None]:
    """Add up under `name` what calls of a function take."""
    function = getattr(owner, attribute)

    def call(*args: Any, **kwargs: Any) -> Any:
        result: list[Any] = []
        wait(device)
        spent[name] = spent.get(name, 0.0) + clock(lambda: result.append(function(*args, **kwargs)), device)
        return result[0]

    setattr(owner, attribute, call)
    try:
        yield
    finally:
        setattr(owner, attribute, function)


def parts_of_a_step(
    trainer: Trainer, train: Callable[[int], None], count: int, device: torch.device
) -> dict[str, float]:
    """Return the milliseconds that the parts of a step take, and the whole."""
    spent: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        for name, owner, attribute in (
            ("forward", trainer, "forward"),
            ("backward", torch.Tensor, "backward"),
            ("clip", nn.utils, "clip_grad_norm_"),
            ("optimizers", trainer.optimizer_model, "step"),
            ("optimizers", trainer.optimizer_center, "step"),
        ):
            stack.enter_context(timed(spent, name, owner, attribute, device))
        whole = clock(lambda: train(count), device)
    spent["batches, losses and the rest"] = whole - sum(spent.values())
    return {name: 1000 * seconds / count for name, seconds in (spent | {"whole step": whole}).items()}


class Ceiling:
    """The convolution passes of a step, each in its better layout."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.passes: list[Callable[[], object]] = []
        for inputs, outputs, side in CONVOLUTIONS:
            layouts = [self._passes(inputs, outputs, side, dtype, layout) for layout in LAYOUTS]
            self.passes += [min(rivals, key=self._seconds) for rivals in zip(*layouts, strict=True)]

    def milliseconds(self) -> float:
        """Return what the passes take now, one after the other, each a few times in a row."""
        return 1000 * sum(map(self._seconds, self.passes))

    def _passes(
        self, inputs: int, outputs: int, side: int, dtype: torch.dtype, layout: torch.memory_format
    ) -> list[Callable[[], object]]:
        x = torch.randn(BATCH, inputs, side, side).to(self.device, dtype, memory_format=layout)
        w = torch.randn(outputs, inputs, 5, 5).to(self.device, dtype, memory_format=layout)
        bias = torch.zeros(outputs, device=self.device, dtype=dtype)
        dy = torch.randn_like(F.conv2d(x, w, bias, padding=2))
        forward, data, weight = (
            lambda: F.conv2d(x, w, bias, padding=2),
            lambda: _backward(dy, x, w, (True, False, False)),
            lambda: _backward(dy, x, w, (False, True, True)),
        )
        return [forward, weight] if inputs == 1 else [forward, data, weight]  # images need no gradient

    def _seconds(self, work: Callable[[], object]) -> float:
        work()
        wait(self.device)
        return clock(lambda: [work() for _ in range(10)], self.device) / 10


def _backward(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, which: tuple[bool, bool, bool]) -> Any:
    return torch.ops.aten.convolution_backward(
        dy, x, w, [w.shape[0]], [1, 1], [2, 2], [1, 1], False, [0, 0], 1, list(which)
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000, metavar="N", help="of an epoch (default: 60000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each (default: 3)")
    parser.add_argument(
        "--workers", type=int, default=4, metavar="N", help="of the ordinary loop's loader (default: 4)"
    )
    parser.add_argument("--use-cpu", action="store_true")
    parser.add_argument("--data-root", default="data", metavar="DIR")
    parser.add_argument(
        "--variant", action="append", default=[], metavar="FLAGS", help="time ours with these flags too"
    )
    parser.add_argument("more", nargs="*", help="further flags for main.py, after --")
    args = parser.parse_args()
    if not 3 * BATCH <= args.images <= 60_000:
        parser.error(f"--images must lie between {3 * BATCH} and 60000; got {args.images}")
    return args


def main() -> None:
    args = parse()
    count = args.images // BATCH

    device, _ = choose_device(0, args.use_cpu)
    data = load("mnist", Path(args.data_root))
    trainer, train_ours, plan = ours(data, device, ["-d", "mnist", "--batch-size", str(BATCH), *args.more])
    loops = {"ours": train_ours}
    for flags in args.variant:
        _, loops[f"ours {flags}"], _ = ours(
            data, device, ["-d", "mnist", "--batch-size", str(BATCH), *args.more, *flags.split()]
        )
    loops["ordinary"] = ordinary(args.data_root, device, args.workers)
    name = gpu_name(device) if device.type == "cuda" else f"{processor_name()}, {torch.get_num_threads()} threads"
    print(f"`{shlex.join(['python', 'benchmarks/train.py', *sys.argv[1:]])}`")
    print(f"{name}; Python {platform.python_version()}, torch {torch.__version__}")
    why = plan.why
    chosen = {"precision": plan.settings.precision, "convolutions": plan.convolutions, "compile": plan.compile}
    print("Ours: " + "; ".join(f"{name} {what} ({why[name]})" for name, what in chosen.items()))
    print(
        f"Batch {BATCH}, {count * BATCH} images a turn, n = {args.rounds} turns, loader with {args.workers} workers\n"
    )

    first = {name: clock(partial(train, 2), device) for name, train in loops.items()}
    convolutions = Ceiling(device, torch.bfloat16 if plan.settings.precision == "bf16" else torch.float32)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    alone: list[float] = []  # milliseconds a step
    for _ in range(args.rounds):
        for name, train in loops.items():
            seconds[name].append(clock(partial(train, count), device))
        autocast(plan.settings.precision, device)  # what the ordinary loop has set is not ours
        alone.append(convolutions.milliseconds())

    print("| loop | images/s | seconds an epoch | times the ordinary loop | first two batches |")
    print("|---|---|---|---|---|")
    for name, taken in seconds.items():
        rates = [count * BATCH / s for s in taken]
        epochs = [60_000 / BATCH / count * s for s in taken]
        ratios = [theirs / own for own, theirs in zip(taken, seconds["ordinary"], strict=True)]
        cells = (plus_minus(rates, 0), plus_minus(epochs, 1), plus_minus(ratios, 2), f"{first[name]:.1f} s")
        print(f"| {name} | {' | '.join(cells)} |")

    steps = [1000 * s / count for s in seconds["ours"]]
    shares = [100 * least / step for least, step in zip(alone, steps, strict=True)]
    print(f"\nOur step: {plus_minus(steps, 1)} ms; its convolutions alone: {plus_minus(alone, 1)} ms, ", end="")
    print(f"{plus_minus(shares, 1)} % of the step")
    print("The parts of our step in milliseconds, each waited for:")
    for key, milliseconds in parts_of_a_step(trainer, train_ours, min(count, 60), device).items():
        print(f"  {key:30}{milliseconds:8.2f}")


if __name__ == "__main__":
    main()
