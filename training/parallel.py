"""Training with several processes, started by torchrun: each computes its part of every batch.

All processes hold the same weights, centers and data and go through the same batches in the same
order. A batch is cut into one part for each process. The features of all parts are gathered, so that
head, losses and centers see the whole batch in every process, as in a run of one process.
"""

import threading  # no "from __future__ import annotations": torch compares the hook's annotations with types
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils import UserError, processes

PATIENCE = timedelta(hours=6)  # for work of the first process alone, such as a download


class Group:
    """The processes of a job; without torchrun a group of size 1. A context manager that ends the group."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = processes()
        self.device = device
        if self.size > 1:
            on_gpu = device.type == "cuda"
            start = partial(
                dist.init_process_group,
                "nccl" if on_gpu else "gloo",
                device_id=device if on_gpu else None,
                timeout=PATIENCE,
            )
            _wait_for(start)

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def agree(self, work: Callable[[], Any]) -> Any:
        """Do work in the first process and return its result in all; a `UserError` is raised in all, too."""
        if self.size == 1:
            return work()
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = work()
            except UserError as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0, device=self.device)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def over_all(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return a function that computes features with all processes; it starts from the first process's weights."""
        return model if self.size == 1 else _OverAll(model, self)


def _wait_for(work: Callable[[], object]) -> None:
    """Do some work in a thread, so that a signal ends the wait for other processes at once."""
    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if errors:
        raise errors[0]


class _OverAll:
    """Images (B, …) → features (B, D): each process computes ceil(B / processes) of them."""

    def __init__(self, model: nn.Module, group: Group) -> None:
        self.group = group
        self.model = DistributedDataParallel(model, device_ids=[group.device] if group.device.type == "cuda" else None)
        # Each process has the gradient of the whole batch's loss through its own part: the sum is the gradient.
        self.model.register_comm_hook(None, _sum_gradients)

    def __call__(self, images: Tensor) -> Tensor:
        size, rank = self.group.size, self.group.rank
        share = -(-len(images) // size)
        own = torch.arange(rank * share, (rank + 1) * share, device=images.device)
        features = self.model(images[own.clamp_max(len(images) - 1)])  # (share, D), padded with the last image
        parts = [torch.empty_like(features) for _ in range(size)]
        dist.all_gather(parts, features.detach())
        parts[rank] = features
        return torch.cat(parts)[: len(images)]


def _sum_gradients(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    summed = dist.all_reduce(bucket.buffer(), async_op=True)
    assert summed is not None
    return summed.get_future().then(lambda future: future.value()[0])
