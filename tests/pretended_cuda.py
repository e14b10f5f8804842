"""A GPU that computes nothing: with it a torch that was built for CUDA can run the CUDA path without a GPU.

In torch's FakeTensorMode tensors have a shape, a dtype and a device, but no contents. Operators check all three like
a GPU, and raise if a tensor on the CPU meets one on ``cuda:0``. `Watch` sees every operator, with the line of this
project that called it. Three parts of torch need a stand-in, because they are written in C++ and ask the driver:
`Module._apply` (it cannot swap fake parameters), `Tensor.numpy`, and `Tensor.backward` (the engine asks for streams;
the stand-in calls each node's own formula in the engine's order).
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

ROOT = Path(__file__).resolve().parent.parent
# Operators that wait until the host has read values from the device:
READERS = set("_local_scalar_dense nonzero masked_select equal _unique2 unique_dim bincount _coalesce".split())


@dataclass(frozen=True)
class Event:
    """An operation that makes the GPU or the host wait, or that a CUDA graph cannot contain."""

    kind: str  # "read", "copy to the device", "mask", "random", "CPU operand"
    operator: str
    where: str  # file:line of the project


def project_line() -> str:
    """Return the innermost running line of this project."""
    frame = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(ROOT) and ".venv" not in file.parts and file != Path(__file__):
            return f"{file.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "torch"


class Watch(TorchDispatchMode):
    """Notes the events on the pretended device."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def kinds(self) -> Counter[str]:
        """Return how often each kind of event was seen."""
        return Counter(event.kind for event in self.events)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat = tree_flatten((args, kwargs))[0]
        tensors = [one for one in flat if isinstance(one, Tensor)]
        name = func.overloadpacket.__name__
        on_device = any(one.device.type == "cuda" for one in tensors)
        if name == "_local_scalar_dense" and not on_device:  # an argument check on the CPU: let it pass
            return {torch.bool: True}.get(args[0].dtype, 0.5 if args[0].dtype.is_floating_point else 1)
        if func.namespace == "prim" or not (on_device or name == "_to_copy" or name.startswith("_fused_")):
            return func(*args, **kwargs)
        if on_device and name in READERS:
            self._note("read", name)
        if name == "_local_scalar_dense":
            return {torch.bool: False}.get(args[0].dtype, 0.5 if args[0].dtype.is_floating_point else 1)
        if name in ("index", "index_put", "index_put_"):
            self._check_index(name, args[1])
        result = None if name.startswith("_fused_") else func(*args, **kwargs)
        results = [one for one in tree_flatten(result)[0] if isinstance(one, Tensor)]
        source, target = (args[1], args[0]) if name == "copy_" else (args[0], results[0] if results else None)
        if name in ("copy_", "_to_copy") and target is not None and source.device != target.device:
            self._note("read" if source.device.type == "cuda" else "copy to the device", name)
        elif on_device and any(one.device.type == "cpu" and one.dim() > 0 for one in tensors):
            self._note("CPU operand", name)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._note("random", name)
        return result

    def _check_index(self, name: str, indices: Any) -> None:
        for index in indices:
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                self._note("mask", name)
            if isinstance(index, Tensor) and index.device.type == "cpu":
                self._note("CPU operand", name)

    def _note(self, kind: str, name: str) -> None:
        self.events.append(Event(kind, name, project_line()))


def _fit(gradient: Tensor, wanted: Any, name: str) -> Tensor:
    """Return a gradient in its node's shape and dtype; like the engine, refuse another device."""
    assert gradient.device == wanted.device, f"{name}: a gradient on {gradient.device}, wanted on {wanted.device}"
    if tuple(gradient.shape) != tuple(wanted.shape):
        gradient = gradient.sum_to_size(tuple(wanted.shape))
    return gradient.to(wanted.dtype)


def _backward(self: Tensor, gradient: Tensor | None = None, *_: object, **__: object) -> None:
    """Call the formula of each node behind a tensor as soon as all its gradients have arrived."""
    waits: Counter[Any] = Counter()
    found, stack = {self.grad_fn}, [self.grad_fn]
    while stack:
        for following, _index in stack.pop().next_functions:  # type: ignore[union-attr]
            if following is not None:
                waits[following] += 1
                if following not in found:
                    found.add(following)
                    stack.append(following)
    arrived: dict[Any, dict[int, Tensor]] = {self.grad_fn: {0: torch.ones_like(self) if gradient is None else gradient}}
    ready: list[Any] = [self.grad_fn]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            given = arrived.pop(node, {})
            if node.name() == "torch::autograd::AccumulateGrad":
                if given:
                    there = node.variable.grad
                    new = _fit(given[0], node.variable, "a parameter")
                    node.variable.grad = new if there is None else there + new
                continue
            wanted = node._input_metadata
            fitted = {index: _fit(one, wanted[index], node.name()) for index, one in given.items()}
            made = node(*[fitted.get(index) for index in range(len(wanted))]) if fitted else ()
            made = made if isinstance(made, tuple) else (made,)
            for position, (following, index) in enumerate(node.next_functions):
                if following is None:
                    continue
                if position < len(made) and made[position] is not None:
                    slots = arrived.setdefault(following, {})
                    slots[index] = slots[index] + made[position] if index in slots else made[position]
                waits[following] -= 1
                if waits[following] == 0:
                    ready.append(following)


def _apply(self: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    for child in self.children():
        child._apply(fn)
    for key, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                self._parameters[key] = nn.Parameter(fn(parameter), parameter.requires_grad)
    for key, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[key] = fn(buffer)
    return self


_NUMPY = Tensor.numpy


def _numpy(self: Tensor, *args: object, **kwargs: object) -> np.ndarray:
    if not isinstance(self, FakeTensor):
        return _NUMPY(self, *args, **kwargs)  # type: ignore[arg-type]
    if self.device.type != "cpu":
        raise TypeError(f"can't convert {self.device} tensor to numpy")
    return np.zeros(tuple(self.shape), str(self.dtype).removeprefix("torch."))


@contextlib.contextmanager
def pretended_cuda() -> Iterator[Watch]:
    """Pretend that ``cuda:0`` is a device; the `Watch` notes the events there."""
    from torch.optim import optimizer
    from torch.utils import _foreach_utils

    watch = Watch()
    with contextlib.ExitStack() as stack:
        for owner, name, stand_in in (
            (torch.cuda, "is_available", lambda: "_subclasses" not in sys._getframe(1).f_code.co_filename),
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "set_device", lambda device: None),
            (torch.cuda, "current_device", lambda: 0),
            (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
            (torch.cuda, "get_device_name", lambda device=None: "a pretended GPU"),
            (torch.cuda, "get_device_properties", lambda device=None: mock.Mock(total_memory=80 << 30)),
            (torch.cuda, "is_current_stream_capturing", lambda: False),
            (nn.Module, "_apply", _apply),
            (Tensor, "numpy", _numpy),
            (Tensor, "backward", _backward),
        ):
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        for kinds in (optimizer._foreach_supported_types, _foreach_utils._foreach_supported_types):
            kinds.append(FakeTensor)
            stack.callback(kinds.remove, FakeTensor)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(watch)
        yield watch
