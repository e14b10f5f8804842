"""A training step as one CUDA graph: the GPU goes through all its kernels without being told each.

A step of `Trainer` is some 160 kernels of a few microseconds each; to ask for them one by one takes the host
longer than they run. A graph records them once, with the addresses that they read and write, and is then
replayed by one call. Whatever changes from step to step must therefore lie on the device, at an address that
stays: the epoch's order, shifts and learning rates, and a counter that the step itself moves on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.batches import Batches
from training.trainer import Trainer
from utils import say

WARM_UP = 3  # real steps before the recording: momentum buffers and cuDNN's choices are then there


class GraphedSteps:
    """The steps of a run, on a GPU recorded once and replayed; without one the same steps, one by one.

    Args:
        trainer: learns by `Trainer.step`.
        batches: on the trainer's device.

    Attributes:
        note: is told, once, if the graph cannot be made; the run then goes on without.
    """

    def __init__(self, trainer: Trainer, batches: Batches) -> None:
        self.trainer = trainer
        self.batches = batches
        self.note: Callable[[str], None] = say
        device = batches.labels.device
        self.schedules = [
            _Schedule(trainer.optimizer_model, trainer.scheduler_model, len(batches), device),
            _Schedule(trainer.optimizer_center, trainer.scheduler_center, len(batches), device),
        ]
        self.drawn = [one.to(device) for one in batches.draw(1)]  # order, shifts, warps; a new epoch's are copied here
        self.rows = torch.arange(batches.batch_size, device=device)
        self.losses = torch.zeros(len(batches), 2, device=device)
        self.batch = torch.zeros(1, dtype=torch.int64, device=device)  # of the epoch; the step itself moves it on
        self.graph: torch.cuda.CUDAGraph | None = None
        self.recorded_on: list[int] = []
        self.failed: list[torch.cuda.CUDAGraph] = []  # kept: the memory of a recording that failed still refers to it
        self.stream: torch.cuda.Stream | None = None
        self.steps_before_graph = WARM_UP if device.type == "cuda" else None
        if device.type == "cuda":
            # Nothing can be recorded on the default stream, and all that a graph reads must be ordered with it.
            self.stream = torch.cuda.Stream(device)
            self.stream.wait_stream(torch.cuda.current_stream(device))
            torch.cuda.set_stream(self.stream)

    def epoch(self, epoch: int, count: int) -> Iterator[tuple[float, Tensor]]:
        """Train on the first `count` batches of an epoch; yields what `Trainer.train_epoch` yields."""
        for here, drawn in zip(self.drawn, self.batches.draw(epoch), strict=True):
            here.copy_(drawn)
        first = self.schedules[0].scheduler.last_epoch
        self.batch.zero_()
        if self.graph is not None and self.recorded_on != self._addresses():  # another checkpoint was loaded
            self.graph, self.steps_before_graph = None, WARM_UP
        self.trainer.model.train()
        self.trainer.head.train()
        done = 0
        with contextlib.ExitStack() as stack:
            for schedule in self.schedules:
                schedule.enter(first, count)
                stack.callback(lambda leave=schedule.leave: leave(first + done))  # type: ignore[misc]
            for number in range(count):
                self._advance(len(self.batches.labels) - number * self.batches.batch_size)
                done += 1
                yield self.schedules[0].rates[number][0], self.losses[number]

    def _advance(self, left: int) -> None:
        """Take the next step, with so many images of the epoch left."""
        if left < self.batches.batch_size:
            self._step(left)  # one batch of an epoch: not worth a graph of its own
            return
        if self.steps_before_graph == 0:
            self.steps_before_graph = None
            self._record()
        elif self.steps_before_graph is not None:
            self.steps_before_graph -= 1
        if self.graph is None:
            self._step(self.batches.batch_size)
        else:
            self.graph.replay()

    def _step(self, size: int) -> None:
        """Take one step on `size` images: no number in it comes from the host."""
        part = self.batch * self.batches.batch_size + self.rows[:size]
        images, labels = self.batches.take(*(one.index_select(0, part) for one in self.drawn))
        for schedule in self.schedules:
            schedule.set(self.batch)
        losses = self.trainer.step(images, labels)
        self.losses.index_copy_(0, self.batch, losses.unsqueeze(0))
        self.batch += 1

    def _record(self) -> None:
        """Make the graph; nothing is computed meanwhile."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self._step(self.batches.batch_size)
        except RuntimeError as error:
            self.failed.append(graph)
            cause: BaseException = error  # what went wrong first; the end of the recording then fails as well
            while cause.__context__ is not None:
                cause = cause.__context__
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            self.note(f"Note: the step could not be made a CUDA graph, it goes on kernel by kernel: {reason}")
        else:
            self.graph, self.recorded_on = graph, self._addresses()

    def _addresses(self) -> list[int]:
        """Return where the parameters and what the optimizers keep of them lie."""
        found = []
        for schedule in self.schedules:
            for group in schedule.optimizer.param_groups:
                for parameter in group["params"]:
                    buffer = schedule.optimizer.state.get(parameter, {}).get("momentum_buffer")
                    found += [parameter.data_ptr(), 0 if buffer is None else buffer.data_ptr()]
        return found


class _Schedule:
    """An optimizer's learning rates for an epoch, (batches, parameter groups), on the device.

    Between `enter` and `leave` the optimizer reads its rates from tensors that `set` fills; outside, optimizer and
    scheduler are as they would be had the scheduler made each step, so that checkpoints keep their form.
    """

    def __init__(self, optimizer: Optimizer, scheduler: LambdaLR, batches: int, device: torch.device) -> None:
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.rates: list[list[float]] = []
        self.table = torch.zeros(batches, len(optimizer.param_groups), device=device)
        self.now = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self.usual = [(group["fused"], group["foreach"]) for group in optimizer.param_groups]

    def _rates(self, iteration: int) -> list[float]:
        scheduler = self.scheduler
        return [
            float(base) * factor(iteration)
            for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]

    def enter(self, first: int, count: int) -> None:
        """Take the rates of so many iterations from the `first` on, and let the optimizer read the tensors."""
        self.rates = [self._rates(first + number) for number in range(count)]
        self.table[:count].copy_(torch.tensor(self.rates, dtype=torch.float32))
        for group, now in zip(self.optimizer.param_groups, self.now, strict=True):
            group.update(lr=now, fused=True, foreach=False)  # the fused kernel takes a rate from the device

    def set(self, batch: Tensor) -> None:
        """Fill the tensors with the rates of a batch, (1,), on the device."""
        for now, rate in zip(self.now, self.table.index_select(0, batch)[0].unbind(), strict=True):
            now.copy_(rate)

    def leave(self, iteration: int) -> None:
        """Leave optimizer and scheduler as they are after so many iterations of the run."""
        rates = self._rates(iteration)
        for group, rate, (fused, foreach) in zip(self.optimizer.param_groups, rates, self.usual, strict=True):
            group.update(lr=rate, fused=fused, foreach=foreach)
        self.scheduler.last_epoch = iteration
        self.scheduler._step_count = iteration + 1
        self.scheduler._last_lr = [*rates]
