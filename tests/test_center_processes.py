"""Centers in two and three processes: the same in all of them, and those of one process where that is promised."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from center_loss import CenterLoss

IGNORED, STEPS = -1, 3
SIZES = {  # of the processes' batches
    2: {"equal": (4, 4), "unequal": (6, 2), "empty": (8, 0)},
    3: {"equal": (3, 3, 3), "unequal": (5, 3, 1), "empty": (9, 0, 0)},
}
COMBINATIONS = list(  # update, reduction, sparse, sizes, ignore
    itertools.product(("gradient", "paper"), ("mean", "sum"), (False, True), SIZES[2], (False, True))
)


def batch(step: int, count: int, ignore: bool) -> tuple[Tensor, Tensor]:
    """Return the global batch of a step; a third of it ignored, unevenly over the processes."""
    generator = torch.Generator().manual_seed(step)
    features = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (count,), generator=generator)
    labels[: count // 3] = IGNORED if ignore else 0
    return features, labels


def make(update: str, reduction: str, sparse: bool, ignore: bool) -> tuple[CenterLoss, torch.optim.Optimizer]:
    torch.manual_seed(0)
    index = IGNORED if ignore else None
    loss = CenterLoss(5, 3, update=update, reduction=reduction, sparse=sparse, ignore_index=index, weight=0.3).double()
    return loss, torch.optim.SGD(loss.parameters(), lr=0.5)


def trained(case: tuple, sizes: tuple[int, ...], rank: int | None) -> list[Tensor]:
    """Return the centers after each step, of one process among several, or of one with all samples; then the mean of
    the processes' losses at the first step, and the gradient of a layer before the loss."""
    update, reduction, sparse, _, ignore = case
    loss, optimizer = make(update, reduction, sparse, ignore)
    called = loss if sparse or rank is None else DistributedDataParallel(loss)
    layer = torch.nn.Linear(3, 3).double()
    network = layer if rank is None else DistributedDataParallel(layer)
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1])) if rank is not None else slice(None)
    found = []
    for step in range(STEPS):
        features, labels = batch(step, sum(sizes), ignore)
        optimizer.zero_grad()
        layer.zero_grad()
        value = called(network(features[own]), labels[own])
        value.backward()
        if step == 0:
            mean, gradient = value.detach().clone(), layer.weight.grad.clone()
        optimizer.step()
        found.append(loss.centers.detach().clone())
        if rank == 0:
            with torch.no_grad():  # evaluation in one process alone does not wait for the others
                loss(features, labels)
    if rank is not None:
        dist.all_reduce(mean)
    return [*found, mean / len(sizes if rank is not None else [1]), gradient]


def work(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.set_num_threads(1)
    found = [trained(case, SIZES[world][case[3]], rank) for case in COMBINATIONS]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads now and then abort a process that leaves in good order ("terminate called …")


@pytest.fixture(scope="module", params=sorted(SIZES))
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list]:
    """The centers of every combination, step and process."""
    world, folder = request.param, Path(tmp_path_factory.mktemp("processes"))
    mp.spawn(work, args=(world, str(folder)), nprocs=world)
    return world, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def is_promised(case: tuple) -> bool:
    """Return whether the docstring promises the centers of one process that has all samples."""
    update, reduction, sparse, sizes, ignore = case
    return update == "paper" or (reduction == "mean" and (sparse or (sizes == "equal" and not ignore)))


@pytest.mark.parametrize("number", range(len(COMBINATIONS)), ids=lambda n: "-".join(map(str, COMBINATIONS[n])))
def test_centers(processes: tuple[int, list], number: int) -> None:
    world, found = processes
    case = COMBINATIONS[number]
    sizes = SIZES[world][case[3]]
    one = trained(case, sizes, None)
    start = make(*case[:3], case[4])[0].centers.detach()
    assert not torch.equal(one[STEPS - 1], start)
    if case[:2] == ("gradient", "sum"):  # with one process a sum moves centers so many times as far
        torch.testing.assert_close(found[0][number][0] - start, (one[0] - start) / world)
    if case[1] == "mean" and case[3] == "equal" and not case[4]:
        torch.testing.assert_close(found[0][number][STEPS:], one[STEPS:], rtol=1e-9, atol=1e-12)
    for step in range(STEPS):
        for rank in range(1, world):
            torch.testing.assert_close(found[rank][number][step], found[0][number][step], rtol=1e-12, atol=1e-12)
        if is_promised(case):
            torch.testing.assert_close(found[0][number][step], one[step], rtol=1e-9, atol=1e-12)
