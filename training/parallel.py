"""Training over several processes, started by torchrun: each computes its part of every batch.

All processes hold the same weights, centers and data and go through the same batches in the same
order. A batch is cut into one part for each process; the features of all parts are gathered, so that
head, losses and centers see the whole batch everywhere, as on one process.
"""

import os  # no "from __future__ import annotations": torch checks the hook's
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Group:
    """The processes of a job; one of size 1 without torchrun."""

    def __init__(self, device: torch.device) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0")) if self.size > 1 else 0
        self.device = device
        if self.size > 1:
            on_gpu = device.type == "cuda"
            dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)

    def agree(self, what: Any) -> Any:
        """Return what the first process has."""
        if self.size == 1:
            return what
        box = [what]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def over_all(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return a function that computes the model's features over all processes, from the first's weights."""
        return model if self.size == 1 else _OverAll(model, self)

    def leave(self) -> None:
        """End the group."""
        if dist.is_initialized():
            dist.destroy_process_group()


class _OverAll:
    """Images (B, …) → features (B, D): each process computes ceil(B / processes) of them."""

    def __init__(self, model: nn.Module, group: Group) -> None:
        self.group = group
        self.model = DistributedDataParallel(model, device_ids=[group.device] if group.device.type == "cuda" else None)
        # A process's gradient is that of the whole batch's loss by its own part: their sum is the gradient.
        self.model.register_comm_hook(None, _sum_gradients)

    def __call__(self, images: Tensor) -> Tensor:
        size, rank = self.group.size, self.group.rank
        share = -(-len(images) // size)
        own = torch.arange(rank * share, (rank + 1) * share, device=images.device)
        features = self.model(images[own.clamp_max(len(images) - 1)])  # (share, D), the last image more than once
        parts = [torch.empty_like(features) for _ in range(size)]
        dist.all_gather(parts, features.detach())
        parts[rank] = features
        return torch.cat(parts)[: len(images)]


def _sum_gradients(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    summed = dist.all_reduce(bucket.buffer(), async_op=True)
    assert summed is not None
    return summed.get_future().then(lambda future: future.value()[0])
