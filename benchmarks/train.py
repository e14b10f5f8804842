"""How fast training is beside the ordinary loop.

    python benchmarks/train.py --variant="--compile on" > benchmarks/results/train_cpu.txt

In one process, taking turns: an epoch (or its first --images) of main.py's training, and of the loop that people write
by default: torchvision's data set, PIL transforms, a DataLoader with workers, eager float32, layers of torch.nn,
`.item()` after each batch. Same model, batch size and number of images. Each --variant is main.py's training once
more, with further flags.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F

from analysis.tables import plus_minus
from benchmarks.timing import clock, command, machine
from center_loss import CenterLoss
from datasets import Digits, load
from models.lenet_pp import LeNetPP, SoftmaxHead
from training.arguments import parse_arguments
from training.building import build_training
from training.hardware import autocast, choose_device, gpu_name, plan_for
from training.parallel import Group
from training.settings import Plan

BATCH = 128


def wait(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ours(data: Digits, device: torch.device, flags: list[str]) -> tuple[Callable[[int], None], Plan]:
    """Return what trains as main.py does on the first batches of its first epoch, and main.py's plan."""
    request = parse_arguments(["-d", "mnist", "--batch-size", str(BATCH), *flags])
    plan = plan_for(request, data.name, device)
    training, settings = build_training(plan, data, Group(device)), plan.settings
    if settings.batch_size != BATCH or len(training.data.train_labels) != 60_000:
        sys.exit(f"{' '.join(flags)}: every loop trains with the same batches of {BATCH} images of MNIST")

    def train(count: int) -> None:
        autocast(settings.precision, device)  # sets the precision of float32 convolutions for the whole process
        for number, (_, losses) in enumerate(itertools.islice(training.steps(1)[0], count), 1):
            if number % 50 == 0:
                losses.tolist()  # as --print-freq reads them
        wait(device)

    return train, plan


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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    more = "time ours with these flags too"
    parser.add_argument("--images", type=int, default=60_000, metavar="N", help="of an epoch (default: 60000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each (default: 3)")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="workers of the ordinary loop (default: 4)")
    parser.add_argument("--use-cpu", action="store_true")
    parser.add_argument("--data-root", default="data", metavar="DIR")
    parser.add_argument("--variant", action="append", default=[], metavar="FLAGS", help=more)
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
    train, plan = ours(data, device, args.more)
    loops = {"ours": train}
    for flags in args.variant:
        loops[f"ours {flags}"] = ours(data, device, [*args.more, *flags.split()])[0]
    loops["ordinary"] = ordinary(args.data_root, device, args.workers)
    print(command("train.py"))
    print(f"{gpu_name(device)}, on " if device.type == "cuda" else "", machine(), sep="")
    chosen = {"precision": plan.settings.precision, "convolutions": plan.convolutions, "compile": plan.compile}
    print("Ours: " + "; ".join(f"{name} {what} ({plan.why[name]})" for name, what in chosen.items()))
    print(f"Batch {BATCH}, {count * BATCH} images a turn, n = {args.rounds} turns, {args.workers} workers\n")

    first = {name: clock(partial(train, 2)) for name, train in loops.items()}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(args.rounds):
        for name, train in loops.items():
            seconds[name].append(clock(partial(train, count)))
    print("| loop | images/s | seconds an epoch | times the ordinary loop | first two batches |")
    print("|---|---|---|---|---|")
    for name, taken in seconds.items():
        rates = [count * BATCH / s for s in taken]
        epochs = [60_000 / BATCH / count * s for s in taken]
        ratios = [theirs / own for own, theirs in zip(taken, seconds["ordinary"], strict=True)]
        cells = (plus_minus(rates, 0), plus_minus(epochs, 1), plus_minus(ratios, 2), f"{first[name]:.1f} s")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
